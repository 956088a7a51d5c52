// Sums over other stages become kernel calls: where the factors of each product stand, and how many
// documents have both.
#include <limits>
#include <vector>

#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {
namespace {

constexpr std::int32_t endless = std::numeric_limits<std::int32_t>::max();

// The rows of one operand at each stage, and its documents.
template <class T>
struct Rows {
  struct Stage {
    const T* row;         // row 0
    std::ptrdiff_t step;  // elements between rows
    std::int32_t alive;
  };
  const Stage* stage;
  bool uniform;  // rows are as far apart at every stage

  const T* at(std::int32_t t, std::int32_t row) const noexcept {
    return stage[t].row + row * stage[t].step;
  }
};

}  // namespace

// One part of an instruction at one stage.
template <class T>
struct Replay<T>::CrossBinder {
  Bound& bound;
  bool forward;
  Rows<T> a, b;
  T* dst;  // row 0 of the destination
  std::ptrdiff_t dst_step;
  std::int32_t lanes;
  bool accumulate;
  T start;                        // if it does not accumulate
  simd::Term<T>* last = nullptr;  // of the sum made last, while a run could continue it
  const Run* before = nullptr;    // the run bound last, by steps or as a fan
  std::int32_t first = 0;         // its first product that is alive

  void bind(const Run& run) {
    if (run.otb == 0 && (b.uniform || run.dtb == 0)) return bind_steps(run);
    if (run.otb != 0 && is_fan(run)) return bind_fan(run);
    for (const Run& each : separate(run)) {
      bind_steps(each);
      before = nullptr;
    }
  }

  // Nothing moves but the stage of the second factors, and all documents reach every one.
  bool is_fan(const Run& run) const noexcept {
    if (visits_the_same(run) && before->o == run.o) return true;
    bool fan = run.dta == 0 && run.dtb == 0 && a.stage[run.ta].alive >= lanes;
    for (std::int32_t i = 0; fan && i < run.o; ++i) {
      const auto& stage = b.stage[run.tb + i * run.otb];
      fan = stage.alive >= lanes && stage.step == b.stage[run.tb].step;
    }
    return fan;
  }

  void bind_fan(const Run& run) {
    T* const to = dst + run.f * dst_step;
    const T* const from = a.at(run.ta, run.fa);
    const std::ptrdiff_t a_step = run.dfa * a.stage[run.ta].step;
    const std::ptrdiff_t b_step = run.dfb * b.stage[run.tb].step;
    const T* const head = b.at(run.tb, run.fb);
    bool side_by_side = lanes == 1 && dst_step == 1 && run.o > 1;
    for (std::int32_t i = 1; side_by_side && i < run.o; ++i) {
      side_by_side = b.at(run.tb + i * run.otb, run.fb + i * run.ofb) == head + i;
    }
    if (side_by_side) return bind_sum(run, to, from, a_step, head, b_step);
    last = nullptr;
    const bool again = visits_the_same(run) && before->o == run.o && before->ofb == run.ofb;
    const T* const* heads = again ? bound.fans.back().b : new_heads(run);
    bound.call_next(forward, CallKind::fan, bound.fans.size());
    bound.fans.push_back({to, dst_step, from, a_step, heads, b_step, head - heads[0], run.k, run.o,
                          lanes, accumulate, start});
    before = &run;
  }

  // One document: its stages lie side by side, so they can be the lanes. A run that repeats the one
  // before it elsewhere is another feature of the same sum.
  void bind_sum(const Run& run, T* to, const T* from, std::ptrdiff_t a_step, const T* head,
                std::ptrdiff_t b_step) {
    if (last != nullptr) {
      simd::Sum<T>& sum = bound.sums.back();
      const std::ptrdiff_t n = sum.features;
      if (n == 1) {
        sum.dst_step = to - sum.dst;
        last->a.f_step = from - last->a.base;
        last->b.f_step = head - last->b.base;
      }
      if (sum.lanes == run.o && last->k == run.k && last->a.k_step == a_step &&
          last->b.k_step == b_step && to == sum.dst + n * sum.dst_step &&
          from == last->a.base + n * last->a.f_step && head == last->b.base + n * last->b.f_step) {
        ++sum.features;
        return;
      }
    }
    last = bound.terms.take(1);
    *last = {{from, 0, a_step, false}, {head, 0, b_step, true}, run.k};
    bound.call(forward, CallKind::sum, bound.sums.size());
    bound.sums.push_back({to, 0, 1, run.o, 1, last, accumulate, 1, start});
  }

  const T* const* new_heads(const Run& run) {
    const T** heads = bound.pointers.take(static_cast<std::size_t>(run.o));
    for (std::int32_t i = 0; i < run.o; ++i) {
      heads[i] = b.at(run.tb + i * run.otb, run.fb + i * run.ofb);
    }
    return heads;
  }

  // One call. What it has in common with the one before it is not made again.
  void bind_steps(const Run& run) {
    last = nullptr;
    simd::Cross<T> cross{};
    if (visits_the_same(run)) {
      cross = bound.crosses.back();
    } else {
      find_alive(run, cross);
    }
    cross.dst = dst + run.f * dst_step;
    cross.dst_step = dst_step;
    cross.outs = run.o;
    cross.lanes = lanes;
    cross.b_next = run.ofb * b.stage[run.tb].step;
    cross.accumulate = accumulate;
    cross.start = start;
    if (cross.a != nullptr && before->dfa == run.dfa && (a.uniform || run.dta == 0)) {
      cross.a_shift += (run.fa - before->fa) * a.stage[run.ta].step;
    } else {
      cross.a = list(a, run.ta, run.dta, run.fa, run.dfa, cross.k);
      cross.a_shift = 0;
    }
    if (cross.b != nullptr && before->dfb == run.dfb && (b.uniform || run.dtb == 0)) {
      cross.b_shift += (run.fb - before->fb) * b.stage[run.tb].step;
    } else {
      cross.b = list(b, run.tb, run.dtb, run.fb, run.dfb, cross.k);
      cross.b_shift = 0;
    }
    bound.call_next(forward, CallKind::cross, bound.crosses.size());
    bound.crosses.push_back(cross);
    before = &run;
  }

  bool visits_the_same(const Run& run) const noexcept {
    return before != nullptr && before->k == run.k && before->ta == run.ta &&
           before->dta == run.dta && before->tb == run.tb && before->dtb == run.dtb &&
           before->otb == run.otb;
  }

  // The products that some document has both factors of: they follow each other, for the stages
  // that documents reach do.
  void find_alive(const Run& run, simd::Cross<T>& cross) {
    std::int32_t* const alive = bound.alive.take(static_cast<std::size_t>(run.k));
    const auto at = [&](std::int32_t k) {
      return std::min(a.stage[run.ta + k * run.dta].alive, b.stage[run.tb + k * run.dtb].alive);
    };
    first = 0;
    while (first < run.k && at(first) <= 0) ++first;
    cross.alive = alive;
    cross.whole = true;
    for (std::int32_t k = first; k < run.k && at(k) > 0; ++k) {
      cross.whole = cross.whole && at(k) >= lanes;
      alive[cross.k++] = at(k);
    }
  }

  const T* const* list(const Rows<T>& rows, std::int32_t t, std::int32_t dt, std::int32_t f,
                       std::int32_t df, std::int32_t count) {
    const T** all = bound.pointers.take(static_cast<std::size_t>(count));
    const auto* stage = rows.stage + t + first * dt;
    f += first * df;
    for (std::int32_t k = 0; k < count; ++k, stage += dt, f += df) {
      all[k] = stage->row + f * stage->step;
    }
    return all;
  }
};

template <class T>
void Replay<T>::bind_cross(const Instruction& instruction, bool forward) {
  const Group& group = program_.groups[static_cast<std::size_t>(instruction.group)];
  const auto stages = static_cast<std::size_t>(program_.stages);
  const auto rows = [&](std::int32_t g, std::vector<typename Rows<T>::Stage>& all) {
    all.assign(stages, {ones_.data(), 0, endless});
    for (std::int32_t s = 0; g >= 0 && s < program_.stages; ++s) {
      const Group& operand = program_.groups[static_cast<std::size_t>(g)];
      const bool here = s >= operand.begin && s < std::min(operand.end, longest_);
      auto& stage = all[static_cast<std::size_t>(s)];
      stage = {nullptr, operand.ragged() ? 0 : row_step(g, s), 0};
      if (here) stage = {destination(g, s, 0), row_step(g, s), width_[static_cast<std::size_t>(s)]};
    }
    const bool ragged = g >= 0 && program_.groups[static_cast<std::size_t>(g)].ragged();
    return Rows<T>{all.data(), !ragged};
  };
  std::vector<typename Rows<T>::Stage> a_stages, b_stages;
  for (const CrossPart& part : instruction.parts) {
    const Rows<T> a = rows(part.a_group, a_stages), b = rows(part.b_group, b_stages);
    for (std::int32_t s = group.begin; s < std::min(group.end, longest_); ++s) {
      const auto at = static_cast<std::size_t>(s - group.begin);
      CrossBinder binder{*bound_,
                         forward,
                         a,
                         b,
                         destination(instruction.group, s, 0),
                         row_step(instruction.group, s),
                         width_[static_cast<std::size_t>(s)],
                         part.accumulate,
                         start_of<T>(instruction)};
      for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1]; ++i) binder.bind(part.runs[i]);
    }
  }
}

template void Replay<double>::bind_cross(const Instruction&, bool);
template void Replay<float>::bind_cross(const Instruction&, bool);

}  // namespace nanochat::program

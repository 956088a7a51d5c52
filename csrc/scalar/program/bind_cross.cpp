// Sums over other stages become kernel calls: where the factors of each product stand, and how many
// documents have both.
#include <limits>
#include <vector>

#include "scalar/program/bound.hpp"

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
  bool accumulate, alone;         // alone: the instruction has no other part
  simd::Term<T>* last = nullptr;  // of the sum made last, while a run could continue it

  const Run* before = nullptr;  // the run bound last, by steps or as a fan

  T start(const Run& run) const noexcept { return alone && run.k == 1 ? -T{0} : T{0}; }

  void bind(const Run& run) {
    if (run.otb == 0) return bind_steps(run);
    if (is_fan(run)) return bind_fan(run);
    for (const Run& each : separate(run)) {
      bind_steps(each);
      before = nullptr;
    }
  }

  // Nothing moves but the stage of the second factors, and all documents reach every one.
  bool is_fan(const Run& run) const noexcept {
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
    const T* const* heads = repeats_before(run) ? bound.fans.back().b : new_heads(run);
    bound.call_next(forward, CallKind::fan, bound.fans.size());
    bound.fans.push_back({to, dst_step, from, a_step, heads, b_step, head - heads[0], run.k, run.o,
                          lanes, accumulate, start(run)});
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
    bound.sums.push_back({to, 0, 1, run.o, 1, last, accumulate, 1});
  }

  const T* const* new_heads(const Run& run) {
    const T** heads = bound.pointers.take(static_cast<std::size_t>(run.o));
    for (std::int32_t i = 0; i < run.o; ++i) {
      heads[i] = b.at(run.tb + i * run.otb, run.fb + i * run.ofb);
    }
    return heads;
  }

  // Does the run visit the stages of the one before it, its rows all shifted by the same numbers?
  bool repeats_before(const Run& run) const noexcept {
    if (before == nullptr) return false;
    const Run& x = *before;
    return x.o == run.o && x.k == run.k && x.ta == run.ta && x.dta == run.dta && x.tb == run.tb &&
           x.dtb == run.dtb && x.dfa == run.dfa && x.dfb == run.dfb && x.ofb == run.ofb &&
           x.otb == run.otb && (a.uniform || run.dta == 0) && (b.uniform || run.dtb == 0);
  }

  void bind_steps(const Run& run) {
    last = nullptr;
    if (repeats_before(run)) {
      simd::Cross<T> shifted = bound.crosses.back();
      const std::ptrdiff_t rows_a = run.fa - before->fa, rows_b = run.fb - before->fb;
      shifted.dst = dst + run.f * dst_step;
      shifted.a_shift += rows_a * a.stage[run.ta].step;
      shifted.b_shift += rows_b * b.stage[run.tb].step;
      bound.call_next(forward, CallKind::cross, bound.crosses.size());
      bound.crosses.push_back(shifted);
      before = &run;
      return;
    }
    simd::Step<T>* const steps = bound.steps.take(static_cast<std::size_t>(run.k));
    std::int32_t count = 0;
    bool whole = true;
    const auto* sa = a.stage + run.ta;
    const auto* sb = b.stage + run.tb;
    std::int32_t fa = run.fa, fb = run.fb;
    for (std::int32_t k = run.k; k > 0; --k) {
      const std::int32_t alive = std::min(sa->alive, sb->alive);
      if (alive > 0) {
        whole = whole && alive >= lanes;
        steps[count++] = {sa->row + fa * sa->step, sb->row + fb * sb->step, run.ofb * sb->step,
                          alive};
      }
      sa += run.dta;
      sb += run.dtb;
      fa += run.dfa;
      fb += run.dfb;
    }
    bound.call_next(forward, CallKind::cross, bound.crosses.size());
    bound.crosses.push_back({dst + run.f * dst_step, dst_step, steps, count, run.o, lanes, 0, 0,
                             whole, accumulate, start(run)});
    before = &run;
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
      stage = {nullptr, 0, 0};
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
                         instruction.parts.size() == 1};
      for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1]; ++i) binder.bind(part.runs[i]);
    }
  }
}

template void Replay<double>::bind_cross(const Instruction&, bool);
template void Replay<float>::bind_cross(const Instruction&, bool);

}  // namespace nanochat::program

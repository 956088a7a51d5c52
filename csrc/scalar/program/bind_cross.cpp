// Sums over other stages become kernel calls: where the factors of each product stand, and how many
// documents have both.
#include <limits>

#include "scalar/program/bound.hpp"

namespace nanochat::program {
namespace {

constexpr std::int32_t endless = std::numeric_limits<std::int32_t>::max();

// Where a stage's rows of one operand are. No group stands for the number 1.
template <class T>
struct Rows {
  const T* base;
  const Group* group = nullptr;
  const Layout* layout = nullptr;
  const std::int32_t* width = nullptr;
  const std::int32_t* offset = nullptr;

  std::int32_t alive(std::int32_t stage) const noexcept {
    return group == nullptr ? endless : width[stage];
  }
  std::ptrdiff_t step(std::int32_t stage) const noexcept {
    if (group == nullptr) return 0;
    if (!group->ragged()) return layout->step;
    return layout->steps[static_cast<std::size_t>(stage - group->begin)];
  }
  const T* at(std::int32_t stage, std::int32_t row) const noexcept {
    if (group == nullptr) return base;
    if (!group->ragged()) return base + offset[stage] - offset[group->begin] + row * layout->step;
    const auto block = static_cast<std::size_t>(stage - group->begin);
    return base + layout->block[block] + row * layout->steps[block];
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

  T start(const Run& run) const noexcept { return alone && run.k == 1 ? -T{0} : T{0}; }

  void bind(const Run& run) {
    if (run.otb == 0) return bind_steps(run);
    if (is_fan(run)) return bind_fan(run);
    for (const Run& each : separate(run)) bind_steps(each);
  }

  // Nothing moves but the stage of the second factors, and all documents reach every one.
  bool is_fan(const Run& run) const noexcept {
    bool fan = run.dta == 0 && run.dtb == 0 && a.alive(run.ta) >= lanes;
    for (std::int32_t i = 0; fan && i < run.o; ++i) {
      const std::int32_t stage = run.tb + i * run.otb;
      fan = b.alive(stage) >= lanes && b.step(stage) == b.step(run.tb);
    }
    return fan;
  }

  void bind_fan(const Run& run) {
    T* const to = dst + run.f * dst_step;
    const T* const from = a.at(run.ta, run.fa);
    const std::ptrdiff_t a_step = run.dfa * a.step(run.ta);
    const std::ptrdiff_t b_step = run.dfb * b.step(run.tb);
    const T** heads = bound.pointers.take(static_cast<std::size_t>(run.o));
    bool side_by_side = lanes == 1 && dst_step == 1 && run.o > 1;
    for (std::int32_t i = 0; i < run.o; ++i) {
      heads[i] = b.at(run.tb + i * run.otb, run.fb + i * run.ofb);
      side_by_side = side_by_side && heads[i] == heads[0] + i;
    }
    if (side_by_side) return bind_sum(run, to, from, a_step, heads[0], b_step);
    last = nullptr;
    bound.call_next(forward, CallKind::fan, bound.fans.size());
    bound.fans.push_back(
        {to, dst_step, from, a_step, heads, b_step, run.k, run.o, lanes, accumulate, start(run)});
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

  void bind_steps(const Run& run) {
    last = nullptr;
    simd::Step<T>* const steps = bound.steps.take(static_cast<std::size_t>(run.k));
    std::int32_t count = 0;
    bool whole = true;
    for (std::int32_t k = 0; k < run.k; ++k) {
      const std::int32_t ta = run.ta + k * run.dta, tb = run.tb + k * run.dtb;
      const std::int32_t alive = std::min(a.alive(ta), b.alive(tb));
      if (alive <= 0) continue;
      whole = whole && alive >= lanes;
      steps[count++] = {a.at(ta, run.fa + k * run.dfa), b.at(tb, run.fb + k * run.dfb),
                        run.ofb * b.step(tb), alive};
    }
    bound.call_next(forward, CallKind::cross, bound.crosses.size());
    bound.crosses.push_back({dst + run.f * dst_step, dst_step, steps, count, run.o, lanes, whole,
                             accumulate, start(run)});
  }
};

template <class T>
void Replay<T>::bind_cross(const Instruction& instruction, bool forward) {
  const Group& group = program_.groups[static_cast<std::size_t>(instruction.group)];
  const auto rows = [&](std::int32_t g) -> Rows<T> {
    if (g < 0) return {ones_.data()};
    const auto at = static_cast<std::size_t>(g);
    return {rows_.data() + bound_->layout[at].base, &program_.groups[at], &bound_->layout[at],
            width_.data(), offset_.data()};
  };
  for (const CrossPart& part : instruction.parts) {
    const Rows<T> a = rows(part.a_group), b = rows(part.b_group);
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

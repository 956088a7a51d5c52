// Sums over other stages become runs whose stages and rows advance by steps: attention.
//
// Needs: lists of a group all of whose factors are rows, some at other stages. Makes of each
// destination's products, greedily, runs with constant steps, and hands these out to parts, each on
// two arrays and with at most one run of a destination; destinations that share factors then become
// one run (share_factors.cpp). Right because a run takes only the products that its steps foretell,
// the runs of a destination stand in rising parts, in their order, and parts add to zeros, unless
// the first reaches every destination: then it writes.
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

std::int32_t group_at(const Place& at) { return at.space == Space::rows ? at.group : -1; }

// The run that `at` opens for destination f of stage `here`; leaves `at` behind its last product.
Run take_run(const Pair*& at, const Pair* end, std::int32_t f, std::int32_t here) {
  const auto stage_of = [here](const Place& place) {
    return place.stage == own ? here : place.stage;
  };
  const Pair& head = *at++;
  Run run{f, 1, 1, head[0].index, 0, stage_of(head[0]), 0, head[1].index, 0, stage_of(head[1]), 0};
  if (at == end) return run;
  const Pair& second = *at;
  run.dfa = second[0].index - run.fa;
  run.dfb = second[1].index - run.fb;
  run.dta = stage_of(second[0]) - run.ta;
  run.dtb = stage_of(second[1]) - run.tb;
  const auto fits = [&](const Pair& next) {
    return group_at(next[0]) == group_at(head[0]) && group_at(next[1]) == group_at(head[1]) &&
           next[0].index == run.fa + run.k * run.dfa && next[1].index == run.fb + run.k * run.dfb &&
           stage_of(next[0]) == run.ta + run.k * run.dta &&
           stage_of(next[1]) == run.tb + run.k * run.dtb;
  };
  while (at != end && fits(*at)) {
    ++run.k;
    ++at;
  }
  if (run.k == 1) run.dfa = run.dfb = run.dta = run.dtb = 0;
  return run;
}

// The stages before `end` that have no beginning yet begin, and end, behind the runs so far.
void begin_stages(CrossPart& part, std::size_t end) {
  while (part.begin.size() < end) {
    part.begin.push_back(static_cast<std::uint32_t>(part.runs.size()));
  }
}

// From part `nth` on the first that meets these arrays and has no later stage; a new one if none.
std::size_t part_of(std::vector<CrossPart>& parts, std::size_t nth, std::int32_t a, std::int32_t b,
                    std::size_t stage) {
  for (std::size_t i = nth; i < parts.size(); ++i) {
    const CrossPart& part = parts[i];
    if (part.a_group == a && part.b_group == b && part.begin.size() <= stage + 1) return i;
  }
  parts.push_back({a, b, true, {}, {}});
  return parts.size() - 1;
}

}  // namespace

void Lowering::lower_cross(const std::vector<Lists>& all) {
  Instruction cross{};
  cross.op = Op::cross;
  cross.from_zero = node(members().front()).from_zero;
  for (std::size_t s = 0; s < all.size(); ++s) {
    const Lists& lists = all[s];
    const std::int32_t here = group().begin + static_cast<std::int32_t>(s);
    for (std::int32_t f = 0; f < lists.features(); ++f) {
      std::size_t nth = 0;
      const Pair* at = lists.pairs.data() + lists.start[static_cast<std::size_t>(f)];
      const Pair* end = lists.pairs.data() + lists.start[static_cast<std::size_t>(f) + 1];
      while (at != end) {
        const std::int32_t a = group_at((*at)[0]), b = group_at((*at)[1]);
        const std::size_t found = part_of(cross.parts, nth, a, b, s);
        nth = found + 1;
        CrossPart& part = cross.parts[found];
        begin_stages(part, s + 1);
        part.runs.push_back(take_run(at, end, f, here));
      }
    }
  }
  const auto stages = static_cast<std::size_t>(group().end - group().begin);
  for (CrossPart& part : cross.parts) begin_stages(part, stages + 1);
  for (CrossPart& part : cross.parts) share_factors(part);
  // The first part writes when it reaches every destination; else all add to zeros.
  std::size_t written = 0;
  for (const Run& run : cross.parts.front().runs) written += static_cast<std::size_t>(run.o);
  if (written == members().size()) {
    cross.parts.front().accumulate = false;
  } else {
    Instruction zero{};
    zero.op = Op::sum;
    zero.whole = true;
    zero.from_zero = cross.from_zero;
    emit(std::move(zero));
  }
  emit(std::move(cross));
}

}  // namespace nanochat::program

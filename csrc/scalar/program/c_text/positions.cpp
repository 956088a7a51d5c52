// Instructions as nests of plain loops, position by position, for one document: the lanes of a
// position are one. What each operation means is simd.hpp's and moves.cpp's.
#include <algorithm>

#include "scalar/program/c_text/nests.hpp"

namespace nanochat::program::c {
namespace {

using Place = Linear<std::int32_t>;
using Factor = Operand<std::int32_t>;

// The loops of an instruction, outermost first; those of one run are left out.
struct Counts {
  std::vector<std::int32_t> kept;
  bool outer = false, features = false;
  Counts(std::int32_t outer_count, std::int32_t feature_count)
      : outer(outer_count > 1), features(feature_count > 1) {
    if (outer) kept.push_back(outer_count);
    if (features) kept.push_back(feature_count);
  }
  Place place(std::int32_t base, std::int32_t o_step, std::int32_t f_step,
              std::int32_t k_step) const {
    Place made{base, {}, k_step};
    if (outer) made.step.push_back(o_step);
    if (features) made.step.push_back(f_step);
    return made;
  }
  Place still(std::int32_t base) const { return place(base, 0, 0, 0); }
};

Where where_of(Space space) {
  switch (space) {
    case Space::unit:
      return Where::unit;
    case Space::rows:
      return Where::rows;
    case Space::number:
      return Where::number;
    case Space::parameter:
      return Where::parameter;
    default:
      return Where::constant;
  }
}

Factor factor_of(const Ref& ref, std::int32_t stage, const Counts& counts) {
  const bool rows = ref.space == Space::rows;
  return {where_of(ref.space),
          ref.group,
          0,
          counts.still(rows ? (ref.stage == own ? stage : ref.stage) : 0),
          counts.place(ref.index, ref.o_step, ref.f_step, ref.k_step),
          counts.still(0)};
}

Factor destination(const Group& group, std::int32_t g, std::int32_t stage, Place row,
                   const Counts& counts) {
  return {group.is_shared() ? Where::number : Where::rows,
          g,
          0,
          counts.still(stage),
          std::move(row),
          counts.still(0)};
}

Ref moving(Ref ref) {
  if (ref.space == Space::rows) ref.f_step = 1;
  return ref;
}

Nest nest_of(const Group& group, const Instruction& instruction, std::int32_t stage) {
  Nest nest;
  nest.body = instruction.op == Op::map       ? Body::map
              : instruction.op == Op::largest ? Body::largest
                                              : Body::sum;
  if (nest.body == Body::map) {
    nest.kind = instruction.kind;
    nest.constant = instruction.constant;
  }
  const bool whole = instruction.whole;
  const std::int32_t features = !whole              ? instruction.features
                                : group.is_shared() ? group.features
                                                    : group.features_at(stage);
  const Counts counts(whole ? 1 : instruction.outer, features);
  nest.counts = counts.kept;
  nest.needs = counts.still(instruction.width == own ? stage : instruction.width);
  nest.dst = destination(group, instruction.group, stage,
                         counts.place(whole ? 0 : instruction.row, features, 1, 0), counts);
  nest.accumulate = instruction.accumulate;
  for (const Term& term : instruction.terms) {
    nest.terms.push_back({term.k, factor_of(whole ? moving(term.a) : term.a, stage, counts),
                          factor_of(whole ? moving(term.b) : term.b, stage, counts), false});
  }
  nest.from_zero = instruction.from_zero;
  return nest;
}

// One term whose single operand is at hand.
Nest copy_of(Factor to, Factor from, const Counts& counts, std::int32_t stage) {
  Nest nest;
  nest.counts = counts.kept;
  nest.needs = counts.still(stage);
  nest.dst = std::move(to);
  const Factor unit{Where::unit, 0, 0, counts.still(0), counts.still(0), counts.still(0)};
  nest.terms.push_back({1, std::move(from), unit, false});
  return nest;
}

Nest move_of(const Instruction& instruction, const Move& move) {
  const Counts counts(1, move.count);
  const Place along = counts.place(move.index, 0, 1, 0);
  const Place still = counts.still(0);
  const Place slot = counts.still(std::max(move.slot, 0));
  const Place stage = counts.still(move.stage);
  Factor to{Where::rows, instruction.group, 0, stage, counts.place(move.row, 0, 1, 0), still};
  Factor from{Where::parameter, 0, 0, still, along, slot};
  bool accumulate = false;
  switch (instruction.op) {
    case Op::gather:
      from.stride = move.stride;
      break;
    case Op::fill:
      if (move.constant) from.where = Where::constant;
      break;
    case Op::input:
      from.where = Where::input;
      break;
    case Op::seed:
      from.where = Where::scale;
      break;
    case Op::one_hot:
      from.where = instruction.negated ? Where::miss : Where::hit;
      from.stride = 1;
      break;
    case Op::select:
      from = {Where::rows, move.group, 1, stage, counts.place(move.index, 0, 0, 0), slot};
      break;
    default:  // scatter
      from = {Where::rows, move.group, 0, stage, to.index, still};
      to = {Where::gradient, 0, move.stride, still, along, slot};
      accumulate = true;
      break;
  }
  Nest nest = copy_of(std::move(to), std::move(from), counts, move.stage);
  nest.accumulate = accumulate;
  return nest;
}

}  // namespace

std::vector<Position> positions_of(const VectorProgram& program, const Instruction& instruction) {
  const Group& group = program.groups[static_cast<std::size_t>(instruction.group)];
  std::vector<Position> positions;
  if (group.is_shared() || instruction.stage != own) {
    const std::int32_t stage = group.is_shared() ? shared : instruction.stage;
    positions.push_back({stage, {nest_of(group, instruction, stage)}});
    return positions;
  }
  for (std::int32_t s = group.begin; s < group.end; ++s) {
    if (instruction.whole && group.features_at(s) == 0) continue;
    positions.push_back({s, {nest_of(group, instruction, s)}});
  }
  return positions;
}

std::vector<Position> positions_of(const Group& group, std::int32_t g, const CrossPart& part,
                                   bool from_zero) {
  const Counts counts(1, 1);
  const auto side = [&](std::int32_t from, std::int32_t t, std::int32_t dt, std::int32_t f,
                        std::int32_t df) -> Factor {
    if (from < 0) return {Where::unit, 0, 0, {}, {}, {}};
    return {Where::rows, from, 0, {t, {}, dt}, {f, {}, df}, {}};
  };
  std::vector<Position> positions;
  bool ends = false;
  for (std::int32_t s = group.begin; s < group.end; ++s) {
    const auto at = static_cast<std::size_t>(s - group.begin);
    Position position{s, {}};
    std::vector<Run> runs;
    for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1]; ++i) {
      for (const Run& run : separate(part.runs[i])) runs.push_back(run);
    }
    for (const Run& run : runs) {
      const auto last = [&](std::int32_t from, std::int32_t t, std::int32_t dt) {
        return from < 0 ? 0 : std::max(t, t + (run.k - 1) * dt);
      };
      ends = ends ||
             std::max(last(part.a_group, run.ta, run.dta), last(part.b_group, run.tb, run.dtb)) > s;
      Nest nest;
      nest.needs = counts.still(s);
      nest.dst = destination(group, g, s, {run.f, {}, 0}, counts);
      nest.accumulate = part.accumulate;
      nest.from_zero = from_zero;
      nest.terms.push_back({run.k, side(part.a_group, run.ta, run.dta, run.fa, run.dfa),
                            side(part.b_group, run.tb, run.dtb, run.fb, run.dfb), false});
      position.nests.push_back(std::move(nest));
    }
    if (!position.nests.empty()) positions.push_back(std::move(position));
  }
  for (Position& position : positions) {
    for (Nest& nest : position.nests) nest.terms.front().ends = ends;
  }
  return positions;
}

std::vector<Position> moves_of(const Instruction& instruction) {
  std::vector<Position> positions;
  for (const Move& move : instruction.moves) {
    if (positions.empty() || positions.back().stage != move.stage) {
      positions.push_back({move.stage, {}});
    }
    positions.back().nests.push_back(move_of(instruction, move));
  }
  return positions;
}

Position odds_of(const std::vector<Odd>& odds) {
  const Counts counts(1, 1);
  Position all{shared, {}};
  for (const Odd& odd : odds) {
    const Factor to{
        odd.group < 0 ? Where::gradient : Where::number, odd.group, 0, {}, {odd.index, {}, 0}, {}};
    Nest nest = copy_of(to, factor_of(odd.a, odd.stage, counts), counts, odd.stage);
    nest.terms.front().b = factor_of(odd.b, odd.stage, counts);
    nest.accumulate = true;
    all.nests.push_back(std::move(nest));
  }
  return all;
}

Position outputs_of(const VectorProgram& program) {
  const Counts counts(1, 1);
  Position all{shared, {}};
  for (std::size_t s = 0; s < program.outputs.size(); ++s) {
    const auto stage = static_cast<std::int32_t>(s);
    all.nests.push_back(copy_of({Where::total, 0, 0, {}, {}, {}},
                                factor_of(program.outputs[s], stage, counts), counts, stage));
    all.nests.back().accumulate = true;
  }
  return all;
}

}  // namespace nanochat::program::c

// Instructions as nests of plain loops per position, for one document: a position has one lane. The
// meaning of each operation is that of simd.hpp and moves.cpp.
#include <algorithm>
#include <utility>

#include "scalar/program/c_text/nests.hpp"

namespace nanochat::program::c {
namespace {

using Index = Linear<std::int32_t>;
using Factor = Operand<std::int32_t>;

// The loops of an instruction, outermost first. Loops with one iteration are omitted.
struct Counts {
  std::vector<std::int32_t> kept;
  bool blocks = false, features = false;
  Counts(std::int32_t block_count, std::int32_t feature_count)
      : blocks(block_count > 1), features(feature_count > 1) {
    if (blocks) kept.push_back(block_count);
    if (features) kept.push_back(feature_count);
  }
  Index linear(std::int32_t base, std::int32_t o_step, std::int32_t f_step,
               std::int32_t k_step) const {
    Index index{base, {}, k_step};
    if (blocks) index.step.push_back(o_step);
    if (features) index.step.push_back(f_step);
    return index;
  }
  Index still(std::int32_t base) const { return linear(base, 0, 0, 0); }
};

Factor factor_of(const Ref& ref, std::int32_t position, const Counts& counts) {
  const bool rows = ref.space == AddressSpace::rows;
  return {operand_kind(ref.space),
          ref.group,
          0,
          counts.still(rows ? (ref.position == own ? position : ref.position) : 0),
          counts.linear(ref.index, ref.o_step, ref.f_step, ref.k_step),
          counts.still(0)};
}

Factor row_of(const Group& group, std::int32_t g, std::int32_t position, Index row,
              const Counts& counts) {
  return {group.is_shared() ? OperandKind::shared_number : OperandKind::rows,
          g,
          0,
          counts.still(position),
          std::move(row),
          counts.still(0)};
}

// In an instruction for a whole group, row f of an operand belongs to row f of the group.
Ref along(Ref ref, const Destination& to) {
  if (to.whole && ref.space == AddressSpace::rows) ref.f_step = 1;
  return ref;
}

// The nests of an instruction with a destination; `fill(nest, position, counts)` adds the body.
template <class Fill>
std::vector<PositionNests> nests_of_destination(const VectorProgram& program, const Destination& to,
                                                Fill&& fill) {
  const Group& group = program.group(to.group);
  const auto nest_at = [&](std::int32_t position) {
    const std::int32_t features = !to.whole           ? to.features
                                  : group.is_shared() ? group.features
                                                      : group.features_at(position);
    const Counts counts(to.whole ? 1 : to.blocks, features);
    FixedNest nest;
    nest.counts = counts.kept;
    nest.needs = counts.still(position);
    nest.dst = row_of(group, to.group, position,
                      counts.linear(to.whole ? 0 : to.row, features, 1, 0), counts);
    fill(nest, position, counts);
    return nest;
  };
  if (group.is_shared()) return {{shared, {nest_at(shared)}}};
  if (to.position != own) return {{to.position, {nest_at(to.position)}}};
  std::vector<PositionNests> positions;
  for (std::int32_t p = group.begin; p < group.end; ++p) {
    if (!to.whole || group.features_at(p) > 0) positions.push_back({p, {nest_at(p)}});
  }
  return positions;
}

// A nest that copies one operand.
FixedNest copy_of(Factor to, Factor from, const Counts& counts, std::int32_t position) {
  FixedNest nest;
  nest.counts = counts.kept;
  nest.needs = counts.still(position);
  nest.dst = std::move(to);
  const Factor unit{OperandKind::unit, 0, 0, counts.still(0), counts.still(0), counts.still(0)};
  nest.products.push_back({1, std::move(from), unit, false});
  return nest;
}

// The nests of moves, by position; `nest_of(move)` makes the nest of one move.
template <class Move, class NestOf>
std::vector<PositionNests> nests_of_moves(const std::vector<Move>& moves, NestOf&& nest_of) {
  std::vector<PositionNests> positions;
  for (const Move& move : moves) {
    if (positions.empty() || positions.back().position != move.position) {
      positions.push_back({move.position, {}});
    }
    positions.back().nests.push_back(nest_of(move));
  }
  return positions;
}

// The nests of moves that fill rows of a group; `source` gets the index of the first row.
template <class Move, class Source>
std::vector<PositionNests> nests_of_rows(std::int32_t group, const std::vector<Move>& moves,
                                         Source&& source) {
  return nests_of_moves(moves, [&](const Move& move) {
    const Counts counts(1, move.count);
    Factor to{
        OperandKind::rows, group, 0, counts.still(move.position), counts.linear(move.row, 0, 1, 0),
        counts.still(0)};
    Factor from{OperandKind::unit, 0, 0, counts.still(0), counts.linear(move.index, 0, 1, 0),
                counts.still(0)};
    source(move, from, counts);
    return copy_of(std::move(to), std::move(from), counts, move.position);
  });
}

std::int32_t last_position(const CrossOperand& operand, std::int32_t products) {
  return std::max(operand.position, operand.position + (products - 1) * operand.position_step);
}

Factor cross_factor(std::int32_t group, const CrossOperand& operand) {
  if (group == no_group) return {OperandKind::unit, 0, 0, {}, {}, {}};
  return {OperandKind::rows,
          group,
          0,
          {operand.position, {}, operand.position_step},
          {operand.row, {}, operand.row_step},
          {}};
}

// Does a run read a row at a later position than that of its destination?
bool reads_later(const CrossPart& part, const CrossRun& run, std::int32_t position) {
  return (part.a_group != no_group && last_position(run.a, run.products) > position) ||
         (part.b_group != no_group && last_position(run.b, run.products) > position);
}

}  // namespace

OperandKind operand_kind(AddressSpace space) {
  switch (space) {
    case AddressSpace::unit:
      return OperandKind::unit;
    case AddressSpace::rows:
      return OperandKind::rows;
    case AddressSpace::shared_number:
      return OperandKind::shared_number;
    case AddressSpace::parameter:
      return OperandKind::parameter;
    case AddressSpace::constant:
      return OperandKind::constant;
  }
  return OperandKind::unit;
}

std::vector<PositionNests> nests_of(const VectorProgram& program, const MapRows& map) {
  return nests_of_destination(
      program, map.to, [&](FixedNest& nest, std::int32_t position, const Counts& counts) {
        nest.body = Body::map;
        nest.kind = map.kind;
        nest.constant = map.constant;
        nest.products.push_back({1, factor_of(along(map.operand, map.to), position, counts),
                                 factor_of(Ref{}, position, counts), false});
      });
}

std::vector<PositionNests> nests_of(const VectorProgram& program, const LargestRow& largest) {
  return nests_of_destination(
      program, largest.to, [&](FixedNest& nest, std::int32_t position, const Counts& counts) {
        nest.body = Body::largest;
        nest.products.push_back({largest.count, factor_of(largest.operand, position, counts),
                                 factor_of(Ref{}, position, counts), false});
      });
}

std::vector<PositionNests> nests_of(const VectorProgram& program, const SumOfProducts& sum) {
  return nests_of_destination(
      program, sum.to, [&](FixedNest& nest, std::int32_t position, const Counts& counts) {
        if (sum.width != own) nest.needs = counts.still(sum.width);
        nest.accumulate = sum.accumulate;
        nest.from_zero = sum.from_zero;
        for (const ProductRun& run : sum.products) {
          nest.products.push_back({run.count, factor_of(along(run.a, sum.to), position, counts),
                                   factor_of(along(run.b, sum.to), position, counts), false});
        }
      });
}

std::vector<PositionNests> nests_of(const VectorProgram& program, const CrossSum& cross,
                                    const CrossPart& part) {
  const Group& group = program.group(cross.group);
  const Counts counts(1, 1);
  std::vector<PositionNests> positions;
  bool ends = false;
  for (std::int32_t p = group.begin; p < group.end; ++p) {
    const auto at = static_cast<std::size_t>(p - group.begin);
    PositionNests nests{p, {}};
    for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1]; ++i) {
      for (const CrossRun& run : separate(part.runs[i])) {
        ends = ends || reads_later(part, run, p);
        FixedNest nest;
        nest.needs = counts.still(p);
        nest.dst = row_of(group, cross.group, p, {run.row, {}, 0}, counts);
        nest.accumulate = part.accumulate;
        nest.from_zero = cross.from_zero;
        nest.products.push_back({run.products, cross_factor(part.a_group, run.a),
                                 cross_factor(part.b_group, run.b), false});
        nests.nests.push_back(std::move(nest));
      }
    }
    if (!nests.nests.empty()) positions.push_back(std::move(nests));
  }
  for (PositionNests& position : positions) {
    for (FixedNest& nest : position.nests) nest.products.front().ends = ends;
  }
  return positions;
}

std::vector<PositionNests> nests_of(const GatherRows& gather) {
  return nests_of_rows(gather.group, gather.moves,
                       [](const GatherMove& move, Factor& from, const Counts& counts) {
                         from.kind = OperandKind::parameter;
                         from.stride = move.stride;
                         from.slot = counts.still(move.slot);
                       });
}

std::vector<PositionNests> nests_of(const FillRows& fill) {
  return nests_of_rows(fill.group, fill.moves,
                       [](const FillMove& move, Factor& from, const Counts&) {
                         from.kind = move.constant ? OperandKind::constant : OperandKind::parameter;
                       });
}

std::vector<PositionNests> nests_of(const InputRows& input) {
  return nests_of_rows(input.group, input.moves, [](const InputMove&, Factor& from, const Counts&) {
    from.kind = OperandKind::input;
  });
}

std::vector<PositionNests> nests_of(const SeedRows& seed) {
  return nests_of_rows(seed.group, seed.moves, [](const SeedMove&, Factor& from, const Counts&) {
    from.kind = OperandKind::scale;
  });
}

std::vector<PositionNests> nests_of(const OneHotRows& one_hot) {
  return nests_of_rows(one_hot.group, one_hot.moves,
                       [&](const OneHotMove& move, Factor& from, const Counts& counts) {
                         from.kind = one_hot.complement ? OperandKind::miss : OperandKind::hit;
                         from.stride = 1;
                         from.slot = counts.still(move.slot);
                       });
}

std::vector<PositionNests> nests_of(const SelectRows& select) {
  const Counts counts(1, 1);
  return nests_of_moves(select.moves, [&](const SelectMove& move) {
    const Factor to{OperandKind::rows,           select.group,           0,
                    counts.still(move.position), counts.still(move.row), counts.still(0)};
    const Factor from{OperandKind::rows,
                      move.candidate_group,
                      1,
                      counts.still(move.position),
                      counts.still(move.first_candidate),
                      counts.still(move.slot)};
    return copy_of(to, from, counts, move.position);
  });
}

std::vector<PositionNests> nests_of(const ScatterRows& scatter) {
  return nests_of_moves(scatter.moves, [](const ScatterMove& move) {
    const Counts counts(1, move.count);
    Factor to{
        OperandKind::gradient,  0, move.stride, counts.still(0), counts.linear(move.index, 0, 1, 0),
        counts.still(move.slot)};
    Factor from{OperandKind::rows,
                move.group,
                0,
                counts.still(move.position),
                counts.linear(move.row, 0, 1, 0),
                counts.still(0)};
    FixedNest nest = copy_of(std::move(to), std::move(from), counts, move.position);
    nest.accumulate = true;
    return nest;
  });
}

PositionNests nests_of(const std::vector<SingleProduct>& single_products) {
  const Counts counts(1, 1);
  PositionNests all{shared, {}};
  for (const SingleProduct& each : single_products) {
    const Factor to{each.group == no_group ? OperandKind::gradient : OperandKind::shared_number,
                    each.group,
                    0,
                    {},
                    {each.index, {}, 0},
                    {}};
    FixedNest nest = copy_of(to, factor_of(each.a, each.position, counts), counts, each.position);
    nest.products.front().b = factor_of(each.b, each.position, counts);
    nest.accumulate = true;
    all.nests.push_back(std::move(nest));
  }
  return all;
}

PositionNests output_nests(const VectorProgram& program) {
  const Counts counts(1, 1);
  PositionNests all{shared, {}};
  for (std::size_t i = 0; i < program.outputs.size(); ++i) {
    const auto position = static_cast<std::int32_t>(i);
    all.nests.push_back(copy_of({OperandKind::total, 0, 0, {}, {}, {}},
                                factor_of(program.outputs[i], position, counts), counts, position));
    all.nests.back().accumulate = true;
  }
  return all;
}

}  // namespace nanochat::program::c

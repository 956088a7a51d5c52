// Loop nests of plain C: what to_c() makes of instructions before it writes them. An instruction
// becomes nests per position; positions whose nests differ by constants become one loop over t. The
// text is written by writer.hpp, the file around it by to_c.cpp.
#ifndef NANOCHAT_SCALAR_PROGRAM_C_NESTS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_C_NESTS_HPP_

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program::c {

// An integer that may depend on the position t or come from a column of a table.
struct VaryingInt {
  std::int32_t base = 0, slope = 0;  // base + slope · t
  std::int32_t column = -1;
  bool is(std::int32_t value) const noexcept { return column < 0 && slope == 0 && base == value; }
  bool is_t() const noexcept { return column < 0 && slope == 1 && base == 0; }
};

// base + Σ step[d] · variable d + k_step · k.
template <class N>
struct Linear {
  N base{};
  std::vector<N> step;
  N k_step{};
};

enum class OperandKind : std::uint8_t {
  unit,
  rows,
  shared_number,
  parameter,
  constant,
  gradient,
  input,
  scale,
  hit,   // 1 if the token is the index, otherwise 0
  miss,  // 0 if the token is the index, otherwise 1
  total,
};

OperandKind operand_kind(AddressSpace space);

template <class N>
struct Operand {
  OperandKind kind = OperandKind::unit;
  std::int32_t group = 0;
  std::int32_t stride = 0;  // of the token in slot; 0: no token (hit and miss compare with it)
  Linear<N> position, index, slot;
};

template <class N>
struct Products {
  N count{};
  Operand<N> a, b;
  bool ends = false;  // skip positions beyond the document
};

enum class Body : std::uint8_t { sum, map, largest };

// Loops over variables below counts around one assignment: dst = Σ products, or a function of the
// one operand.
template <class N>
struct AssignmentNest {
  Body body = Body::sum;
  Kind kind = Kind::sum;  // map
  double constant = 0.0;  // map
  bool accumulate = false;
  bool from_zero = false;  // a sum with 0 in front
  std::vector<N> counts;   // outermost first
  Linear<N> needs;         // the last position that takes part; shared: none
  Operand<N> dst;
  std::vector<Products<N>> products;
};
using FixedNest = AssignmentNest<std::int32_t>;  // at one position
using VaryingNest = AssignmentNest<VaryingInt>;  // in a loop over positions or over a table

// Positions first … last, downwards if last < first, or `shared`, with the nests of each.
struct Loop {
  std::int32_t first, last;
  std::vector<VaryingNest> nests;
};

// Nests without a loop: each row of numbers is one nest, with a column per number that varies.
struct Table {
  VaryingNest nest;
  std::vector<std::vector<std::int32_t>> rows;
};

struct PositionNests {
  std::int32_t position;
  std::vector<FixedNest> nests;
};

// Turns neighbors that differ by constants into a nest with one more loop.
std::vector<FixedNest> compress(std::vector<FixedNest> list);
std::vector<Loop> loops_of(const std::vector<PositionNests>& positions);
std::vector<Table> tables_of(const std::vector<PositionNests>& positions);

// The nests of one instruction, at one position or at all positions of its group.
std::vector<PositionNests> nests_of(const VectorProgram& program, const MapRows& map);
std::vector<PositionNests> nests_of(const VectorProgram& program, const LargestRow& largest);
std::vector<PositionNests> nests_of(const VectorProgram& program, const SumOfProducts& sum);
std::vector<PositionNests> nests_of(const VectorProgram& program, const CrossSum& cross,
                                    const CrossPart& part);
std::vector<PositionNests> nests_of(const GatherRows& gather);
std::vector<PositionNests> nests_of(const FillRows& fill);
std::vector<PositionNests> nests_of(const InputRows& input);
std::vector<PositionNests> nests_of(const SeedRows& seed);
std::vector<PositionNests> nests_of(const OneHotRows& one_hot);
std::vector<PositionNests> nests_of(const SelectRows& select);
std::vector<PositionNests> nests_of(const ScatterRows& scatter);
PositionNests nests_of(const std::vector<SingleProduct>& single_products);
PositionNests output_nests(const VectorProgram& program);

// Calls visit(number, matters) for every number of the nest, in the same order for nests of the
// same form. A step of a loop with one iteration does not matter.
template <class NestType, class Visit>
void visit_numbers(NestType& nest, Visit&& visit) {
  constexpr bool is_fixed = std::is_same_v<std::remove_const_t<NestType>, FixedNest>;
  const auto matters = [&](std::size_t d) {
    if constexpr (is_fixed) return nest.counts[d] != 1;
    return true;
  };
  const auto linear = [&](auto& each, bool k_matters) {
    visit(each.base, true);
    for (std::size_t d = 0; d < each.step.size(); ++d) visit(each.step[d], matters(d));
    visit(each.k_step, k_matters);
  };
  const auto operand = [&](auto& each, bool k_matters) {
    linear(each.position, k_matters);
    linear(each.index, k_matters);
    linear(each.slot, k_matters);
  };
  for (auto& count : nest.counts) visit(count, true);
  linear(nest.needs, false);
  operand(nest.dst, false);
  for (auto& run : nest.products) {
    bool many = true;  // NOLINT(misc-const-correctness): set if the numbers are fixed
    if constexpr (is_fixed) many = run.count != 1;
    visit(run.count, true);
    operand(run.a, many);
    operand(run.b, many);
  }
}

}  // namespace nanochat::program::c

#endif  // NANOCHAT_SCALAR_PROGRAM_C_NESTS_HPP_

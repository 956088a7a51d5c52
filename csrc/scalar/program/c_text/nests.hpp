// Loops of plain C: what to_c() makes of instructions before it writes them. An instruction becomes
// nests for each position; positions whose nests differ by constants become one loop over t. Leaves
// out the text (c_text.cpp) and the file around it (to_c.cpp).
#ifndef NANOCHAT_SCALAR_PROGRAM_C_NESTS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_C_NESTS_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program::c {

// A number that may depend on the position t, or stand in a column of a table.
struct Number {
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

enum class Where : std::uint8_t {
  unit,
  rows,
  number,
  parameter,
  constant,
  gradient,
  input,
  scale,
  hit,
  miss,
  total
};

template <class N>
struct Operand {
  Where where = Where::unit;
  std::int32_t group = 0;
  std::int32_t stride = 0;  // of the token in slot; 0: no token (hit and miss compare with it)
  Linear<N> stage, index, slot;
};

template <class N>
struct Products {
  N k{};
  Operand<N> a, b;
  bool ends = false;  // positions beyond the document are left out
};

enum class Body : std::uint8_t { sum, map, largest };

// for variables below counts: dst = Σ products, or a function of the one operand.
template <class N>
struct NestOf {
  Body body = Body::sum;
  Kind kind = Kind::sum;  // map
  double constant = 0.0;  // map
  bool accumulate = false;
  bool from_zero = false;  // a sum with 0 in front
  std::vector<N> counts;   // outermost first
  Linear<N> needs;         // the last position that takes part; shared: none
  Operand<N> dst;
  std::vector<Products<N>> terms;
};
using Nest = NestOf<std::int32_t>;

// Positions first … last, downwards when last < first, or `shared`; the nests of each, one by one.
struct Loop {
  std::int32_t first, last;
  std::vector<NestOf<Number>> nests;
};

// Rows of numbers where no loop was found: nest is for each row, its columns are those that vary.
struct Table {
  NestOf<Number> nest;
  std::vector<std::vector<std::int32_t>> rows;
};

struct Position {
  std::int32_t stage;
  std::vector<Nest> nests;
};

// Neighbours that differ by constants become a nest with one more loop.
std::vector<Nest> compress(std::vector<Nest> list);
std::vector<Loop> loops_of(const std::vector<Position>& positions);
std::vector<Table> tables_of(const std::vector<Position>& positions);

// One instruction (sum, map, largest; a part of a cross; moves) at one position or all of its own.
std::vector<Position> positions_of(const VectorProgram& program, const Instruction& instruction);
std::vector<Position> positions_of(const Group& group, std::int32_t g, const CrossPart& part,
                                   bool from_zero);
std::vector<Position> moves_of(const Instruction& instruction);
Position odds_of(const std::vector<Odd>& odds);
Position outputs_of(const VectorProgram& program);

// Calls visit(number, matters) for every number of the nest, in one order for nests of one make; a
// step of a loop that runs once does not matter.
template <class NestType, class Visit>
void visit_numbers(NestType& nest, Visit&& visit) {
  const auto matters = [&](std::size_t d) {
    if constexpr (std::is_same_v<std::remove_const_t<NestType>, Nest>) return nest.counts[d] != 1;
    return true;
  };
  const auto linear = [&](auto& each, bool k_matters) {
    visit(each.base, true);
    for (std::size_t d = 0; d < each.step.size(); ++d) visit(each.step[d], matters(d));
    visit(each.k_step, k_matters);
  };
  const auto operand = [&](auto& each, bool k_matters) {
    linear(each.stage, k_matters);
    linear(each.index, k_matters);
    linear(each.slot, k_matters);
  };
  for (auto& count : nest.counts) visit(count, true);
  linear(nest.needs, false);
  operand(nest.dst, false);
  for (auto& term : nest.terms) {
    bool many = true;  // NOLINT(misc-const-correctness): written where terms are numbers
    if constexpr (std::is_same_v<std::remove_const_t<NestType>, Nest>) many = term.k != 1;
    visit(term.k, true);
    operand(term.a, many);
    operand(term.b, many);
  }
}

}  // namespace nanochat::program::c

#endif  // NANOCHAT_SCALAR_PROGRAM_C_NESTS_HPP_

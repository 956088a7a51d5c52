// Sums over other positions become runs whose positions and rows advance by constant steps:
// attention.
//
// Needs: the lists of a group whose factors are all rows, some at other positions. Makes: of the
// products of each destination, greedily, runs with constant steps, distributed over parts; a part
// multiplies two arrays and has at most one run per destination. Destinations that share factors
// then become one run (share_factors.cpp). Correct because a run takes only products that its steps
// predict, and the runs of a destination are in increasing parts, in their order. All parts add to
// zeros, unless the first part reaches every destination and can write.
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

std::int32_t group_of(const Address& at) {
  return at.space == AddressSpace::rows ? at.group : no_group;
}

CrossOperand operand_at(const Address& address, std::int32_t position) {
  return {address.index, 0, address.position == own ? position : address.position, 0};
}

void set_steps(CrossOperand& operand, const CrossOperand& second) {
  operand.row_step = second.row - operand.row;
  operand.position_step = second.position - operand.position;
}

bool predicts(const CrossOperand& operand, std::int32_t k, const CrossOperand& next) {
  return next.row == operand.row + k * operand.row_step &&
         next.position == operand.position + k * operand.position_step;
}

// The longest run that starts at `at`, for a destination at `position`. Advances `at` past it.
CrossRun take_run(const AddressPair*& at, const AddressPair* end, std::int32_t row,
                  std::int32_t position) {
  const AddressPair& first = *at++;
  CrossRun run{row, 1, 1, operand_at(first[0], position), operand_at(first[1], position)};
  if (at == end) return run;
  set_steps(run.a, operand_at((*at)[0], position));
  set_steps(run.b, operand_at((*at)[1], position));
  const auto fits = [&](const AddressPair& next) {
    return group_of(next[0]) == group_of(first[0]) && group_of(next[1]) == group_of(first[1]) &&
           predicts(run.a, run.products, operand_at(next[0], position)) &&
           predicts(run.b, run.products, operand_at(next[1], position));
  };
  while (at != end && fits(*at)) {
    ++run.products;
    ++at;
  }
  if (run.products == 1) {
    run.a.row_step = run.a.position_step = run.b.row_step = run.b.position_step = 0;
  }
  return run;
}

// Lets every position before `end` that has no beginning yet begin, without runs, after the runs so
// far.
void begin_positions(CrossPart& part, std::size_t end) {
  while (part.begin.size() < end) {
    part.begin.push_back(static_cast<std::uint32_t>(part.runs.size()));
  }
}

// The first part from `from` on that multiplies these arrays and has no later position; a new part
// if there is none.
std::size_t part_of(std::vector<CrossPart>& parts, std::size_t from, std::int32_t a, std::int32_t b,
                    std::size_t position) {
  for (std::size_t i = from; i < parts.size(); ++i) {
    const CrossPart& part = parts[i];
    if (part.a_group == a && part.b_group == b && part.begin.size() <= position + 1) return i;
  }
  parts.push_back({a, b, true, {}, {}});
  return parts.size() - 1;
}

// Appends the runs of one destination to the parts.
void add_runs(std::vector<CrossPart>& parts, const ProductLists& lists, std::int32_t feature,
              std::size_t index, std::int32_t position) {
  std::size_t next_part = 0;
  const AddressPair* at = lists.begin(feature);
  const AddressPair* const end = lists.end(feature);
  while (at != end) {
    const std::size_t found =
        part_of(parts, next_part, group_of((*at)[0]), group_of((*at)[1]), index);
    next_part = found + 1;
    begin_positions(parts[found], index + 1);
    parts[found].runs.push_back(take_run(at, end, feature, position));
  }
}

std::size_t destinations(const CrossPart& part) {
  std::size_t count = 0;
  for (const CrossRun& run : part.runs) {
    count += static_cast<std::size_t>(run.rows) * static_cast<std::size_t>(run.repeats);
  }
  return count;
}

}  // namespace

void Lowering::lower_cross(const std::vector<ProductLists>& all) {
  CrossSum cross{group_, from_zero(), {}};
  for (std::size_t p = 0; p < all.size(); ++p) {
    for (std::int32_t f = 0; f < all[p].features(); ++f) {
      add_runs(cross.parts, all[p], f, p, group().begin + static_cast<std::int32_t>(p));
    }
  }
  for (CrossPart& part : cross.parts) {
    begin_positions(part, all.size() + 1);
    share_factors(part);
  }
  if (destinations(cross.parts.front()) == members().size()) {
    cross.parts.front().accumulate = false;
  } else {
    emit(SumRows{{whole_group(), own, false, cross.from_zero, {}}});
  }
  emit(std::move(cross));
}

}  // namespace nanochat::program

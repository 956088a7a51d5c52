// What the files of the lowering share: where a number is stored, and nests found in lists of them.
#ifndef NANOCHAT_SCALAR_PROGRAM_LOWER_HPP_
#define NANOCHAT_SCALAR_PROGRAM_LOWER_HPP_

#include <array>
#include <cstdint>
#include <vector>

#include "scalar/program/lowering/groups.hpp"

namespace nanochat::program {

// Where one factor stands.
struct Place {
  Space space = Space::unit;
  std::int32_t group = 0;
  std::int32_t stage = own;  // own: that of the sum it is a factor of
  std::int32_t index = 0;    // feature, parameter or constant
  bool operator==(const Place&) const = default;
};

using Pair = std::array<Place, 2>;

// Lists of products, one a feature, flattened: feature f owns [start[f], start[f + 1]).
struct Lists {
  std::vector<Pair> pairs;
  std::vector<std::uint32_t> start{0};
  std::int32_t features() const noexcept { return static_cast<std::int32_t>(start.size()) - 1; }
};

// Features row … row + features · outer − 1 in one nest of loops.
struct Nest {
  std::int32_t row = 0, features = 1, outer = 1;
  std::vector<Term> terms;
};

std::vector<Nest> find_nests(const Lists& lists);

// The destinations of sums over lanes, in rising order of index, and their products with the stage
// of each. Appends to outers, odds; false when the order of the products could not be kept.
struct Reduction {
  std::int32_t group = -1;  // of the destination; -1: gradients of parameters
  std::int32_t index = 0;
  std::vector<Pair> pairs;  // stages absolute
};
bool lower_reductions(const std::vector<Reduction>& reductions, const std::vector<Group>& groups,
                      bool exact, VectorProgram& program);

// Makes one run of destinations that share a factor.
void share_factors(CrossPart& part);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_LOWER_HPP_

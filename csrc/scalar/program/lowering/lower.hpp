// Types that the files of the lowering share: addresses of factors, and loop nests found in lists
// of them.
#ifndef NANOCHAT_SCALAR_PROGRAM_LOWER_HPP_
#define NANOCHAT_SCALAR_PROGRAM_LOWER_HPP_

#include <array>
#include <cstdint>
#include <vector>

#include "scalar/program/lowering/groups.hpp"

namespace nanochat::program {

// The storage of one factor.
struct Address {
  AddressSpace space = AddressSpace::unit;
  std::int32_t group = 0;
  std::int32_t position = own;  // own: that of the sum it is a factor of
  std::int32_t index = 0;       // of a feature, a parameter or a constant
  bool operator==(const Address&) const = default;
};

inline Ref ref_to(const Address& address) {
  return {address.space, address.group, address.position, address.index};
}

using AddressPair = std::array<Address, 2>;

// Lists of products, one list per feature, flattened: feature f owns [start[f], start[f + 1]).
struct ProductLists {
  std::vector<AddressPair> pairs;
  std::vector<std::uint32_t> start{0};
  std::int32_t features() const noexcept { return static_cast<std::int32_t>(start.size()) - 1; }
  std::uint32_t products(std::int32_t feature) const noexcept {
    const auto f = static_cast<std::size_t>(feature);
    return start[f + 1] - start[f];
  }
  // Product i of a feature; null if the feature does not have it.
  AddressPair* find(std::int32_t feature, std::uint32_t i) {
    if (feature >= features() || i >= products(feature)) return nullptr;
    return &pairs[start[static_cast<std::size_t>(feature)] + i];
  }
  const AddressPair* begin(std::int32_t feature) const {
    return pairs.data() + start[static_cast<std::size_t>(feature)];
  }
  const AddressPair* end(std::int32_t feature) const {
    return pairs.data() + start[static_cast<std::size_t>(feature) + 1];
  }
};

// One loop nest for the features row … row + features · blocks − 1.
struct LoopNest {
  std::int32_t row = 0, features = 1, blocks = 1;
  std::vector<ProductRun> products;
};

std::vector<LoopNest> find_nests(const ProductLists& lists);

// A sum over lanes: its destination, and its products with absolute positions.
struct Reduction {
  std::int32_t group = no_group;  // of the destination; no_group: gradients of parameters
  std::int32_t index = 0;
  std::vector<AddressPair> pairs;
};

// Appends the outer products and single products of the reductions, which come in increasing order
// of index. Returns false if exact numerics could not keep the order of the products.
bool lower_reductions(const std::vector<Reduction>& reductions, VectorProgram& program);

// Merges destinations that share a factor into one run, and runs that repeat into one.
void share_factors(CrossPart& part);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_LOWER_HPP_

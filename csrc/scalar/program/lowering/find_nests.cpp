// Lists of operands become loop nests with constant steps: dot products, matrix–vector products
// and broadcasts are nests that the replay has fast kernels for.
//
// Needs: for each feature of a group at one position, its products in order. Makes, greedily: runs
// of products whose two factors advance by constant steps, runs of features with the same products,
// each shifted by a constant step, and runs of such blocks. Correct because a nest enumerates
// exactly the addresses it was built from: every step is checked.
#include <utility>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

bool same_array(const Address& x, const Address& y) {
  return x.space == y.space && x.group == y.group && x.position == y.position;
}

bool same_arrays(const AddressPair& x, const AddressPair& y) {
  return same_array(x[0], y[0]) && same_array(x[1], y[1]);
}

bool same_array(const Ref& x, const Ref& y) {
  return x.space == y.space && x.group == y.group && x.position == y.position &&
         x.k_step == y.k_step;
}

std::vector<ProductRun> product_runs(const AddressPair* begin, const AddressPair* end) {
  std::vector<ProductRun> runs;
  for (const AddressPair* at = begin; at != end;) {
    const AddressPair& first = *at;
    ProductRun run{ref_to(first[0]), ref_to(first[1]), 1};
    const AddressPair* next = at + 1;
    if (next != end && same_arrays(first, *next)) {
      run.a.k_step = (*next)[0].index - first[0].index;
      run.b.k_step = (*next)[1].index - first[1].index;
      while (next != end && same_arrays(first, *next) &&
             (*next)[0].index == run.a.index + run.count * run.a.k_step &&
             (*next)[1].index == run.b.index + run.count * run.b.k_step) {
        ++run.count;
        ++next;
      }
    }
    at = next;
    runs.push_back(run);
  }
  return runs;
}

// Can `next` be `distance` repetitions after `first`? The first repetition sets the steps.
template <std::int32_t Ref::* step>
bool extend(std::vector<ProductRun>& first, const std::vector<ProductRun>& next,
            std::int32_t distance) {
  if (first.size() != next.size()) return false;
  const auto fits = [&](const Ref& from, const Ref& to) {
    if (!same_array(from, to)) return false;
    return distance == 1 || to.index == from.index + distance * (from.*step);
  };
  for (std::size_t i = 0; i < first.size(); ++i) {
    if (first[i].count != next[i].count || !fits(first[i].a, next[i].a) ||
        !fits(first[i].b, next[i].b)) {
      return false;
    }
  }
  if (distance > 1) return true;
  for (std::size_t i = 0; i < first.size(); ++i) {
    first[i].a.*step = next[i].a.index - first[i].a.index;
    first[i].b.*step = next[i].b.index - first[i].b.index;
  }
  return true;
}

bool same_features(const LoopNest& x, const LoopNest& y) {
  if (x.features != y.features || x.products.size() != y.products.size()) return false;
  for (std::size_t i = 0; i < x.products.size(); ++i) {
    if (x.products[i].a.f_step != y.products[i].a.f_step ||
        x.products[i].b.f_step != y.products[i].b.f_step) {
      return false;
    }
  }
  return true;
}

std::vector<LoopNest> blocks_of_features(const ProductLists& lists) {
  std::vector<LoopNest> blocks;
  for (std::int32_t f = 0; f < lists.features(); ++f) {
    std::vector<ProductRun> products = product_runs(lists.begin(f), lists.end(f));
    if (!blocks.empty() &&
        extend<&Ref::f_step>(blocks.back().products, products, f - blocks.back().row)) {
      ++blocks.back().features;
    } else {
      blocks.push_back({f, 1, 1, std::move(products)});
    }
  }
  return blocks;
}

}  // namespace

std::vector<LoopNest> find_nests(const ProductLists& lists) {
  std::vector<LoopNest> nests;
  std::vector<LoopNest> blocks = blocks_of_features(lists);
  for (LoopNest& block : blocks) {
    if (!nests.empty() && same_features(nests.back(), block) &&
        extend<&Ref::o_step>(nests.back().products, block.products, nests.back().blocks)) {
      ++nests.back().blocks;
    } else {
      nests.push_back(std::move(block));
    }
  }
  return nests;
}

}  // namespace nanochat::program

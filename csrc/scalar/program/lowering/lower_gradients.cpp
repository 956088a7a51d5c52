// Sums over lanes: numbers that all positions share, gradients of parameters, and gradients of the
// matrix rows that tokens select.
//
// Needs: for gradients of parameters, all other groups lowered, and products with absolute
// positions. Makes: reductions (lower_reductions.cpp finds the outer products in them), the outer
// products that may write instead of add, the gradients that start from zero, and one scatter.
// Correct because an outer product writes only parameters that no earlier one reaches, every batch
// has documents, and an order of additions that differs from microgpt.py's is reported.
#include <algorithm>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

// A row goes second: the first factor may then be any number.
void add_pair(Reduction& reduction, Address a, Address b) {
  if (b.space != AddressSpace::rows) std::swap(a, b);
  reduction.pairs.push_back({a, b});
}

// Calls visit(i) with the parameter of each cell.
template <class Visit>
void for_cells(const OuterProduct& outer, Visit&& visit) {
  for (std::int32_t m = 0; m < outer.m; ++m) {
    for (std::int32_t n = 0; n < outer.n; ++n) {
      visit(static_cast<std::size_t>(outer.index + m * outer.m_step + n));
    }
  }
}

// The indices whose entry is 0, as ranges.
std::vector<Range> zero_ranges(const std::vector<char>& entries) {
  std::vector<Range> ranges;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i]) continue;
    const auto at = static_cast<std::int32_t>(i);
    if (!ranges.empty() && ranges.back().end == at) {
      ++ranges.back().end;
    } else {
      ranges.push_back({at, at + 1});
    }
  }
  return ranges;
}

}  // namespace

// A number that all positions share is an ordinary sum of shared numbers, or a sum over lanes of
// rows.
void Lowering::lower_shared_sum(const ProductLists& lists) {
  const bool reads_rows =
      std::any_of(lists.pairs.begin(), lists.pairs.end(), [](const AddressPair& pair) {
        return pair[0].space == AddressSpace::rows || pair[1].space == AddressSpace::rows;
      });
  if (!reads_rows) {
    for (const LoopNest& nest : find_nests(lists)) emit_sum(own, nest);
    return;
  }
  std::vector<Reduction> reductions;
  for (std::int32_t f = 0; f < lists.features(); ++f) {
    reductions.push_back({group_, f, {lists.begin(f), lists.end(f)}});
  }
  reduce(group_, reductions);
}

void Lowering::reduce(std::int32_t group, const std::vector<Reduction>& reductions) {
  const auto outer_products = static_cast<std::int32_t>(program_.outer_products.size());
  const auto single_products = static_cast<std::int32_t>(program_.single_products.size());
  program_.ordered = lower_reductions(reductions, program_) && program_.ordered;
  program_.backward.push_back(
      ReduceLanes{group,
                  {outer_products, static_cast<std::int32_t>(program_.outer_products.size())},
                  {single_products, static_cast<std::int32_t>(program_.single_products.size())}});
}

void Lowering::lower_parameter_gradients() {
  std::vector<Reduction> reductions;
  for (std::size_t i = 0; i < graph_.parameter_gradients.size(); ++i) {
    const Id id = graph_.parameter_gradients[i];
    if (id == none) continue;
    Reduction reduction{no_group, static_cast<std::int32_t>(i), {}};
    if (is_parameter_gradient_[id]) {
      const Node& sum = node(id);
      for (std::uint32_t j = 0; j < sum.count; ++j) {
        const Product& product = graph_.products[sum.first + j];
        add_pair(reduction, address_of(product.a), address_of(product.b));
      }
    } else {
      add_pair(reduction, address_of(id), Address{});
    }
    reductions.push_back(std::move(reduction));
  }
  const std::size_t first = program_.outer_products.size();
  reduce(no_group, reductions);
  find_first_writes(first);
}

// Lets each outer product write if no earlier one reaches its cells. The remaining parameters start
// from zero.
void Lowering::find_first_writes(std::size_t first) {
  std::vector<char> covered(program_.parameters, 0);
  for (std::size_t i = first; i < program_.outer_products.size(); ++i) {
    OuterProduct& outer = program_.outer_products[i];
    // A batch may have no document at this position.
    if (is_row_of_position(outer, program_.group(outer.b.group))) continue;
    bool fresh = true;
    for_cells(outer, [&](std::size_t cell) { fresh = fresh && !covered[cell]; });
    outer.accumulate = !fresh;
    if (fresh) for_cells(outer, [&](std::size_t cell) { covered[cell] = 1; });
  }
  program_.zeroed_first = zero_ranges(covered);
}

// microgpt.py adds to a matrix row whenever a user of it is walked. A replay adds leaf by leaf,
// from the last position to the first. The order is the same if each leaf has one user
// (differentiate() checks that), positions decrease in the order of the walk, and only tokens reach
// the matrix.
void Lowering::check_scatter_order(const std::vector<Product>& pairs) {
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Node& leaf = node(pairs[i].a);
    const bool increases = i > 0 && leaf.position > node(pairs[i - 1].a).position;
    bool direct = false;
    for (std::int32_t at = leaf.index; at < leaf.index + leaf.stride * leaf.rows;
         at += leaf.stride) {
      direct = direct || graph_.parameter_gradients[static_cast<std::size_t>(at)] != none;
    }
    if (increases || direct) program_.ordered = false;
  }
}

void Lowering::lower_scatter() {
  if (graph_.gather_gradients.empty()) return;
  std::vector<Product> pairs = graph_.gather_gradients;
  check_scatter_order(pairs);
  // By position in the order found, with the features of a position next to each other.
  std::stable_sort(pairs.begin(), pairs.end(), [&](const Product& x, const Product& y) {
    if (node(x.a).position != node(y.a).position) return node(x.a).position > node(y.a).position;
    return node(x.a).index < node(y.a).index;
  });
  ScatterRows scatter;
  for (const Product& pair : pairs) {
    const Node& leaf = node(pair.a);
    const Address from = address_of(pair.b);
    append(scatter.moves,
           {from.position, leaf.slot, leaf.index, leaf.stride, from.group, from.index, 1});
  }
  program_.backward.push_back(std::move(scatter));
}

}  // namespace nanochat::program

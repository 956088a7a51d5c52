// The operands of the members of a group, as lists per position.
//
// Needs: a group. Makes: for each of its positions the products of each feature, in the order of
// the graph; with fast numerics the products of a sum are sorted by address, so gradients that come
// from one array are consecutive. Parameters and constants that differ between positions become
// rows of an array that is filled in advance. Correct because exact numerics keep the order, fast
// numerics may regroup a sum, and a filled row holds at each position the number it replaces.
#include <algorithm>
#include <tuple>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

// A number for all lanes goes before a row.
void number_first(AddressPair& pair) {
  if (pair[0].space == AddressSpace::rows && is_number(pair[1].space)) std::swap(pair[0], pair[1]);
}

// Sorts the products of the last feature.
void sort_products(ProductLists& lists, std::int32_t position) {
  // By absolute position, so that products that advance through the positions form one run.
  const auto absolute = [position](const Address& at) {
    return at.position == own ? position : at.position;
  };
  const auto key = [&](const AddressPair& pair) {
    return std::tuple(pair[0].space, pair[0].group, pair[1].space, pair[1].group, absolute(pair[0]),
                      absolute(pair[1]), pair[0].index, pair[1].index);
  };
  const auto begin = lists.pairs.begin() + lists.start.back();
  const auto before = [&](const AddressPair& x, const AddressPair& y) { return key(x) < key(y); };
  if (!std::is_sorted(begin, lists.pairs.end(), before)) {
    std::stable_sort(begin, lists.pairs.end(), before);
  }
}

Address relative(Address address, std::int32_t position) {
  if (address.space == AddressSpace::rows && address.position == position) address.position = own;
  return address;
}

// Do the positions read this operand from parameters or constants only, and not all from the same
// one?
bool varies(std::vector<ProductLists>& all, std::int32_t f, std::uint32_t i, std::size_t side) {
  const Address* first = nullptr;
  bool different = false;
  for (ProductLists& lists : all) {
    const AddressPair* pair = lists.find(f, i);
    if (pair == nullptr) continue;
    const Address& address = (*pair)[side];
    if (address.space != AddressSpace::parameter && address.space != AddressSpace::constant) {
      return false;
    }
    if (first == nullptr) first = &address;
    different = different || *first != address;
  }
  return different;
}

std::vector<FillMove> sorted_and_merged(std::vector<FillMove> moves) {
  std::stable_sort(moves.begin(), moves.end(),
                   [](const FillMove& a, const FillMove& b) { return a.position < b.position; });
  std::vector<FillMove> merged;
  for (const FillMove& move : moves) append(merged, move);
  return merged;
}

}  // namespace

// Operands of the members at one position, with `own` for operands at that same position.
ProductLists Lowering::lists_at(std::int32_t position) {
  ProductLists lists;
  const std::uint32_t begin = start(position);
  const std::uint32_t end =
      group().is_shared() ? static_cast<std::uint32_t>(members().size()) : start(position + 1);
  std::size_t pairs = 0;
  for (std::uint32_t at = begin; at < end; ++at) {
    const Node& each = node(members()[at]);
    pairs += is_unary(each.kind) ? 1 : each.count;
  }
  lists.pairs.reserve(pairs);
  lists.start.reserve(end - begin + 1);
  const auto address = [&](Id id) { return relative(address_of(id), position); };
  for (std::uint32_t at = begin; at < end; ++at) {
    const Node& each = node(members()[at]);
    if (each.kind == Kind::sum) {
      for (std::uint32_t i = 0; i < each.count; ++i) {
        const Product& product = graph_.products[each.first + i];
        AddressPair pair{address(product.a), address(product.b)};
        number_first(pair);
        lists.pairs.push_back(pair);
      }
      if (!exact_ && each.count > 1) sort_products(lists, position);
    } else if (is_unary(each.kind)) {
      lists.pairs.push_back({address(each.first), Address{}});
    } else {
      for (std::uint32_t i = 0; i < each.count; ++i) {
        lists.pairs.push_back({address(graph_.operands[each.first + i]), Address{}});
      }
    }
    lists.start.push_back(static_cast<std::uint32_t>(lists.pairs.size()));
  }
  return lists;
}

std::vector<ProductLists> Lowering::all_lists() {
  std::vector<ProductLists> all;
  for (std::int32_t p = first_position(); p <= last_position(); ++p) all.push_back(lists_at(p));
  if (all.size() > 1) fill_varying(all);
  return all;
}

// Replaces parameters and constants that differ between positions by rows of a new group.
void Lowering::fill_varying(std::vector<ProductLists>& all) {
  const auto filled = static_cast<std::int32_t>(program_.groups.size());
  std::vector<FillMove> moves;
  std::vector<std::int32_t> rows(all.size(), 0);  // of the new group, per position
  const auto replace = [&](std::int32_t f, std::uint32_t i, std::size_t side) {
    for (std::size_t p = 0; p < all.size(); ++p) {
      AddressPair* pair = all[p].find(f, i);
      if (pair == nullptr) continue;
      Address& address = (*pair)[side];
      const std::int32_t position = first_position() + static_cast<std::int32_t>(p);
      const bool is_constant = address.space == AddressSpace::constant;
      moves.push_back({position, address.index, rows[p], 1, is_constant});
      address = {AddressSpace::rows, filled, own, rows[p]++};
    }
  };
  const ProductLists& longest = *std::max_element(
      all.begin(), all.end(),
      [](const ProductLists& x, const ProductLists& y) { return x.features() < y.features(); });
  for (std::int32_t f = 0; f < longest.features(); ++f) {
    for (std::uint32_t i = 0; i < longest.products(f); ++i) {
      for (const std::size_t side : {std::size_t{0}, std::size_t{1}}) {
        if (varies(all, f, i, side)) replace(f, i, side);
      }
    }
  }
  if (moves.empty()) return;
  for (ProductLists& lists : all) {
    for (AddressPair& pair : lists.pairs) number_first(pair);
  }
  add_filled_group(sorted_and_merged(std::move(moves)), std::move(rows));
}

// The group of the current group's positions whose rows the moves fill. Its instruction goes in
// front of the current group's, in the same list.
void Lowering::add_filled_group(std::vector<FillMove> moves, std::vector<std::int32_t> rows) {
  Group filled{Kind::constant, group().begin, group().end, 0, {}};
  filled.features = *std::max_element(rows.begin(), rows.end());
  const bool even = std::all_of(rows.begin(), rows.end(),
                                [&](std::int32_t count) { return count == filled.features; });
  if (!even) filled.per_position = std::move(rows);
  const auto g = static_cast<std::int32_t>(program_.groups.size());
  program_.groups.push_back(std::move(filled));
  is_forward_.push_back(is_forward_[static_cast<std::size_t>(group_)]);
  emit(FillRows{g, std::move(moves)});
}

}  // namespace nanochat::program

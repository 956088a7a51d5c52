// Maps, sums, maxima and selections become loop nests over the rows of their operands.
//
// Needs: the operands at each position. Makes: one instruction for the whole memory of a group if
// possible; otherwise one per nest for all positions if their nests are alike; otherwise one per
// nest and position. A sum is split where the set of documents that take part changes, and where a
// matrix product can take over. Correct because positions are combined only if all their lists are
// equal and name no row of a particular position, and the parts of a sum add to it in the order of
// its products.
#include <algorithm>
#include <cassert>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

// A matrix product needs at least this many features and products to beat the general sum.
constexpr std::int32_t least_matrix_features = 4;
constexpr std::int32_t least_matrix_products = 2;
// A sum of more products is not worth one pass over the memory per product.
constexpr std::uint32_t most_whole_products = 4;

bool all_alike(const std::vector<ProductLists>& all) {
  return std::all_of(all.begin(), all.end(), [&](const ProductLists& lists) {
    return lists.start == all.front().start && lists.pairs == all.front().pairs;
  });
}

bool reads_rows_only(const std::vector<ProductLists>& all) {
  return std::all_of(all.begin(), all.end(), [](const ProductLists& lists) {
    return std::all_of(lists.pairs.begin(), lists.pairs.end(),
                       [](const AddressPair& pair) { return pair[0].space == AddressSpace::rows; });
  });
}

// Do the lists read rows only, some of them at other positions?
bool reads_other_positions(const std::vector<ProductLists>& all) {
  bool other = false;
  for (const ProductLists& lists : all) {
    for (const AddressPair& pair : lists.pairs) {
      if (is_number(pair[0].space)) return false;
      other = other || pair[0].position != own || pair[1].position != own;
    }
  }
  return other;
}

Ref whole_operand(const Address& address) {
  const bool rows = address.space == AddressSpace::rows;
  return {address.space, address.group, own, rows ? 0 : address.index};
}

// Neighboring products of a sum that one instruction computes.
struct SumPart {
  std::int32_t width;  // see SumOfProducts
  bool matrix;
  std::int32_t matrix_step;  // from feature to feature of the matrix
  std::vector<ProductRun> products;

  bool takes(const SumPart& next) const {
    return width == next.width && matrix == next.matrix && matrix_step == next.matrix_step;
  }
  std::int32_t count() const {
    std::int32_t total = 0;
    for (const ProductRun& run : products) total += run.count;
    return total;
  }
};

// The latest of the run's absolute positions after the destination's.
std::int32_t width_of(const ProductRun& run, std::int32_t position) {
  if (position == own) return own;
  std::int32_t width = own;
  for (const Ref& ref : {run.a, run.b}) {
    if (ref.space == AddressSpace::rows && ref.position > position) {
      width = std::max(width, ref.position);
    }
  }
  return width;
}

SumPart part_of(const ProductRun& run, std::int32_t position, const LoopNest& nest) {
  const bool rows_are_shared = nest.features == 1 || run.b.f_step == 0;
  const bool matrix = nest.blocks == 1 && is_number(run.a.space) &&
                      run.b.space == AddressSpace::rows && rows_are_shared;
  return {width_of(run, position), matrix, matrix ? run.a.f_step : 0, {run}};
}

std::vector<SumPart> split_sum(std::int32_t position, const LoopNest& nest) {
  std::vector<SumPart> runs;
  for (const ProductRun& run : nest.products) {
    SumPart part = part_of(run, position, nest);
    if (!runs.empty() && runs.back().takes(part)) {
      runs.back().products.push_back(run);
    } else {
      runs.push_back(std::move(part));
    }
  }
  // General sums over the same documents merge.
  std::vector<SumPart> parts;
  for (SumPart& part : runs) {
    part.matrix = part.matrix && nest.features >= least_matrix_features &&
                  part.count() >= least_matrix_products;
    const bool merges =
        !part.matrix && !parts.empty() && !parts.back().matrix && parts.back().width == part.width;
    if (merges) {
      std::vector<ProductRun>& products = parts.back().products;
      products.insert(products.end(), part.products.begin(), part.products.end());
    } else {
      parts.push_back(std::move(part));
    }
  }
  return parts;
}

}  // namespace

Destination Lowering::destination(std::int32_t position, const LoopNest& nest) const {
  return {group_, group().is_shared() ? own : position, nest.row, nest.features, nest.blocks,
          false};
}

Destination Lowering::whole_group() const { return {group_, own, 0, 1, 1, true}; }

bool Lowering::same_shape(std::int32_t other) const {
  const Group& x = group();
  const Group& y = program_.group(other);
  return x.begin == y.begin && x.end == y.end && x.features == y.features &&
         x.per_position == y.per_position;
}

// Is the operand of each feature its row of an array of the group's shape, or one number for all?
// Then all memory of the group can be treated as one row.
bool Lowering::is_whole(const std::vector<ProductLists>& all) const {
  const ProductLists& first = all.front();
  if (group().is_shared() || first.features() == 0) return false;
  const std::uint32_t count = first.products(0);
  if (count == 0 || count > most_whole_products) return false;
  for (const ProductLists& lists : all) {
    for (std::int32_t f = 0; f < lists.features(); ++f) {
      if (lists.products(f) != count) return false;
      for (std::uint32_t i = 0; i < count; ++i) {
        const AddressPair& pair = lists.begin(f)[i];
        if (!is_whole_operand(pair[0], first.pairs[i][0], f) ||
            !is_whole_operand(pair[1], first.pairs[i][1], f)) {
          return false;
        }
      }
    }
  }
  return true;
}

bool Lowering::is_whole_operand(const Address& address, const Address& first,
                                std::int32_t feature) const {
  if (address.space != AddressSpace::rows) return address == first;
  return first.space == AddressSpace::rows && address.group == first.group &&
         address.position == own && address.index == feature && same_shape(address.group);
}

// Does the list read a row of one position, or of a ragged group, in which each position is a
// separate block? Such a row does not extend over all positions.
bool Lowering::reads_blocks(const ProductLists& lists) const {
  const auto in_block = [&](const Address& at) {
    return at.space == AddressSpace::rows &&
           (at.position != own || program_.group(at.group).ragged());
  };
  return std::any_of(lists.pairs.begin(), lists.pairs.end(), [&](const AddressPair& pair) {
    return in_block(pair[0]) || in_block(pair[1]);
  });
}

// Calls visit(position, lists) once with `own` if all positions are alike, otherwise per position.
void Lowering::for_positions(
    const std::vector<ProductLists>& all,
    const std::function<void(std::int32_t, const ProductLists&)>& visit) const {
  if (!group().ragged() && all.size() > 1 && all_alike(all) && !reads_blocks(all.front())) {
    visit(own, all.front());
    return;
  }
  for (std::size_t p = 0; p < all.size(); ++p) {
    if (all[p].features() > 0) visit(first_position() + static_cast<std::int32_t>(p), all[p]);
  }
}

void Lowering::lower_map() {
  const Kind kind = group().kind;
  const double constant = node(members().front()).value;
  const std::vector<ProductLists> all = all_lists();
  if (!group().is_shared() && !reads_rows_only(all)) {
    // A map reads rows: copy the numbers to the group's own rows, then map these in place.
    for_positions(all, [&](std::int32_t position, const ProductLists& lists) {
      for (const LoopNest& nest : find_nests(lists)) emit_sum(position, nest);
    });
    emit(MapRows{whole_group(), kind, constant, {AddressSpace::rows, group_, own, 0}});
    return;
  }
  if (is_whole(all)) {
    emit(MapRows{whole_group(), kind, constant, whole_operand(all.front().pairs.front()[0])});
    return;
  }
  for_positions(all, [&](std::int32_t position, const ProductLists& lists) {
    for (const LoopNest& nest : find_nests(lists)) {
      assert(nest.products.size() == 1);
      emit(MapRows{destination(position, nest), kind, constant, nest.products.front().a});
    }
  });
}

// The operands of a maximum are consecutive rows: group_nodes() copies them if necessary.
void Lowering::lower_largest() {
  const std::vector<ProductLists> all = all_lists();
  for_positions(all, [&](std::int32_t position, const ProductLists& lists) {
    for (const LoopNest& nest : find_nests(lists)) {
      assert(nest.products.size() == 1);
      const ProductRun& rows = nest.products.front();
      emit(LargestRow{destination(position, nest), rows.a, rows.count});
    }
  });
}

// The candidates of a selection are consecutive rows for the same reason.
void Lowering::lower_select() {
  SelectRows select{group_, {}};
  for (const Id id : members()) {
    const Node& each = node(id);
    const Address first = address_of(graph_.operands[each.first]);
    select.moves.push_back({each.position, each.slot, first.group, first.index,
                            static_cast<std::int32_t>(each.count), grouping_.feature_of[id]});
  }
  emit(std::move(select));
}

void Lowering::lower_sum() {
  const std::vector<ProductLists> all = all_lists();
  if (group().is_shared()) {
    lower_shared_sum(all.front());
    return;
  }
  if (is_whole(all)) {
    SumRows sum{{whole_group(), own, false, from_zero(), {}}};
    for (std::uint32_t i = 0; i < all.front().products(0); ++i) {
      const AddressPair& pair = all.front().pairs[i];
      sum.products.push_back({whole_operand(pair[0]), whole_operand(pair[1]), 1});
    }
    emit(std::move(sum));
    return;
  }
  if (all.size() > 1 && reads_other_positions(all)) {
    lower_cross(all);
    return;
  }
  for_positions(all, [&](std::int32_t position, const ProductLists& lists) {
    for (const LoopNest& nest : find_nests(lists)) emit_sum(position, nest);
  });
}

void Lowering::emit_sum(std::int32_t position, const LoopNest& nest) {
  const Destination to = destination(position, nest);
  std::vector<SumPart> parts = split_sum(position, nest);
  // A first part in which not all documents take part needs zeros to add to.
  const bool zero_first = parts.empty() || parts.front().width != own;
  if (zero_first) emit(SumRows{{to, own, false, from_zero(), {}}});
  bool accumulate = zero_first;
  for (SumPart& part : parts) {
    SumOfProducts sum{to, part.width, accumulate, from_zero(), std::move(part.products)};
    accumulate = true;
    if (part.matrix) {
      emit(MatrixProduct{std::move(sum)});
    } else {
      emit(SumRows{std::move(sum)});
    }
  }
}

}  // namespace nanochat::program

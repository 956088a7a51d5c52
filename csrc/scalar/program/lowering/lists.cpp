// The operands of a group's members, as lists for each stage.
//
// Needs: a group. Makes for each of its stages the products of each feature, in the graph's order;
// in `fast` those of a sum are sorted by where their factors stand, so that the gradients that come
// from one array follow each other. Parameters and constants that differ from stage to stage become
// rows of an array that is filled beforehand. Right because `exact` keeps the order, `fast` may
// regroup a sum, and a filled row holds at each stage the number that stood there.
#include <algorithm>
#include <tuple>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

// A number for all lanes stands before a row.
void number_first(Pair& pair) {
  if (pair[0].space == Space::rows && pair[1].space > Space::rows) std::swap(pair[0], pair[1]);
}

void sort_products(Lists& lists, std::int32_t here) {
  // By absolute stage, so that what runs through the stages is one run.
  const auto stage = [here](const Place& at) { return at.stage == own ? here : at.stage; };
  const auto key = [&](const Pair& pair) {
    return std::tuple(pair[0].space, pair[0].group, pair[1].space, pair[1].group, stage(pair[0]),
                      stage(pair[1]), pair[0].index, pair[1].index);
  };
  const auto begin = lists.pairs.begin() + lists.start.back();
  const auto before = [&](const Pair& x, const Pair& y) { return key(x) < key(y); };
  if (!std::is_sorted(begin, lists.pairs.end(), before)) {
    std::stable_sort(begin, lists.pairs.end(), before);
  }
}

Place relative(Place place, std::int32_t stage) {
  if (place.space == Space::rows && place.stage == stage) place.stage = own;
  return place;
}

}  // namespace

// Operands of one stage, in place of `own` where they stand at the member's own stage.
Lists Lowering::lists_of(std::int32_t stage) {
  Lists lists;
  const std::uint32_t end =
      group().is_shared() ? static_cast<std::uint32_t>(members().size()) : start(stage + 1);
  std::size_t pairs = 0;
  for (std::uint32_t at = start(stage); at < end; ++at) {
    const Node& each = node(members()[at]);
    pairs += is_unary(each.kind) ? 1 : each.count;
  }
  lists.pairs.reserve(pairs);
  lists.start.reserve(end - start(stage) + 1);
  for (std::uint32_t at = start(stage); at < end; ++at) {
    const Node& each = node(members()[at]);
    if (each.kind == Kind::sum) {
      for (std::uint32_t i = 0; i < each.count; ++i) {
        const Product& product = graph_.products[each.first + i];
        Pair pair{relative(place(product.a), stage), relative(place(product.b), stage)};
        number_first(pair);
        lists.pairs.push_back(pair);
      }
      if (!exact_ && each.count > 1) sort_products(lists, stage);
    } else if (is_unary(each.kind)) {
      lists.pairs.push_back({relative(place(each.first), stage), Place{}});
    } else {
      for (std::uint32_t i = 0; i < each.count; ++i) {
        lists.pairs.push_back({relative(place(graph_.operands[each.first + i]), stage), Place{}});
      }
    }
    lists.start.push_back(static_cast<std::uint32_t>(lists.pairs.size()));
  }
  return lists;
}

// The operand lists of every stage, with parameters and constants that differ from stage to
// stage (or constants from feature to feature) turned into rows that are filled beforehand.
std::vector<Lists> Lowering::all_lists() {
  std::vector<Lists> all;
  for (std::int32_t s = first_stage(); s <= last_stage(); ++s) all.push_back(lists_of(s));
  fill_varying(all);
  return all;
}

void Lowering::fill_varying(std::vector<Lists>& all) {
  const auto varies = [&](std::uint32_t f, std::uint32_t i, std::size_t side) {
    const Place* head = nullptr;
    bool different = false;
    for (const Lists& lists : all) {
      if (f + 1 >= lists.start.size() || lists.start[f] + i >= lists.start[f + 1]) continue;
      const Place& at = lists.pairs[lists.start[f] + i][side];
      if (at.space != Space::parameter && at.space != Space::constant) return false;
      different = different || (head != nullptr && *head != at);
      head = &at;
    }
    return different;
  };
  Lists* longest = &all.front();
  for (Lists& lists : all) {
    if (lists.features() > longest->features()) longest = &lists;
  }
  // Constants that differ between features also go to rows: there is no row of constants.
  const bool one_stage = all.size() == 1;
  Instruction fill{};
  fill.op = Op::fill;
  std::vector<std::int32_t> rows(all.size(), 0);
  const auto fill_group = static_cast<std::int32_t>(program_.groups.size());
  for (std::uint32_t f = 0; f + 1 < longest->start.size() && !one_stage; ++f) {
    const std::uint32_t count = longest->start[f + 1] - longest->start[f];
    for (std::uint32_t i = 0; i < count; ++i) {
      for (const std::size_t side : {std::size_t{0}, std::size_t{1}}) {
        if (!varies(f, i, side)) continue;
        for (std::size_t s = 0; s < all.size(); ++s) {
          Lists& lists = all[s];
          if (f + 1 >= lists.start.size() || lists.start[f] + i >= lists.start[f + 1]) continue;
          Place& at = lists.pairs[lists.start[f] + i][side];
          const std::int32_t stage = first_stage() + static_cast<std::int32_t>(s);
          fill.moves.push_back(
              {stage, -1, at.index, 0, rows[s], 1, fill_group, at.space == Space::constant});
          at = {Space::rows, fill_group, own, rows[s]++};
        }
      }
    }
  }
  if (fill.moves.empty()) return;
  for (Lists& lists : all) {
    for (Pair& pair : lists.pairs) number_first(pair);
  }
  std::stable_sort(fill.moves.begin(), fill.moves.end(),
                   [](const Move& a, const Move& b) { return a.stage < b.stage; });
  std::vector<Move> merged;
  for (const Move& move : fill.moves) append(merged, move);
  fill.moves = std::move(merged);
  Group filled{Kind::constant, group().begin, group().end, 0, {}};
  filled.features = *std::max_element(rows.begin(), rows.end());
  if (std::any_of(rows.begin(), rows.end(), [&](std::int32_t n) { return n != filled.features; })) {
    filled.per_stage = std::move(rows);
  }
  // In front of the group's own instructions, in the same list.
  const std::int32_t mine = group_;
  program_.groups.push_back(std::move(filled));
  is_forward_.push_back(is_forward_[static_cast<std::size_t>(mine)]);
  group_ = fill_group;
  emit(std::move(fill));
  group_ = mine;
}

}  // namespace nanochat::program

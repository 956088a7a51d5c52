// The state of one lowering. Internal to the lowering; other code calls lower().
//
// Groups are lowered one after the other, in the order in which they run; `group_` is the current
// one. emit() appends to the forward or the backward list of the current group. Sums over lanes and
// the scatter always run backward. A group that the lowering adds (fill_varying) goes after all
// others, so existing group indices stay valid. Files:
//   lower.cpp            driver, addresses, leaves
//   lists.cpp            operands of a group by position
//   lower_sums.cpp       maps, sums, maxima, selections
//   lower_cross.cpp      sums over other positions
//   lower_gradients.cpp  sums over lanes, gradients of parameters, scatter
#ifndef NANOCHAT_SCALAR_PROGRAM_LOWERING_HPP_
#define NANOCHAT_SCALAR_PROGRAM_LOWERING_HPP_

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {

// Does `next` continue `last`, apart from index, row and count?
inline bool same_source(const GatherMove& last, const GatherMove& next) {
  return last.slot == next.slot && last.stride == next.stride;
}
inline bool same_source(const FillMove& last, const FillMove& next) {
  return last.constant == next.constant;
}
inline bool same_source(const InputMove&, const InputMove&) { return true; }
inline bool same_source(const SeedMove&, const SeedMove&) { return true; }
inline bool same_source(const OneHotMove& last, const OneHotMove& next) {
  return last.slot == next.slot;
}
inline bool same_source(const ScatterMove& last, const ScatterMove& next) {
  return last.slot == next.slot && last.stride == next.stride && last.group == next.group;
}

// Appends a move, or lengthens the last one if `next` continues it.
template <class Move>
void append(std::vector<Move>& moves, const Move& next) {
  if (!moves.empty()) {
    Move& last = moves.back();
    if (last.position == next.position && same_source(last, next) &&
        next.index == last.index + last.count && next.row == last.row + last.count) {
      last.count += next.count;
      return;
    }
  }
  moves.push_back(next);
}

class Lowering {
 public:
  Lowering(Graph& graph, Numerics numerics);
  VectorProgram run();  // once

 private:
  const Node& node(Id id) const { return graph_.nodes[id]; }
  const Group& group() const { return program_.group(group_); }
  const std::vector<Id>& members() const {
    return grouping_.members[static_cast<std::size_t>(group_)];
  }
  std::uint32_t start(std::int32_t position) const {
    return grouping_.starts[static_cast<std::size_t>(group_)]
                           [static_cast<std::size_t>(position - group().begin)];
  }
  // Positions that have members, from first to last; a shared group has one, named `shared`.
  std::int32_t first_position() const { return group().begin; }
  std::int32_t last_position() const { return group().is_shared() ? shared : group().end - 1; }
  bool from_zero() const { return node(members().front()).from_zero; }

  void read_limits();
  void mark_parameter_gradients();
  void mark_forward();
  void emit(Instruction instruction);
  Address address_of(Id id);
  std::int32_t constant(double value);
  void lower_group();
  void lower_gather();
  void lower_input();
  void lower_seed();
  void lower_one_hot();

  ProductLists lists_at(std::int32_t position);
  std::vector<ProductLists> all_lists();
  void fill_varying(std::vector<ProductLists>& all);
  void add_filled_group(std::vector<FillMove> moves, std::vector<std::int32_t> rows);

  Destination destination(std::int32_t position, const LoopNest& nest) const;
  Destination whole_group() const;
  bool same_shape(std::int32_t other) const;
  bool is_whole(const std::vector<ProductLists>& all) const;
  bool is_whole_operand(const Address& address, const Address& first, std::int32_t feature) const;
  bool reads_blocks(const ProductLists& lists) const;
  void for_positions(const std::vector<ProductLists>& all,
                     const std::function<void(std::int32_t, const ProductLists&)>& visit) const;
  void lower_map();
  void lower_largest();
  void lower_select();
  void lower_sum();
  void emit_sum(std::int32_t position, const LoopNest& nest);

  void lower_cross(const std::vector<ProductLists>& all);

  void lower_shared_sum(const ProductLists& lists);
  void reduce(std::int32_t group, const std::vector<Reduction>& reductions);
  void lower_parameter_gradients();
  void find_first_writes(std::size_t first);
  void check_scatter_order(const std::vector<Product>& pairs);
  void lower_scatter();

  Graph& graph_;
  Grouping grouping_;
  bool exact_;
  VectorProgram program_;
  std::int32_t group_ = 0;
  std::vector<char> is_forward_;             // per group
  std::vector<char> is_parameter_gradient_;  // per node: summed over all lanes, stored in no group
  std::unordered_map<std::uint64_t, std::int32_t> constants_;  // by their bits
};

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_LOWERING_HPP_

// The state of one lowering. Internal to its files; everyone else calls lower().
//
// Contract: groups are lowered one after the other in the order in which they run; `group_` is the
// one at hand. emit() names it as the destination and knows whether it runs forward or backward;
// sums over lanes and the scatter always run backward. A group that the lowering adds for itself
// (fill_varying) goes behind all others, so that a group keeps its index. Each file makes one sort
// of thing:
//   lower.cpp            the driver, places, leaves
//   lower_lists.cpp      the operands of a group, by stage
//   lower_sums.cpp       maps, sums, maxima, selections
//   lower_cross.cpp      sums over other stages
//   lower_gradients.cpp  sums over lanes, gradients of parameters, scatter
#ifndef NANOCHAT_SCALAR_PROGRAM_LOWERING_HPP_
#define NANOCHAT_SCALAR_PROGRAM_LOWERING_HPP_

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {

// Adds a move, or lengthens the last one where `next` continues it.
void append(std::vector<Move>& moves, const Move& next);

class Lowering {
 public:
  Lowering(Graph& graph, Numerics numerics);
  VectorProgram run();  // once

 private:
  const Node& node(Id id) const { return graph_.nodes[id]; }
  const Group& group() const { return program_.groups[static_cast<std::size_t>(group_)]; }
  const std::vector<Id>& members() const {
    return grouping_.members[static_cast<std::size_t>(group_)];
  }
  std::uint32_t start(std::int32_t stage) const {
    return grouping_
        .starts[static_cast<std::size_t>(group_)][static_cast<std::size_t>(stage - group().begin)];
  }
  // Stages that have members, from first to last; a shared group has one, named `shared`.
  std::int32_t first_stage() const { return group().begin; }
  std::int32_t last_stage() const { return group().is_shared() ? shared : group().end - 1; }

  void mark_forward();
  void emit(Instruction instruction);
  Place place(Id id);
  std::int32_t constant(double value);
  Ref visible(Id id);
  void lower_group();
  void lower_leaf();

  Lists lists_of(std::int32_t stage);
  std::vector<Lists> all_lists();
  void fill_varying(std::vector<Lists>& all);

  bool same_shape(std::int32_t other) const;
  bool is_whole(const std::vector<Lists>& all) const;
  void emit_whole(const Lists& head, Instruction instruction);
  bool reads_blocks(const Lists& lists) const;
  void for_stages(const std::vector<Lists>& all,
                  const std::function<void(std::int32_t, const Lists&)>& visit) const;
  void place_part(Instruction& part, std::int32_t stage, const Nest& nest) const;
  void lower_map();
  void lower_rows();
  void lower_sum();
  void emit_sum(std::int32_t stage, const Nest& nest);

  void lower_cross(const std::vector<Lists>& all);

  void lower_shared_sum(const Lists& lists);
  void reduce(const std::vector<Reduction>& reductions);
  void lower_parameter_gradients();
  void find_first_writes(std::size_t first);
  void check_scatter_order(const std::vector<Product>& pairs);
  void lower_scatter();

  Graph& graph_;
  Grouping grouping_;
  bool exact_;
  VectorProgram program_;
  std::int32_t group_ = 0;
  std::vector<char> is_forward_;             // of each group
  std::vector<char> is_parameter_gradient_;  // of each node: made from all lanes, stored nowhere
  std::unordered_map<std::uint64_t, std::int32_t> constants_;  // by their bits
};

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_LOWERING_HPP_

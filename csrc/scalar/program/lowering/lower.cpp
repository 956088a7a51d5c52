// From groups of nodes to instructions: the driver, and what leaves become.
//
// Needs: groups in an order in which they can run. Makes the instructions of one group after the
// other, forward where an output or a watched value needs one of its members, else backward; a leaf
// becomes moves. Sums that are nothing but gradients of parameters are no arrays: they are made
// last, from all lanes at once (lower_gradients.cpp). Right because which operand stands where is
// read from the graph, so every number is computed from what the graph says.
#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

constexpr std::int32_t all_tokens = std::numeric_limits<std::int32_t>::max();

}  // namespace

Lowering::Lowering(Graph& graph, Numerics numerics)
    : graph_(graph), grouping_(group_nodes(graph)), exact_(numerics == Numerics::exact) {
  program_.numerics = numerics;
  program_.stages = static_cast<std::int32_t>(graph.outputs.size());
  program_.parameters = graph.parameters;
  program_.groups = grouping_.groups;
  program_.ordered = graph.ordered;
  for (const Node& each : graph.nodes) {
    if (each.kind == Kind::input) program_.inputs = std::max(program_.inputs, each.slot + 1);
    const bool gathers = each.kind == Kind::gather, selects = each.kind == Kind::select;
    if (!gathers && !selects) continue;
    program_.slots = std::max(program_.slots, each.slot + 1);
    program_.limits.resize(static_cast<std::size_t>(program_.slots), all_tokens);
    std::int32_t& limit = program_.limits[static_cast<std::size_t>(each.slot)];
    limit = std::min(limit, gathers ? each.rows : static_cast<std::int32_t>(each.count));
  }
}

VectorProgram Lowering::run() {
  mark_forward();
  for (std::size_t g = 0; g < grouping_.groups.size(); ++g) {
    group_ = static_cast<std::int32_t>(g);
    if (!is_parameter_gradient_[grouping_.members[g].front()]) lower_group();
  }
  lower_parameter_gradients();
  lower_scatter();
  for (const Id id : graph_.outputs) program_.outputs.push_back(visible(id));
  for (const Id id : graph_.watched) program_.watched.push_back(visible(id));
  return std::move(program_);
}

void Lowering::mark_forward() {
  std::vector<char> needed(graph_.nodes.size(), 0);
  for (const Id id : graph_.outputs) needed[id] = 1;
  for (const Id id : graph_.watched) needed[id] = 1;
  is_parameter_gradient_.assign(graph_.nodes.size(), 0);
  for (const Id id : graph_.parameter_gradients) {
    const bool own_sum = id != none && node(id).kind == Kind::sum && node(id).stage == shared;
    if (own_sum) is_parameter_gradient_[id] = 1;
  }
  is_forward_.assign(grouping_.groups.size(), 0);
  for (Id id = static_cast<Id>(graph_.nodes.size()); id-- > 0;) {
    if (!needed[id]) {
      graph_.for_operands(id, [&](Id& operand) {
        if (is_parameter_gradient_[operand]) is_parameter_gradient_[operand] = 0;
      });
      continue;
    }
    graph_.for_operands(id, [&](Id& operand) { needed[operand] = 1; });
    if (grouping_.group_of[id] >= 0) {
      is_forward_[static_cast<std::size_t>(grouping_.group_of[id])] = 1;
    }
  }
  // A group whose members are only partly gradients of parameters is stored like any other.
  for (const std::vector<Id>& ids : grouping_.members) {
    const bool all =
        std::all_of(ids.begin(), ids.end(), [&](Id id) { return is_parameter_gradient_[id] != 0; });
    if (!all) {
      for (const Id id : ids) is_parameter_gradient_[id] = 0;
    }
  }
}

void Lowering::emit(Instruction instruction) {
  instruction.group = group_;
  auto& list = is_forward_[static_cast<std::size_t>(group_)] ? program_.forward : program_.backward;
  list.push_back(std::move(instruction));
}

Place Lowering::place(Id id) {
  if (id >= one) return {};
  const Node& factor = node(id);
  if (factor.kind == Kind::parameter) return {Space::parameter, 0, own, factor.index};
  if (factor.kind == Kind::constant) return {Space::constant, 0, own, constant(factor.value)};
  const std::int32_t g = grouping_.group_of[id], f = grouping_.feature_of[id];
  if (factor.stage == shared) return {Space::number, g, own, f};
  return {Space::rows, g, factor.stage, f};
}

std::int32_t Lowering::constant(double value) {
  const auto [found, fresh] = constants_.try_emplace(
      std::bit_cast<std::uint64_t>(value), static_cast<std::int32_t>(program_.constants.size()));
  if (fresh) program_.constants.push_back(value);
  return found->second;
}

Ref Lowering::visible(Id id) {
  const Place at = place(id);
  return {at.space, at.group, at.stage, at.index};
}

void Lowering::lower_group() {
  switch (group().kind) {
    case Kind::constant:
    case Kind::parameter:
      break;
    case Kind::gather:
    case Kind::input:
    case Kind::seed:
    case Kind::one_hot:
    case Kind::not_one_hot:
      lower_leaf();
      break;
    case Kind::sum:
      lower_sum();
      break;
    case Kind::largest:
    case Kind::select:
      lower_rows();
      break;
    default:
      lower_map();
      break;
  }
}

// One move for each run of features that follow each other.
void Lowering::lower_leaf() {
  Instruction leaf{};
  const Kind kind = group().kind;
  leaf.op = kind == Kind::gather  ? Op::gather
            : kind == Kind::input ? Op::input
            : kind == Kind::seed  ? Op::seed
                                  : Op::one_hot;
  leaf.negated = kind == Kind::not_one_hot;
  for (const Id id : members()) {
    const Node& each = node(id);
    // An input is named by its slot, everything else by slot and index.
    const std::int32_t index = kind == Kind::input ? each.slot : each.index;
    const std::int32_t slot = kind == Kind::input ? -1 : each.slot;
    append(leaf.moves,
           {each.stage, slot, index, each.stride, grouping_.feature_of[id], 1, group_, false});
  }
  emit(std::move(leaf));
}

void append(std::vector<Move>& moves, const Move& next) {
  if (!moves.empty()) {
    Move& last = moves.back();
    if (last.stage == next.stage && last.slot == next.slot && last.stride == next.stride &&
        last.group == next.group && last.constant == next.constant &&
        next.index == last.index + last.count && next.row == last.row + last.count) {
      last.count += next.count;
      return;
    }
  }
  moves.push_back(next);
}

VectorProgram lower(Graph& graph, Numerics numerics) { return Lowering(graph, numerics).run(); }

}  // namespace nanochat::program

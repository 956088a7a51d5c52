// From groups of nodes to instructions: the driver and the leaves.
//
// Needs: groups in an order in which they can run. Makes: the instructions of one group after the
// other, forward if an output or an observed value needs a member of the group, backward otherwise.
// Leaves become moves. Sums that are only gradients of parameters are not stored in groups; they
// come last, summed over all lanes (lower_gradients.cpp). Correct because every operand is read
// from the graph.
#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "scalar/program/graph/verify.hpp"
#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

constexpr std::int32_t all_tokens = std::numeric_limits<std::int32_t>::max();

}  // namespace

Lowering::Lowering(Graph& graph, Numerics numerics)
    : graph_(graph), grouping_(group_nodes(graph)), exact_(numerics == Numerics::exact) {
  program_.numerics = numerics;
  program_.positions = static_cast<std::int32_t>(graph.outputs.size());
  program_.parameters = graph.parameters;
  program_.groups = grouping_.groups;
  program_.ordered = graph.ordered;
  read_limits();
}

void Lowering::read_limits() {
  for (const Node& each : graph_.nodes) {
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
  mark_parameter_gradients();
  mark_forward();
  for (std::size_t g = 0; g < grouping_.groups.size(); ++g) {
    group_ = static_cast<std::int32_t>(g);
    if (!is_parameter_gradient_[members().front()]) lower_group();
  }
  lower_parameter_gradients();
  lower_scatter();
  for (const Id id : graph_.outputs) program_.outputs.push_back(ref_to(address_of(id)));
  for (const Id id : graph_.observed) program_.observed.push_back(ref_to(address_of(id)));
  return std::move(program_);
}

// A gradient of a parameter that another node uses is stored like any other sum, and so is a group
// of which only some members are such gradients.
void Lowering::mark_parameter_gradients() {
  is_parameter_gradient_.assign(graph_.nodes.size(), 0);
  for (const Id id : graph_.parameter_gradients) {
    const bool is_sum = id != none && node(id).kind == Kind::sum && node(id).position == shared;
    if (is_sum) is_parameter_gradient_[id] = 1;
  }
  for (Id id = 0; id < graph_.nodes.size(); ++id) {
    graph_.for_operands(id, [&](Id& operand) { is_parameter_gradient_[operand] = 0; });
  }
  for (const std::vector<Id>& ids : grouping_.members) {
    const bool all =
        std::all_of(ids.begin(), ids.end(), [&](Id id) { return is_parameter_gradient_[id] != 0; });
    if (all) continue;
    for (const Id id : ids) is_parameter_gradient_[id] = 0;
  }
}

void Lowering::mark_forward() {
  std::vector<char> needed(graph_.nodes.size(), 0);
  for (const Id id : graph_.outputs) needed[id] = 1;
  for (const Id id : graph_.observed) needed[id] = 1;
  is_forward_.assign(grouping_.groups.size(), 0);
  for (Id id = static_cast<Id>(graph_.nodes.size()); id-- > 0;) {
    if (!needed[id]) continue;
    graph_.for_operands(id, [&](Id& operand) { needed[operand] = 1; });
    if (grouping_.group_of[id] >= 0) {
      is_forward_[static_cast<std::size_t>(grouping_.group_of[id])] = 1;
    }
  }
}

void Lowering::emit(Instruction instruction) {
  auto& list = is_forward_[static_cast<std::size_t>(group_)] ? program_.forward : program_.backward;
  list.push_back(std::move(instruction));
}

Address Lowering::address_of(Id id) {
  if (id >= one) return {};
  const Node& factor = node(id);
  if (factor.kind == Kind::parameter) return {AddressSpace::parameter, 0, own, factor.index};
  if (factor.kind == Kind::constant) {
    return {AddressSpace::constant, 0, own, constant(factor.value)};
  }
  const std::int32_t g = grouping_.group_of[id], f = grouping_.feature_of[id];
  if (factor.position == shared) return {AddressSpace::shared_number, g, own, f};
  return {AddressSpace::rows, g, factor.position, f};
}

std::int32_t Lowering::constant(double value) {
  const auto [found, fresh] = constants_.try_emplace(
      std::bit_cast<std::uint64_t>(value), static_cast<std::int32_t>(program_.constants.size()));
  if (fresh) program_.constants.push_back(value);
  return found->second;
}

void Lowering::lower_group() {
  switch (group().kind) {
    case Kind::constant:
    case Kind::parameter:
      break;
    case Kind::gather:
      lower_gather();
      break;
    case Kind::input:
      lower_input();
      break;
    case Kind::seed:
      lower_seed();
      break;
    case Kind::one_hot:
    case Kind::not_one_hot:
      lower_one_hot();
      break;
    case Kind::sum:
      lower_sum();
      break;
    case Kind::largest:
      lower_largest();
      break;
    case Kind::select:
      lower_select();
      break;
    default:
      lower_map();
      break;
  }
}

void Lowering::lower_gather() {
  GatherRows gather{group_, {}};
  for (const Id id : members()) {
    const Node& each = node(id);
    append(gather.moves,
           {each.position, each.slot, each.index, each.stride, grouping_.feature_of[id], 1});
  }
  emit(std::move(gather));
}

void Lowering::lower_input() {
  InputRows input{group_, {}};
  for (const Id id : members()) {
    append(input.moves, {node(id).position, node(id).slot, grouping_.feature_of[id], 1});
  }
  emit(std::move(input));
}

void Lowering::lower_seed() {
  SeedRows seed{group_, {}};
  for (const Id id : members()) {
    append(seed.moves, {node(id).position, node(id).index, grouping_.feature_of[id], 1});
  }
  emit(std::move(seed));
}

void Lowering::lower_one_hot() {
  OneHotRows one_hot{group_, group().kind == Kind::not_one_hot, {}};
  for (const Id id : members()) {
    const Node& each = node(id);
    append(one_hot.moves, {each.position, each.slot, each.index, grouping_.feature_of[id], 1});
  }
  emit(std::move(one_hot));
}

VectorProgram lower(Graph& graph, Numerics numerics) {
  VectorProgram program = Lowering(graph, numerics).run();
  verify(program, "lower");
  return program;
}

std::vector<std::int32_t> last_slots(const VectorProgram& program) {
  std::vector<std::int32_t> last(static_cast<std::size_t>(program.positions), 0);
  const auto read = [&](const auto& moves) {
    for (const auto& move : moves) {
      if (move.position == shared) continue;
      std::int32_t& slot = last[static_cast<std::size_t>(move.position)];
      slot = std::max(slot, move.slot);
    }
  };
  for (const auto* list : {&program.forward, &program.backward}) {
    for (const Instruction& instruction : *list) {
      std::visit(Overloaded{[&](const GatherRows& each) { read(each.moves); },
                            [&](const OneHotRows& each) { read(each.moves); },
                            [&](const SelectRows& each) { read(each.moves); },
                            [&](const ScatterRows& each) { read(each.moves); }, [](const auto&) {}},
                 instruction);
    }
  }
  for (std::size_t i = 1; i < last.size(); ++i) last[i] = std::max(last[i], last[i - 1]);
  return last;
}

}  // namespace nanochat::program

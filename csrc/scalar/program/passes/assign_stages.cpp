// Which position does each number belong to? The first output that needs it.
//
// Needs: outputs in the order of positions. Writes: Node::stage. In a causal model this finds the
// positions without being told: a key is first needed by the loss of its own position, although
// later losses need it too. So a shorter document runs exactly the nodes of the stages it has.
// Parameters, constants and what is computed from them alone for several outputs belong to no
// stage (`shared`); what one output alone needs keeps its stage, so that the same work on the
// constants of many examples is found to be the same work.
#include <algorithm>
#include <limits>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

void assign_stages(Graph& graph) {
  constexpr std::int32_t unused = std::numeric_limits<std::int32_t>::max();
  const std::size_t size = graph.nodes.size();
  std::vector<std::int32_t> earliest(size, unused);
  std::vector<std::int32_t> latest(size, -1);
  const auto need = [&](Id id, std::int32_t from, std::int32_t to) {
    earliest[id] = std::min(earliest[id], from);
    latest[id] = std::max(latest[id], to);
  };
  for (std::size_t i = 0; i < graph.outputs.size(); ++i) {
    need(graph.outputs[i], static_cast<std::int32_t>(i), static_cast<std::int32_t>(i));
  }
  for (Id id = static_cast<Id>(size); id-- > 0;) {
    if (earliest[id] == unused) continue;
    graph.for_operands(id, [&](Id& operand) { need(operand, earliest[id], latest[id]); });
  }
  std::vector<char> pure(size, 1);
  for (Id id = 0; id < size; ++id) {
    Node& node = graph.nodes[id];
    if (is_leaf(node.kind)) {
      pure[id] = node.kind == Kind::constant || node.kind == Kind::parameter;
      node.stage = pure[id] ? shared : earliest[id] == unused ? 0 : earliest[id];
      continue;
    }
    pure[id] = node.kind != Kind::select;  // a token chooses
    std::int32_t last = shared;
    graph.for_operands(id, [&](Id& operand) {
      pure[id] = pure[id] && pure[operand];
      last = std::max(last, graph.nodes[operand].stage);
    });
    // Watched values that no output needs come as soon as their operands are there.
    if (earliest[id] == unused) {
      node.stage = pure[id] ? shared : last;
    } else {
      node.stage = pure[id] && earliest[id] != latest[id] ? shared : earliest[id];
    }
  }
}

}  // namespace nanochat::program

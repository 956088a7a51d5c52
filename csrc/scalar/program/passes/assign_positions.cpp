// Assigns each number to a position in the document: that of the first output that needs it.
//
// Needs: outputs in the order of positions. Writes: Node::position. In a causal model this finds
// the positions without further information: the loss of a key's own position is the first one that
// needs the key, although later losses need it too. A shorter document therefore runs exactly the
// nodes of the positions it has. Parameters, constants and numbers computed from them alone for
// several outputs belong to no position (`shared`). Numbers that only one output needs keep its
// position, so equal work on the constants of many examples is recognized as equal.
#include <algorithm>
#include <limits>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

void assign_positions(Graph& graph) {
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
  std::vector<char> pure(size, 1);  // computed from parameters and constants only
  for (Id id = 0; id < size; ++id) {
    Node& node = graph.nodes[id];
    if (is_leaf(node.kind)) {
      pure[id] = node.kind == Kind::constant || node.kind == Kind::parameter;
      node.position = pure[id] ? shared : earliest[id] == unused ? 0 : earliest[id];
      continue;
    }
    pure[id] = node.kind != Kind::select;  // depends on a token
    std::int32_t last = shared;
    graph.for_operands(id, [&](Id& operand) {
      pure[id] = pure[id] && pure[operand];
      last = std::max(last, graph.nodes[operand].position);
    });
    // An observed value that no output needs belongs to the last position of its operands.
    if (earliest[id] == unused) {
      node.position = last;
    } else {
      node.position = pure[id] && earliest[id] != latest[id] ? shared : earliest[id];
    }
  }
}

}  // namespace nanochat::program

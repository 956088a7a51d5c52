// What nothing needs is not computed.
//
// Needs: operands before users. Rewrites: drops every node that no output, watched value or
// gradient reaches, and renumbers the rest in the same order. Right because a node has no effect
// but its value.
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

void remove_dead(Graph& graph) {
  std::vector<char> alive(graph.nodes.size(), 0);
  graph.for_roots([&](Id& id) { alive[id] = 1; });
  for (Id id = static_cast<Id>(graph.nodes.size()); id-- > 0;) {
    if (alive[id]) graph.for_operands(id, [&](Id& operand) { alive[operand] = 1; });
  }
  std::vector<Id> place(graph.nodes.size(), none);
  std::vector<Product> products;
  std::vector<Id> operands;
  products.reserve(graph.products.size());
  Id next = 0;
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    if (!alive[id]) continue;
    Node node = graph.nodes[id];
    // Sums may share products in the old pool: each gets its own, renumbered once.
    const auto moved = [&](Id operand) { return operand >= one ? operand : place[operand]; };
    if (is_unary(node.kind)) {
      node.first = place[node.first];
    } else if (node.kind == Kind::sum) {
      const std::uint32_t from = node.first;
      node.first = static_cast<std::uint32_t>(products.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        products.push_back({moved(graph.products[i].a), moved(graph.products[i].b)});
      }
    } else if (!is_leaf(node.kind)) {
      const std::uint32_t from = node.first;
      node.first = static_cast<std::uint32_t>(operands.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        operands.push_back(place[graph.operands[i]]);
      }
    }
    graph.nodes[next] = node;
    place[id] = next++;
  }
  graph.nodes.resize(next);
  graph.products = std::move(products);
  graph.operands = std::move(operands);
  graph.for_roots([&](Id& id) { id = place[id]; });
}

}  // namespace nanochat::program

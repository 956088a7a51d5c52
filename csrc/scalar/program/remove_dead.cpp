// What nothing needs is not computed.
//
// Needs: operands before users. Rewrites: drops every node that no output, watched value or
// gradient reaches, and renumbers the rest in the same order. Right because a node has no effect
// but its value.
#include "scalar/program/passes.hpp"

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
  Id next = 0;
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    if (!alive[id]) continue;
    graph.for_operands(id, [&](Id& operand) { operand = place[operand]; });
    Node node = graph.nodes[id];
    if (node.kind == Kind::sum) {
      const auto begin = graph.products.begin() + node.first;
      node.first = static_cast<std::uint32_t>(products.size());
      products.insert(products.end(), begin, begin + node.count);
    } else if (node.kind == Kind::select || node.kind == Kind::largest) {
      const auto begin = graph.operands.begin() + node.first;
      node.first = static_cast<std::uint32_t>(operands.size());
      operands.insert(operands.end(), begin, begin + node.count);
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

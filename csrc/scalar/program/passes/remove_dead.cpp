// Removes dead nodes.
//
// Needs: operands before users. Rewrites: removes every node that no output, observed value or
// gradient depends on, and renumbers the others in the same order. Correct because nodes have no
// side effects.
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

void remove_dead(Graph& graph) {
  std::vector<char> alive(graph.nodes.size(), 0);
  graph.for_roots([&](Id& id) { alive[id] = 1; });
  for (Id id = static_cast<Id>(graph.nodes.size()); id-- > 0;) {
    if (alive[id]) graph.for_operands(id, [&](Id& operand) { alive[operand] = 1; });
  }
  std::vector<Id> new_ids(graph.nodes.size(), none);
  std::vector<Product> products;
  std::vector<Id> operands;
  products.reserve(graph.products.size());
  Id next = 0;
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    if (!alive[id]) continue;
    Node node = graph.nodes[id];
    // Sums may share products in the old pool. Each sum gets its own copy.
    const auto new_id = [&](Id operand) { return operand >= one ? operand : new_ids[operand]; };
    if (is_unary(node.kind)) {
      node.first = new_ids[node.first];
    } else if (node.kind == Kind::sum) {
      const std::uint32_t from = node.first;
      node.first = static_cast<std::uint32_t>(products.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        products.push_back({new_id(graph.products[i].a), new_id(graph.products[i].b)});
      }
    } else if (!is_leaf(node.kind)) {
      const std::uint32_t from = node.first;
      node.first = static_cast<std::uint32_t>(operands.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        operands.push_back(new_ids[graph.operands[i]]);
      }
    }
    graph.nodes[next] = node;
    new_ids[id] = next++;
  }
  graph.nodes.resize(next);
  graph.products = std::move(products);
  graph.operands = std::move(operands);
  graph.for_roots([&](Id& id) { id = new_ids[id]; });
}

}  // namespace nanochat::program

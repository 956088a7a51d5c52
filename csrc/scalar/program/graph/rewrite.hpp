// Rebuilds a graph node by node, for passes that replace nodes.
#ifndef NANOCHAT_SCALAR_PROGRAM_REWRITE_HPP_
#define NANOCHAT_SCALAR_PROGRAM_REWRITE_HPP_

#include <utility>

#include "scalar/program/graph/graph.hpp"

namespace nanochat::program {

// Calls write(out, node) for every node, operands before users. It adds the replacement of the node
// to `out` and returns the replacement's id. The node's products or operands are already the last
// ones of `out`, with ids of `out`; out.add(node) keeps the node unchanged.
template <class Write>
void rewrite(Graph& graph, Write&& write) {
  Graph out;
  out.nodes.reserve(graph.nodes.size() + graph.outputs.size());
  std::vector<Id> new_ids(graph.nodes.size());
  const auto new_id = [&](Id id) { return id >= one ? id : new_ids[id]; };
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    Node node = graph.nodes[id];
    const std::uint32_t from = node.first;
    if (is_unary(node.kind)) {
      node.first = new_id(node.first);
    } else if (node.kind == Kind::sum) {
      node.first = static_cast<std::uint32_t>(out.products.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        out.products.push_back({new_id(graph.products[i].a), new_id(graph.products[i].b)});
      }
    } else if (!is_leaf(node.kind)) {
      node.first = static_cast<std::uint32_t>(out.operands.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        out.operands.push_back(new_id(graph.operands[i]));
      }
    }
    new_ids[id] = write(out, node);
  }
  out.outputs = std::move(graph.outputs);
  out.observed = std::move(graph.observed);
  out.seeds = std::move(graph.seeds);
  out.parameter_gradients = std::move(graph.parameter_gradients);
  out.gather_gradients = std::move(graph.gather_gradients);
  out.parameters = graph.parameters;
  out.ordered = graph.ordered;
  out.for_roots([&](Id& id) { id = new_id(id); });
  graph = std::move(out);
}

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_REWRITE_HPP_

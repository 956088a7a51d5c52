// A graph written anew, node by node, by a pass that puts something else in the place of some.
#ifndef NANOCHAT_SCALAR_PROGRAM_REWRITE_HPP_
#define NANOCHAT_SCALAR_PROGRAM_REWRITE_HPP_

#include <utility>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

// Calls write(out, node) for every node, operands before users: it adds to `out` what stands for
// the node and returns its place there. The node's own products or operands are in `out` already,
// the last ones, and name places in `out`; out.add(node) keeps the node as it is.
template <class Write>
void rewrite(Graph& graph, Write&& write) {
  Graph out;
  out.nodes.reserve(graph.nodes.size() + graph.outputs.size());
  std::vector<Id> place(graph.nodes.size());
  const auto moved = [&](Id id) { return id >= one ? id : place[id]; };
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    Node node = graph.nodes[id];
    const std::uint32_t from = node.first;
    if (is_unary(node.kind)) {
      node.first = moved(node.first);
    } else if (node.kind == Kind::sum) {
      node.first = static_cast<std::uint32_t>(out.products.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        out.products.push_back({moved(graph.products[i].a), moved(graph.products[i].b)});
      }
    } else if (!is_leaf(node.kind)) {
      node.first = static_cast<std::uint32_t>(out.operands.size());
      for (std::uint32_t i = from; i < from + node.count; ++i) {
        out.operands.push_back(moved(graph.operands[i]));
      }
    }
    place[id] = write(out, node);
  }
  out.outputs = std::move(graph.outputs);
  out.watched = std::move(graph.watched);
  out.parameters = graph.parameters;
  out.ordered = graph.ordered;
  out.for_roots([&](Id& id) { id = moved(id); });
  graph = std::move(out);
}

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_REWRITE_HPP_

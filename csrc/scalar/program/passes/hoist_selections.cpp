// Moves a common factor behind a selection: a softmax of which one probability is used divides
// once.
//
// Needs: merged nodes (the terms of a softmax then share one factor). Rewrites: select(x₀·y, x₁·y,
// …) into select(x₀, x₁, …)·y if y is a factor of every candidate. The value is bit-identical,
// because it is the product of the same two numbers. Gradients are added in a different order, so
// the pass is for fast numerics only.
#include <span>

#include "scalar/program/graph/rewrite.hpp"
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

const Product* single_product(const Graph& graph, Id id) {
  const Node& node = graph.nodes[id];
  if (!node.product) return nullptr;
  const Product& product = graph.products[node.first];
  return product.b == one ? nullptr : &product;
}

// The factor of the first candidate that all candidates have, or `one`.
Id common_factor(const Graph& graph, std::span<const Id> candidates) {
  const Product* first = single_product(graph, candidates.front());
  if (first == nullptr) return one;
  for (const Id factor : {first->a, first->b}) {
    bool in_all = true;
    for (const Id id : candidates) {
      const Product* product = single_product(graph, id);
      in_all = in_all && product != nullptr && (product->a == factor || product->b == factor);
    }
    if (in_all) return factor;
  }
  return one;
}

}  // namespace

void hoist_selections(Graph& graph) {
  rewrite(graph, [](Graph& out, Node node) {
    if (node.kind != Kind::select) return out.add(node);
    const std::span<Id> candidates(out.operands.data() + node.first, node.count);
    std::vector<Id> factors;
    for (Id factor; (factor = common_factor(out, candidates)) != one;) {
      factors.push_back(factor);
      for (Id& candidate : candidates) {
        const Product& product = *single_product(out, candidate);
        candidate = product.a == factor ? product.b : product.a;
      }
    }
    Id result = out.add(node);
    for (std::size_t i = factors.size(); i-- > 0;) {
      const Product product{result, factors[i]};
      result = out.add_sum(&product, 1, node.position, node.order);
      out.nodes.back().product = true;
    }
    return result;
  });
}

}  // namespace nanochat::program

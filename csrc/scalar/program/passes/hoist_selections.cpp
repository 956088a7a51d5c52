// Select first, then multiply: a softmax of which one probability is wanted divides once.
//
// Needs: merged nodes (a softmax's terms then share one factor). Rewrites: select(x₀·y, x₁·y, …)
// into select(x₀, x₁, …)·y, when y is in every candidate. Right to the bit in the value, which is
// the product of the same two numbers; gradients are added in another order, so `fast` alone.
#include <span>

#include "scalar/program/graph/rewrite.hpp"

namespace nanochat::program {
namespace {

const Product* single_product(const Graph& graph, Id id) {
  const Node& node = graph.nodes[id];
  if (!node.product) return nullptr;
  const Product& product = graph.products[node.first];
  return product.b == one ? nullptr : &product;
}

// The factor of candidate 0 that is in all of them, or `one`.
Id common_factor(const Graph& graph, std::span<const Id> candidates) {
  const Product* head = single_product(graph, candidates.front());
  if (head == nullptr) return one;
  for (const Id factor : {head->a, head->b}) {
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
    Id place = out.add(node);
    for (std::size_t i = factors.size(); i-- > 0;) {
      const Product product{place, factors[i]};
      place = out.add_sum(&product, 1, node.stage, node.order);
      out.nodes.back().product = true;
    }
    return place;
  });
}

}  // namespace nanochat::program

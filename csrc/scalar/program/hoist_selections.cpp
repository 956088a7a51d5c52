// Select first, then multiply: a softmax of which one probability is wanted divides once.
//
// Needs: merged nodes (a softmax's terms then share one factor). Rewrites: select(x₀·y, x₁·y, …)
// into select(x₀, x₁, …)·y, when y is in every candidate. Right to the bit in the value, which is
// the product of the same two numbers; gradients are added in another order, so `fast` alone.
#include "scalar/program/passes.hpp"

namespace nanochat::program {
namespace {

const Product* single_product(const Graph& graph, Id id) {
  const Node& node = graph.nodes[id];
  if (!node.product) return nullptr;
  const Product& product = graph.products[node.first];
  return product.b == one ? nullptr : &product;
}

// The factor of candidate 0 that is in all of them, or `one`.
Id common_factor(const Graph& graph, const std::vector<Id>& candidates) {
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
  Graph rewritten;
  rewritten.nodes.reserve(graph.nodes.size() + graph.outputs.size());
  std::vector<Id> place(graph.nodes.size());
  const auto moved = [&](Id id) { return id >= one ? id : place[id]; };
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    graph.for_operands(id, [&](Id& operand) { operand = moved(operand); });
    Node node = graph.nodes[id];
    if (node.kind != Kind::select) {
      if (node.kind == Kind::sum) {
        node.first = static_cast<std::uint32_t>(rewritten.products.size());
        const auto begin = graph.products.begin() + graph.nodes[id].first;
        rewritten.products.insert(rewritten.products.end(), begin, begin + node.count);
      } else if (node.kind == Kind::largest) {
        node.first = static_cast<std::uint32_t>(rewritten.operands.size());
        const auto begin = graph.operands.begin() + graph.nodes[id].first;
        rewritten.operands.insert(rewritten.operands.end(), begin, begin + node.count);
      }
      place[id] = rewritten.add(node);
      continue;
    }
    const auto begin = graph.operands.begin() + node.first;
    std::vector<Id> candidates(begin, begin + node.count);
    std::vector<Id> factors;
    for (Id factor; (factor = common_factor(rewritten, candidates)) != one;) {
      factors.push_back(factor);
      for (Id& candidate : candidates) {
        const Product& product = *single_product(rewritten, candidate);
        candidate = product.a == factor ? product.b : product.a;
      }
    }
    node.first = static_cast<std::uint32_t>(rewritten.operands.size());
    rewritten.operands.insert(rewritten.operands.end(), candidates.begin(), candidates.end());
    place[id] = rewritten.add(node);
    for (std::size_t i = factors.size(); i-- > 0;) {
      const Product product{place[id], factors[i]};
      place[id] = rewritten.add_sum(&product, 1, node.stage, node.order);
      rewritten.nodes.back().product = true;
    }
  }
  rewritten.outputs = graph.outputs;
  rewritten.watched = graph.watched;
  rewritten.parameters = graph.parameters;
  rewritten.ordered = graph.ordered;
  rewritten.for_roots([&](Id& id) { id = moved(id); });
  graph = std::move(rewritten);
}

}  // namespace nanochat::program

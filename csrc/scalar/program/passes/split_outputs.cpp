// Splits a loss that is a sum over positions into one output per position.
//
// Needs: the recorded graph. Rewrites: a single output  c · (0 + t₀ + t₁ + …)  or  0 + t₀ + t₁ + …
// into the outputs t₀, t₁, … and the weight c. Correct because the gradient of each term is exactly
// c · 1, and the replay adds the terms in the same order, to the same 0 or to none, before it
// multiplies. Several outputs, or one that is not such a sum, are kept, with weight 1.
#include <algorithm>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

Loss split_outputs(Graph& graph) {
  constexpr Loss unchanged{1.0, -0.0};
  if (graph.outputs.size() != 1) return unchanged;
  const auto products_of = [&](Id id) { return graph.products.data() + graph.nodes[id].first; };
  const auto is_sum = [&](Id id, std::uint32_t count) {
    return graph.nodes[id].kind == Kind::sum && graph.nodes[id].count == count;
  };
  Id root = graph.outputs.front();
  double weight = 1.0;
  if (is_sum(root, 1) && products_of(root)->b != one &&
      graph.nodes[products_of(root)->b].kind == Kind::constant) {
    weight = graph.nodes[products_of(root)->b].value;
    root = products_of(root)->a;
  }
  std::vector<Id> terms;
  while (is_sum(root, 2) && products_of(root)[0].b == one && products_of(root)[1].b == one) {
    terms.push_back(products_of(root)[1].a);
    root = products_of(root)[0].a;
  }
  const bool from_zero = is_sum(root, 1) && products_of(root)->b == one;
  if (terms.empty() && !from_zero) return unchanged;
  // 0 + t alone is kept as a node, because an output must be computed and t may be a leaf.
  terms.push_back(from_zero && !terms.empty() ? products_of(root)->a : root);
  std::reverse(terms.begin(), terms.end());
  graph.outputs = std::move(terms);
  return {weight, from_zero ? 0.0 : -0.0};
}

}  // namespace nanochat::program

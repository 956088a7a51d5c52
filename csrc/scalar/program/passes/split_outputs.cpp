// A loss that is a sum over positions becomes one output a position.
//
// Needs: the recorded graph. Rewrites: a single output  c · (0 + t₀ + t₁ + …)  or  0 + t₀ + t₁ + …
// into the outputs t₀, t₁, … and the weight c. Right because the gradient of each term is c · 1,
// exactly, and the replay adds the terms in the same order, onto the same 0 or onto none, before it
// multiplies. Several outputs, or one that is no such sum, stay as they are, with weight 1.
#include <algorithm>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

Loss split_outputs(Graph& graph) {
  constexpr Loss as_it_is{1.0, -0.0};
  if (graph.outputs.size() != 1) return as_it_is;
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
  if (terms.empty() && !from_zero) return as_it_is;
  // A lone 0 + t stays one node, which is computed where t may be a leaf.
  terms.push_back(from_zero && !terms.empty() ? products_of(root)->a : root);
  std::reverse(terms.begin(), terms.end());
  graph.outputs = std::move(terms);
  return {weight, from_zero ? 0.0 : -0.0};
}

}  // namespace nanochat::program

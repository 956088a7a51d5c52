// Chains of additions become sums of products: the dot products of the program.
//
// Needs: operands before users. Rewrites sums: a term that is a lone product which nothing else
// uses, or a product with a constant (−x is x · −1), is taken in in place of its name; and in  l +
// r  a left operand that is itself a sum with no other user gives up its products, which then come
// first. Right to the bit: microgpt.py computes
// ((x₀y₀ + x₁y₁) + x₂y₂) … in this very order, rounding each product and each sum. Only the left
// operand is opened, since a + (b + c) is another number; and it is opened only when its last
// product is of the same make (a product, or a bare term) as the next, so that a dot product plus
// a residual stays one dot product and one addition.
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

void collect_sums(Graph& graph) {
  std::vector<std::uint32_t> uses(graph.nodes.size(), 0);
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    graph.for_operands(id, [&](Id& operand) { ++uses[operand]; });
  }
  graph.for_roots([&](Id& id) { ++uses[id]; });

  // Nodes before the one at hand have their products in the new pool.
  std::vector<Product> pool;
  pool.reserve(graph.products.size());
  const auto private_sum = [&](const Product& product) -> const Node* {
    const bool lone = product.b == one && uses[product.a] == 1;
    return lone && graph.nodes[product.a].kind == Kind::sum ? &graph.nodes[product.a] : nullptr;
  };
  const auto opened = [&](const Product& product, Node& into) {
    if (product.b != one || product.a >= one) return product;
    const Node& inner = graph.nodes[product.a];
    if (inner.kind != Kind::sum || inner.count != 1) return product;
    const Product lone = pool[inner.first];
    const bool scaled = lone.b < one && graph.nodes[lone.b].kind == Kind::constant;
    if (!scaled && uses[product.a] != 1) return product;
    into.from_zero = into.from_zero || inner.from_zero;
    return lone;
  };
  for (Node& node : graph.nodes) {
    if (node.kind != Kind::sum) continue;
    const Product* terms = graph.products.data() + node.first;
    if (node.gradient) {
      const auto first = static_cast<std::uint32_t>(pool.size());
      pool.insert(pool.end(), terms, terms + node.count);
      node.first = first;
      continue;
    }
    const Node* left = private_sum(terms[0]);
    if (left != nullptr && node.count == 2) {
      const Product right = opened(terms[1], node);
      const Product last = pool[left->first + left->count - 1];
      if (left->count > 1 && (last.b == one) != (right.b == one)) left = nullptr;
    } else if (node.count > 2) {
      left = nullptr;
    }
    if (left == nullptr) {
      const auto first = static_cast<std::uint32_t>(pool.size());
      for (std::uint32_t i = 0; i < node.count; ++i) pool.push_back(opened(terms[i], node));
      node.first = first;
      continue;
    }
    // The chain grows in place where its products end the pool, or where the next product already
    // follows them; otherwise it moves to the end.
    std::uint32_t first = left->first, count = left->count;
    const bool more = node.count == 2;
    const Product right = more ? opened(terms[1], node) : Product{one, one};
    const std::size_t end = first + count;
    const bool follows =
        more && end + 1 == pool.size() && pool[end].a == right.a && pool[end].b == right.b;
    if (more && !follows && end != pool.size()) {
      const auto moved = static_cast<std::uint32_t>(pool.size());
      for (std::uint32_t i = 0; i < count; ++i) pool.push_back(Product(pool[first + i]));
      first = moved;
    }
    if (more && !follows) pool.push_back(right);
    node.from_zero = node.from_zero || left->from_zero;
    node.first = first;
    node.count = count + (more ? 1 : 0);
  }
  graph.products = std::move(pool);
}

}  // namespace nanochat::program

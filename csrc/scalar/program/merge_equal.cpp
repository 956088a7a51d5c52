// What is computed twice is computed once.
//
// Needs: operands before users. Rewrites: every use of a node into its first equal: the same kind,
// operands in the same order and the same constants. (e / total divides each term by its own
// total ** -1.) Right because equal operations on equal operands give equal bits. Where it runs
// before differentiation, gradients that went through twins are added in another order: that is
// for `fast` alone.
#include <bit>

#include "scalar/program/passes.hpp"

namespace nanochat::program {
namespace {

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
  return hash ^ (hash >> 29U);
}

std::uint64_t hash_of(const Graph& graph, const Node& node) {
  std::uint64_t hash =
      mix(static_cast<std::uint64_t>(node.kind), std::bit_cast<std::uint64_t>(node.value));
  hash = mix(hash, static_cast<std::uint64_t>(static_cast<std::uint32_t>(node.slot)) << 32U |
                       static_cast<std::uint32_t>(node.index));
  if (is_unary(node.kind)) return mix(hash, node.first);
  if (node.kind == Kind::sum) {
    for (std::uint32_t i = 0; i < node.count; ++i) {
      const Product& product = graph.products[node.first + i];
      hash = mix(hash, std::uint64_t{product.a} << 32U | product.b);
    }
  } else if (!is_leaf(node.kind)) {
    for (std::uint32_t i = 0; i < node.count; ++i) hash = mix(hash, graph.operands[node.first + i]);
  }
  return hash;
}

bool equal(const Graph& graph, const Node& x, const Node& y) {
  if (x.kind != y.kind || x.stage != y.stage || x.slot != y.slot || x.index != y.index ||
      x.stride != y.stride ||
      std::bit_cast<std::uint64_t>(x.value) != std::bit_cast<std::uint64_t>(y.value)) {
    return false;
  }
  if (is_unary(x.kind)) return x.first == y.first;
  if (is_leaf(x.kind)) return true;
  if (x.count != y.count) return false;
  for (std::uint32_t i = 0; i < x.count; ++i) {
    if (x.kind == Kind::sum) {
      const Product &p = graph.products[x.first + i], &q = graph.products[y.first + i];
      if (p.a != q.a || p.b != q.b) return false;
    } else if (graph.operands[x.first + i] != graph.operands[y.first + i]) {
      return false;
    }
  }
  return true;
}

}  // namespace

void merge_equal(Graph& graph) {
  const std::size_t size = graph.nodes.size();
  const std::size_t capacity = std::bit_ceil(2 * size + 1);
  std::vector<Id> table(capacity, none);
  std::vector<Id> first_equal(size);
  for (Id id = 0; id < size; ++id) {
    graph.for_operands(id, [&](Id& operand) { operand = first_equal[operand]; });
    const Node& node = graph.nodes[id];
    std::size_t at = hash_of(graph, node) & (capacity - 1);
    while (table[at] != none && !equal(graph, graph.nodes[table[at]], node)) {
      at = (at + 1) & (capacity - 1);
    }
    if (table[at] == none) table[at] = id;
    first_equal[id] = table[at];
  }
  graph.for_roots([&](Id& id) { id = first_equal[id]; });
}

}  // namespace nanochat::program

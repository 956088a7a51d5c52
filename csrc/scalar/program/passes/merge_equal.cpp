// Merges equal nodes (common subexpressions).
//
// Needs: operands before users. Rewrites: every use of a node into a use of the first node that is
// equal: same kind, same operands in the same order, same constants. (e / total computes total **
// -1 for each e.) Correct because equal operations on equal operands give equal bits. If it runs
// before differentiation, gradients through merged nodes are added in a different order, which only
// fast numerics allow.
#include <bit>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
  return hash ^ (hash >> 29U);
}

// The table is larger than the cache; without prefetching half of the time is spent waiting.
void fetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#endif
}

// Compares nodes with each operand replaced by the first node equal to it.
class Equals {
 public:
  explicit Equals(const Graph& graph) : graph_(graph), first_(graph.nodes.size()) {
    const auto size = static_cast<Id>(first_.size());
    const std::size_t capacity = std::bit_ceil(2 * first_.size() + 1);
    // An entry keeps part of the hash: most unequal nodes differ there and need not be read.
    struct Entry {
      Id id = none;
      std::uint32_t hash = 0;
    };
    std::vector<Entry> table(capacity);
    // The prefetched entry is wrong if an operand is found equal to another one in the meantime.
    constexpr Id ahead = 16;
    for (Id id = 0; id < size; ++id) first_[id] = id;
    for (Id id = 0; id < size; ++id) {
      if (id + ahead < size) fetch(&table[hash_of(graph.nodes[id + ahead]) & (capacity - 1)]);
      if (graph.nodes[id].kind == Kind::parameter) continue;  // each has only one node
      const std::uint64_t hash = hash_of(graph.nodes[id]);
      const auto part = static_cast<std::uint32_t>(hash >> 32U);
      std::size_t at = hash & (capacity - 1);
      while (table[at].id != none && !(table[at].hash == part && equal(table[at].id, id))) {
        at = (at + 1) & (capacity - 1);
      }
      if (table[at].id == none) table[at] = {id, part};
      first_[id] = table[at].id;
    }
  }
  std::vector<Id> take() { return std::move(first_); }

 private:
  Id merged(Id id) const { return id >= one ? id : first_[id]; }

  std::uint64_t hash_of(const Node& node) const {
    if (node.kind == Kind::sum) {
      std::uint64_t hash = node.count;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Product& product = graph_.products[node.first + i];
        hash = mix(hash, std::uint64_t{merged(product.a)} << 32U | merged(product.b));
      }
      return hash;
    }
    std::uint64_t hash =
        mix(static_cast<std::uint64_t>(node.kind), std::bit_cast<std::uint64_t>(node.value));
    hash = mix(hash, static_cast<std::uint64_t>(static_cast<std::uint32_t>(node.slot)) << 32U |
                         static_cast<std::uint32_t>(node.index));
    if (is_unary(node.kind)) return mix(hash, merged(node.first));
    if (!is_leaf(node.kind)) {
      for (std::uint32_t i = 0; i < node.count; ++i) {
        hash = mix(hash, merged(graph_.operands[node.first + i]));
      }
    }
    return hash;
  }

  bool equal(Id first, Id second) const {
    const Node &x = graph_.nodes[first], &y = graph_.nodes[second];
    if (x.kind != y.kind || x.position != y.position || x.slot != y.slot || x.index != y.index ||
        x.stride != y.stride ||
        std::bit_cast<std::uint64_t>(x.value) != std::bit_cast<std::uint64_t>(y.value)) {
      return false;
    }
    if (is_unary(x.kind)) return merged(x.first) == merged(y.first);
    if (is_leaf(x.kind)) return true;
    if (x.count != y.count || x.from_zero != y.from_zero) return false;
    for (std::uint32_t i = 0; i < x.count; ++i) {
      if (x.kind == Kind::sum) {
        const Product &p = graph_.products[x.first + i], &q = graph_.products[y.first + i];
        if (merged(p.a) != merged(q.a) || merged(p.b) != merged(q.b)) return false;
      } else if (merged(graph_.operands[x.first + i]) != merged(graph_.operands[y.first + i])) {
        return false;
      }
    }
    return true;
  }

  const Graph& graph_;
  std::vector<Id> first_;
};

}  // namespace

std::vector<Id> first_equals(const Graph& graph) { return Equals(graph).take(); }

void merge_equal(Graph& graph) {
  const std::vector<Id> first = first_equals(graph);
  const auto merge = [&](Id& id) { id = first[id]; };
  for (Id id = 0; id < graph.nodes.size(); ++id) graph.for_operands(id, merge);
  graph.for_roots(merge);
}

}  // namespace nanochat::program

// What is computed twice is computed once.
//
// Needs: operands before users. Rewrites: every use of a node into its first equal: the same kind,
// operands in the same order and the same constants. (e / total divides each term by its own
// total ** -1.) Right because equal operations on equal operands give equal bits. Where it runs
// before differentiation, gradients that went through twins are added in another order: that is
// for `fast` alone.
#include <bit>

#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
  return hash ^ (hash >> 29U);
}

// The table is larger than the cache; waiting for it would take half of the time.
void fetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#endif
}

// Nodes as they are once each operand stands for all that are equal to it.
class Equals {
 public:
  explicit Equals(const Graph& graph) : graph_(graph), first_(graph.nodes.size()) {
    const auto size = static_cast<Id>(first_.size());
    const std::size_t capacity = std::bit_ceil(2 * first_.size() + 1);
    // Part of the hash stands beside the node, which then need not be read to see that it differs.
    struct Entry {
      Id id = none;
      std::uint32_t hash = 0;
    };
    std::vector<Entry> table(capacity);
    // Fetching early may guess wrong, where an operand has yet to be found equal to another.
    constexpr Id ahead = 16;
    for (Id id = 0; id < size; ++id) first_[id] = id;
    for (Id id = 0; id < size; ++id) {
      if (id + ahead < size) fetch(&table[hash_of(graph.nodes[id + ahead]) & (capacity - 1)]);
      if (graph.nodes[id].kind == Kind::parameter) continue;  // one node each
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
  Id of(Id id) const { return id >= one ? id : first_[id]; }

  std::uint64_t hash_of(const Node& node) const {
    if (node.kind == Kind::sum) {
      std::uint64_t hash = node.count;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Product& product = graph_.products[node.first + i];
        hash = mix(hash, std::uint64_t{of(product.a)} << 32U | of(product.b));
      }
      return hash;
    }
    std::uint64_t hash =
        mix(static_cast<std::uint64_t>(node.kind), std::bit_cast<std::uint64_t>(node.value));
    hash = mix(hash, static_cast<std::uint64_t>(static_cast<std::uint32_t>(node.slot)) << 32U |
                         static_cast<std::uint32_t>(node.index));
    if (is_unary(node.kind)) return mix(hash, of(node.first));
    if (!is_leaf(node.kind)) {
      for (std::uint32_t i = 0; i < node.count; ++i) {
        hash = mix(hash, of(graph_.operands[node.first + i]));
      }
    }
    return hash;
  }

  bool equal(Id one_of, Id other) const {
    const Node &x = graph_.nodes[one_of], &y = graph_.nodes[other];
    if (x.kind != y.kind || x.stage != y.stage || x.slot != y.slot || x.index != y.index ||
        x.stride != y.stride ||
        std::bit_cast<std::uint64_t>(x.value) != std::bit_cast<std::uint64_t>(y.value)) {
      return false;
    }
    if (is_unary(x.kind)) return of(x.first) == of(y.first);
    if (is_leaf(x.kind)) return true;
    if (x.count != y.count || x.from_zero != y.from_zero) return false;
    for (std::uint32_t i = 0; i < x.count; ++i) {
      if (x.kind == Kind::sum) {
        const Product &p = graph_.products[x.first + i], &q = graph_.products[y.first + i];
        if (of(p.a) != of(q.a) || of(p.b) != of(q.b)) return false;
      } else if (of(graph_.operands[x.first + i]) != of(graph_.operands[y.first + i])) {
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

// Collects dot products before differentiation: the passes that follow see one node per sum instead
// of one per product and partial sum.
//
// Needs: operands before users; twins, the nodes that have an equal node. Rewrites: x₀y₀ + x₁y₁ +
// …, with or without a 0 in front, into one sum, if every product and partial sum has only that
// user and no twin. Correct because such a number passes its gradient on unchanged: differentiate()
// passes the gradient of the sum to each product at the time at which it would have reached that
// product in the chain. A chain with any other term is left as recorded, and so is everything built
// on it. collect_sums() decides about it later, when the final users are known.
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

// The number of uses of each node by nodes that are needed; 0: dead.
std::vector<std::uint32_t> count_uses(Graph& graph) {
  std::vector<std::uint32_t> uses(graph.nodes.size(), 0);
  graph.for_roots([&](Id& id) { ++uses[id]; });
  for (Id id = static_cast<Id>(graph.nodes.size()); id-- > 0;) {
    if (uses[id] > 0) graph.for_operands(id, [&](Id& operand) { ++uses[operand]; });
  }
  return uses;
}

class Dots {
 public:
  Dots(Graph& graph, const std::vector<char>& twins)
      : graph_(graph), twins_(twins), uses_(count_uses(graph)) {
    pool_.reserve(graph.products.size());
  }

  void run() {
    for (Id id = 0; id < graph_.nodes.size(); ++id) {
      if (graph_.nodes[id].kind != Kind::sum) continue;
      if (uses_[id] > 0) {
        collect(graph_.nodes[id]);
      } else {
        graph_.nodes[id] = {};  // dead: a constant needs no products
      }
    }
    graph_.products = std::move(pool_);
  }

 private:
  // The term's sum of products if a longer sum may take it over; null otherwise.
  const Node* open(const Product& term) const {
    if (term.b != one || term.a >= one || uses_[term.a] != 1 || twins_[term.a]) return nullptr;
    const Node& inner = graph_.nodes[term.a];
    return inner.kind == Kind::sum && pool_[inner.first].b != one ? &inner : nullptr;
  }

  // Moves the products of a node to the new pool. The sums before it are there already.
  void collect(Node& node) {
    const Product* terms = graph_.products.data() + node.first;
    const Node* left = open(terms[0]);
    const Node* right = node.count == 2 ? open(terms[1]) : nullptr;
    if (right != nullptr && right->count != 1) right = nullptr;
    if (left == nullptr || (node.count == 2) != (right != nullptr)) {
      node.first = append(terms, node.count);
      return;
    }
    std::uint32_t first = left->first;
    const std::uint32_t count = left->count;
    node.from_zero = node.from_zero || left->from_zero || (right != nullptr && right->from_zero);
    // A dot product usually grows in place, because its next product was recorded right after it.
    if (right != nullptr && right->first != first + count) {
      if (first + count != pool_.size()) first = append_again(first, count);
      pool_.push_back(Product(pool_[right->first]));
    }
    node.first = first;
    node.count = count + (right != nullptr ? 1 : 0);
  }

  std::uint32_t append(const Product* begin, std::uint32_t count) {
    const auto first = static_cast<std::uint32_t>(pool_.size());
    pool_.insert(pool_.end(), begin, begin + count);
    return first;
  }
  std::uint32_t append_again(std::uint32_t from, std::uint32_t count) {
    const auto first = static_cast<std::uint32_t>(pool_.size());
    for (std::uint32_t i = 0; i < count; ++i) pool_.push_back(Product(pool_[from + i]));
    return first;
  }

  Graph& graph_;
  const std::vector<char>& twins_;
  std::vector<std::uint32_t> uses_;
  std::vector<Product> pool_;
};

}  // namespace

void collect_dots(Graph& graph, const std::vector<char>& twins) { Dots(graph, twins).run(); }

}  // namespace nanochat::program

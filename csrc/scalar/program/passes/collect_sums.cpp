// Collects chains of additions into sums of products: the dot products of the program.
//
// Needs: operands before users. Rewrites, in sums that are not gradients:
//   - a term that is a sum of one product, if nothing else uses it or its second factor is a
//     constant (−x is x · −1), into that product;
//   - l + r, if l is a sum that nothing else uses, into one sum of the products of l and then r.
// Bit-identical: microgpt.py computes ((x₀y₀ + x₁y₁) + x₂y₂) … in this order and rounds each
// product and each sum. Only the left operand is opened, because a + (b + c) is a different number,
// and only if its last product is of the same form as r (a product, or a bare term): a dot product
// plus a residual remains one dot product and one addition.
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

class SumCollector {
 public:
  explicit SumCollector(Graph& graph) : graph_(graph), uses_(graph.nodes.size(), 0) {
    for (Id id = 0; id < graph.nodes.size(); ++id) {
      graph.for_operands(id, [&](Id& operand) { ++uses_[operand]; });
    }
    graph.for_roots([&](Id& id) { ++uses_[id]; });
    pool_.reserve(graph.products.size());
  }

  void run() {
    for (Node& node : graph_.nodes) {
      if (node.kind == Kind::sum) collect(node);
    }
    graph_.products = std::move(pool_);
  }

 private:
  // Moves the products of a node to the new pool. The sums before it are there already.
  void collect(Node& node) {
    const Product* terms = graph_.products.data() + node.first;
    if (node.gradient) {
      node.first = append(terms, node.count);
    } else if (const Node* left = opened_left(node, terms)) {
      extend_left(node, *left, terms);
    } else {
      node.first = append_terms(node, terms);
    }
  }

  // The sum on the left if the node takes over its products; null otherwise.
  const Node* opened_left(const Node& node, const Product* terms) const {
    const Id id = terms[0].a;
    const bool has_one_user = node.count <= 2 && terms[0].b == one && id < one && uses_[id] == 1;
    if (!has_one_user || graph_.nodes[id].kind != Kind::sum) return nullptr;
    const Node& left = graph_.nodes[id];
    if (node.count == 1 || left.count == 1) return &left;
    const Product& last = pool_[left.first + left.count - 1];
    const bool same_form = (last.b == one) == (term_of(terms[1]).b == one);
    return same_form ? &left : nullptr;
  }

  // The single sum of one product that the term can be replaced by; null if there is none.
  const Node* opened_term(const Product& term) const {
    if (term.b != one || term.a >= one) return nullptr;
    const Node& inner = graph_.nodes[term.a];
    if (inner.kind != Kind::sum || inner.count != 1) return nullptr;
    const Id factor = pool_[inner.first].b;
    const bool is_scaled = factor < one && graph_.nodes[factor].kind == Kind::constant;
    return is_scaled || uses_[term.a] == 1 ? &inner : nullptr;
  }

  Product term_of(const Product& term) const {
    const Node* inner = opened_term(term);
    return inner == nullptr ? term : pool_[inner->first];
  }

  // The product that a term of the node becomes. A 0 in front of it is then in front of the node.
  Product take_term(Node& node, const Product& term) const {
    const Node* inner = opened_term(term);
    if (inner == nullptr) return term;
    node.from_zero = node.from_zero || inner->from_zero;
    return pool_[inner->first];
  }

  std::uint32_t append_terms(Node& node, const Product* terms) {
    const auto first = static_cast<std::uint32_t>(pool_.size());
    for (std::uint32_t i = 0; i < node.count; ++i) pool_.push_back(take_term(node, terms[i]));
    return first;
  }

  // The node becomes the products of `left`, followed by its second term, if any.
  void extend_left(Node& node, const Node& left, const Product* terms) {
    node.from_zero = node.from_zero || left.from_zero;
    node.first = left.first;
    const bool has_right = node.count == 2;
    node.count = left.count;
    if (!has_right) return;
    const Product right = take_term(node, terms[1]);
    if (!is_followed_by(left, right)) {
      const bool ends_pool = left.first + left.count == pool_.size();
      if (!ends_pool) node.first = append_again(left);
      pool_.push_back(right);
    }
    ++node.count;
  }

  // Is `right` already the one product behind the products of `left`? Then the sum grows in place.
  bool is_followed_by(const Node& left, const Product& right) const {
    const std::size_t end = left.first + left.count;
    return end + 1 == pool_.size() && pool_[end].a == right.a && pool_[end].b == right.b;
  }

  std::uint32_t append(const Product* begin, std::uint32_t count) {
    const auto first = static_cast<std::uint32_t>(pool_.size());
    pool_.insert(pool_.end(), begin, begin + count);
    return first;
  }

  std::uint32_t append_again(const Node& sum) {
    const auto first = static_cast<std::uint32_t>(pool_.size());
    for (std::uint32_t i = 0; i < sum.count; ++i) pool_.push_back(Product(pool_[sum.first + i]));
    return first;
  }

  Graph& graph_;
  std::vector<std::uint32_t> uses_;  // per node
  std::vector<Product> pool_;        // the new products
};

}  // namespace

void collect_sums(Graph& graph) { SumCollector(graph).run(); }

}  // namespace nanochat::program

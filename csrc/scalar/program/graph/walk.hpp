// The walk of microgpt.py's backward(): depth first, children left to right, users after operands.
//
// A dot product was recorded as a chain of additions. In the chain, each product has its turn after
// the nodes that its own factors lead to, so the walk visits a dot product in several turns.
#ifndef NANOCHAT_SCALAR_PROGRAM_WALK_HPP_
#define NANOCHAT_SCALAR_PROGRAM_WALK_HPP_

#include <utility>
#include <vector>

#include "scalar/program/graph/graph.hpp"

namespace nanochat::program {

// Products or operands [begin, end) of a node, which the walk leaves one after the other.
struct Turn {
  Id id;
  std::uint32_t begin, end;
};

inline bool is_dot(const Graph& graph, const Node& node) {
  return node.kind == Kind::sum && graph.products[node.first].b != one;
}

class Walk {
 public:
  // active: per node, whether it depends on a parameter; other nodes are not walked.
  Walk(const Graph& graph, const std::vector<char>& active) : graph_(graph), active_(active) {
    seen_.assign(active.size(), 0);
  }

  // Appends the unseen nodes that root leads to, root last. Calls enter(id) before the operands of
  // a node are walked, which returns whether to walk them, and leave(id) after its last turn.
  template <class Enter, class Leave>
  void from(Id root, Enter&& enter, Leave&& leave) {
    if (!unseen(root)) return;
    const auto visit = [&](Id id) {
      seen_[id] = 1;
      if (enter(id)) {
        stack_.push_back({id, 0, 0});
      } else {
        order.push_back({id, 0, 0});
      }
    };
    visit(root);
    while (!stack_.empty()) {
      const Id next = next_operand(stack_.back());
      if (next != none) {
        visit(next);
      } else {
        note(stack_.back());
        leave(stack_.back().id);
        stack_.pop_back();
      }
    }
  }

  void set_seen(Id id, bool seen) { seen_[id] = seen ? 1 : 0; }

  std::vector<Turn> order;

 private:
  bool unseen(Id id) const {
    return id < one && seen_[id] == 0 && active_[id] && !is_leaf(graph_.nodes[id].kind);
  }

  // The node to walk before operand or product top.end has its turn; `none` if nothing is left.
  Id next_operand(Turn& top) {
    const Node& node = graph_.nodes[top.id];
    const std::uint32_t count = is_unary(node.kind) ? 1 : node.count;
    for (; top.end < count; ++top.end) {
      if (node.kind != Kind::sum) {
        const Id operand = is_unary(node.kind) ? node.first : graph_.operands[node.first + top.end];
        if (unseen(operand)) return operand;
        continue;
      }
      const Product& product = graph_.products[node.first + top.end];
      for (const Id factor : {product.a, product.b}) {
        if (!unseen(factor)) continue;
        if (is_dot(graph_, node)) note(top);  // the products before this one
        return factor;
      }
    }
    return none;
  }

  void note(Turn& top) {
    if (top.end > top.begin) order.push_back(top);
    top.begin = top.end;
  }

  const Graph& graph_;
  const std::vector<char>& active_;
  std::vector<char> seen_;
  std::vector<Turn> stack_;
};

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_WALK_HPP_

// Gradients become ordinary nodes of the graph: reverse mode, Σ over users of local · upstream.
//
// Needs: stages; operands before users. Adds: a seed for each output, one sum for the gradient of
// every node that depends on a parameter, its products in the order in which microgpt.py's
// backward() adds them: depth-first post-order from the outputs, children left to right, reversed.
// A dot product was recorded as a chain of additions, in which each product has its turn after what
// its own factors lead to: it is walked, and hands on its gradient, product by product.
// A sum of the single product 1 · g is g itself. Right by the chain rule; the later passes then
// treat forward and backward alike.
//
// A selection is only known at replay, yet microgpt.py walks the selected candidate first, so what
// that candidate alone leads to is walked before the same part of the others, and comes last when
// reversed. `exact` writes this out: a shared node collects from every candidate's own part the
// gradient masked to 0 where it is selected, and then, in the place of candidate 0, the gradients
// masked to 0 where it is not. Adding a zero changes no bit of a sum that started from 0.
#include <utility>

#include "scalar/program/passes.hpp"

namespace nanochat::program {
namespace {

// Which candidate of which selection a node serves alone; select is `none` for no one's.
struct Column {
  Id select = none;
  std::int32_t index = 0;
  bool operator==(const Column&) const = default;
};

struct Contribution {
  Id local;     // factor, or `one`
  Id upstream;  // gradient
  Id from;      // the node that passes it on
  std::uint32_t next;
};

// Products [begin, end) of a node, which the walk left one after the other.
struct Turn {
  Id id;
  std::uint32_t begin, end;
};

class Differentiation {
 public:
  Differentiation(Graph& graph, Numerics numerics)
      : graph_(graph),
        size_(graph.nodes.size()),
        gradient_(size_, none),
        head_(size_, none),
        tail_(size_, none) {
    mark_active();
    if (numerics == Numerics::exact) mark_columns();
  }

  void run() {
    order_nodes();
    contributions_.reserve(2 * graph_.products.size());
    check_outputs();
    for (std::size_t i = 0; i < graph_.outputs.size(); ++i) {
      Node seed;
      seed.kind = Kind::seed;
      seed.stage = static_cast<std::int32_t>(i);
      seed.index = static_cast<std::int32_t>(i);
      seed.order = static_cast<Id>(i);
      const Id id = graph_.add(seed);
      graph_.seeds.push_back(id);
      if (active_[graph_.outputs[i]]) add(graph_.outputs[i], one, id, none);
    }
    for (std::size_t i = order_.size(); i-- > 0;) {
      const Id id = order_[i].id;
      if (head_[id] == none) continue;
      if (gradient_[id] == none) gradient_[id] = collect(id);
      pass_on(order_[i], gradient_[id]);
    }
    graph_.parameter_gradients.assign(graph_.parameters, none);
    for (Id id = 0; id < size_; ++id) {
      if (graph_.nodes[id].kind == Kind::parameter && head_[id] != none) {
        const auto index = static_cast<std::size_t>(graph_.nodes[id].index);
        graph_.parameter_gradients[index] = collect(id);
      }
    }
    for (const Id leaf : gathers_) graph_.gather_gradients.push_back({leaf, collect(leaf)});
  }

 private:
  void mark_active() {
    active_.assign(size_, 0);
    for (Id id = 0; id < size_; ++id) {
      const Kind kind = graph_.nodes[id].kind;
      active_[id] = kind == Kind::parameter || kind == Kind::gather;
      if (kind == Kind::largest) continue;
      graph_.for_operands(id, [&](Id& operand) {
        if (active_[operand]) active_[id] = 1;
      });
    }
  }

  // Downwards from each candidate, as long as its own users agree.
  void mark_columns() {
    constexpr std::int32_t several = -1;
    columns_.assign(size_, {});
    const auto mark = [&](Id id, Column column) {
      if (is_leaf(graph_.nodes[id].kind)) return;
      if (columns_[id].select == none) {
        columns_[id] = column;
      } else if (columns_[id].select != column.select || columns_[id].index != column.index) {
        columns_[id].index = several;
      }
    };
    for (Id id = static_cast<Id>(size_); id-- > 0;) {
      const Node& node = graph_.nodes[id];
      if (node.kind == Kind::select) {
        for (std::uint32_t i = 0; i < node.count; ++i) {
          mark(graph_.operands[node.first + i], {id, static_cast<std::int32_t>(i)});
        }
      } else if (columns_[id].select != none && columns_[id].index != several) {
        graph_.for_operands(id, [&](Id& operand) { mark(operand, columns_[id]); });
      }
    }
    for (Column& column : columns_) {
      if (column.index == several) column = {};
    }
  }

  // A loss that another loss uses gets its own seed when the sum of losses is walked, between the
  // gradients of the others; here seeds come first.
  void check_outputs() {
    std::vector<char> is_output(size_, 0);
    for (const Id id : graph_.outputs) {
      if (is_output[id] || is_leaf(graph_.nodes[id].kind)) graph_.ordered = false;
      is_output[id] = 1;
    }
    for (Id id = 0; id < size_; ++id) {
      graph_.for_operands(id, [&](Id& operand) {
        if (is_output[operand]) graph_.ordered = false;
      });
    }
  }

  bool is_dot(const Node& node) const {
    return node.kind == Kind::sum && graph_.products[node.first].b != one;
  }

  // Depth-first post-order of the computed nodes under the outputs, first operand first.
  void order_nodes() {
    seen_.assign(size_, 0);
    std::vector<Turn> stack;
    const auto visit = [&](Id id) {
      seen_[id] = 1;
      stack.push_back({id, 0, 0});
    };
    for (const Id output : graph_.outputs) {
      if (unseen(output)) visit(output);
      while (!stack.empty()) {
        const Id next = next_operand(stack.back());
        if (next != none) {
          visit(next);
        } else {
          note(stack.back());
          stack.pop_back();
        }
      }
    }
  }

  bool unseen(Id id) const {
    return id < one && !seen_[id] && active_[id] && !is_leaf(graph_.nodes[id].kind);
  }

  // What to walk before operand or product top.end has its turn; `none`: nothing is left.
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
        if (graph_.products[node.first].b != one) note(top);  // of a dot product: those before
        return factor;
      }
    }
    return none;
  }

  void note(Turn& top) {
    if (top.end > top.begin) order_.push_back(top);
    top.begin = top.end;
  }

  void add(Id id, Id local, Id upstream, Id from) {
    if (graph_.nodes[id].kind == Kind::gather && head_[id] == none) gathers_.push_back(id);
    const auto at = static_cast<std::uint32_t>(contributions_.size());
    contributions_.push_back({local, upstream, from, none});
    (head_[id] == none ? head_[id] : contributions_[tail_[id]].next) = at;
    tail_[id] = at;
  }

  // The gradient of a node whose users have all been walked.
  Id collect(Id id) {
    gathered_.clear();
    for (std::uint32_t at = head_[id]; at != none; at = contributions_[at].next) {
      gathered_.push_back(contributions_[at]);
    }
    const Node node = graph_.nodes[id];
    if (gathered_.size() == 1 && gathered_[0].local == one) return gathered_[0].upstream;
    products_.clear();
    for (std::size_t i = 0; i < gathered_.size(); ++i) {
      const Contribution& each = gathered_[i];
      const Column column = column_of(each);
      if (!several_columns(column.select)) {
        append(each.local, each.upstream);
        continue;
      }
      append(each.local, masked(each, Kind::not_one_hot));
      if (column.index != 0 ||
          (i + 1 < gathered_.size() && column_of(gathered_[i + 1]) == column)) {
        continue;
      }
      for (const Contribution& selected : gathered_) {
        if (column_of(selected).select == column.select) {
          append(selected.local, masked(selected, Kind::one_hot));
        }
      }
    }
    const Id sum = graph_.add_sum(products_.data(), products_.size(), node.stage, node.order);
    graph_.nodes[sum].gradient = true;
    return sum;
  }

  void append(Id local, Id upstream) {
    products_.push_back(local == one ? Product{upstream, one} : Product{local, upstream});
  }

  Column column_of(const Contribution& each) const {
    return columns_.empty() || each.from == none ? Column{} : columns_[each.from];
  }

  bool several_columns(Id select) const {
    if (select == none) return false;
    std::int32_t first = -1;
    for (const Contribution& each : gathered_) {
      const Column column = column_of(each);
      if (column.select != select) continue;
      if (first < 0) first = column.index;
      if (column.index != first) return true;
    }
    return false;
  }

  Id masked(const Contribution& contribution, Kind kind) {
    const Column column = column_of(contribution);
    const Node select = graph_.nodes[column.select];
    const Id order = graph_.nodes[contribution.upstream].order;
    const Id mask = indicator(kind, select, column.index);
    const Product product{mask, contribution.upstream};
    return graph_.add_sum(&product, 1, select.stage, order);
  }

  Id indicator(Kind kind, const Node& select, std::int32_t index) {
    Node node;
    node.kind = kind;
    node.stage = select.stage;
    node.slot = select.slot;
    node.index = index;
    node.order = static_cast<Id>(index);
    return graph_.add(node);
  }

  // A node hands its gradient to its operands.
  void pass_on(const Turn& turn, Id gradient) {
    const Node node = graph_.nodes[turn.id];
    const auto give = [&](Id operand, Id local) {
      if (operand < one && active_[operand]) add(operand, local, gradient, turn.id);
    };
    if (node.kind == Kind::sum) {
      const bool dot = graph_.products[node.first].b != one;
      for (std::uint32_t i = turn.begin; i < turn.end; ++i) {
        const std::uint32_t at = dot ? turn.begin + turn.end - 1 - i : i;
        const Product product = graph_.products[node.first + at];
        give(product.a, product.b);
        give(product.b, product.a);
      }
    } else if (node.kind == Kind::select) {
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Id candidate = graph_.operands[node.first + i];
        if (active_[candidate]) {
          give(candidate, indicator(Kind::one_hot, node, static_cast<std::int32_t>(i)));
        }
      }
    } else if (is_unary(node.kind) && active_[node.first]) {
      give(node.first, local_gradient(turn.id, node));
    }
  }

  Id local_gradient(Id id, const Node& node) {
    const auto of = [&](Kind kind, Id operand) {
      return graph_.add_unary(kind, operand, node.value, node.stage, node.order);
    };
    switch (node.kind) {
      case Kind::exp:
        return id;
      case Kind::log:
        return of(Kind::inverse, node.first);
      case Kind::tanh:
        return of(Kind::one_minus_square, id);
      case Kind::relu:
        return of(Kind::step, node.first);
      case Kind::power:
        return of(Kind::power_local, node.first);
      default:
        return one;  // add_constant
    }
  }

  Graph& graph_;
  std::size_t size_;  // nodes before
  std::vector<char> active_;
  std::vector<Column> columns_;
  std::vector<char> seen_;
  std::vector<Turn> order_;
  std::vector<Id> gradient_;                // of each node that has passed on part of it
  std::vector<std::uint32_t> head_, tail_;  // of each node's contributions
  std::vector<Contribution> contributions_;
  std::vector<Id> gathers_;
  std::vector<Contribution> gathered_;
  std::vector<Product> products_;
};

}  // namespace

void differentiate(Graph& graph, Numerics numerics) { Differentiation(graph, numerics).run(); }

}  // namespace nanochat::program

// Gradients become ordinary nodes of the graph: reverse mode, Σ over users of local · upstream.
//
// Needs: stages; operands before users. Adds: a seed for each output, one sum for the gradient of
// every node that depends on a parameter, its products in the order in which microgpt.py's
// backward() adds them: the walk's (walk.hpp) reversed, with what selections make of it
// (selections.hpp). A sum of the single product 1 · g is g itself. Right by the chain rule; the
// later passes then treat forward and backward alike.
#include <optional>
#include <utility>

#include "scalar/program/passes/passes.hpp"
#include "scalar/program/passes/selections.hpp"
#include "scalar/program/graph/walk.hpp"

namespace nanochat::program {
namespace {

struct Contribution {
  Id local;            // factor, or `one`
  Id upstream;         // gradient
  Id from;             // the node that passes it on, `none` for a seed
  std::uint32_t part;  // which of its operands
  std::uint32_t next;
};

// A contribution and the mask of its column: see Share.
struct Placed {
  std::uint32_t at;
  Kind mask;
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
    if (numerics == Numerics::exact) selections_.emplace(graph, active_);
  }

  void run() {
    const std::vector<Turn> order = walk();
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
      if (active_[graph_.outputs[i]]) add(graph_.outputs[i], {one, id, none, 0, none});
    }
    for (std::size_t i = order.size(); i-- > 0;) {
      const Id id = order[i].id;
      if (head_[id] == none) continue;
      if (gradient_[id] == none) gradient_[id] = collect(id);
      pass_on(order[i], gradient_[id]);
    }
    graph_.parameter_gradients.assign(graph_.parameters, none);
    for (Id id = 0; id < size_; ++id) {
      if (graph_.nodes[id].kind == Kind::parameter && head_[id] != none) {
        const auto index = static_cast<std::size_t>(graph_.nodes[id].index);
        graph_.parameter_gradients[index] = collect(id);
      }
    }
    for (const Id leaf : gathers_) {
      graph_.gather_gradients.push_back({leaf, collect(leaf)});
      // microgpt.py adds to the row user by user, a program leaf by leaf.
      if (placed_.size() > 1) graph_.ordered = false;
    }
    if (selections_) check_selections();
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

  // A loss that another loss uses gets its own seed when the sum of losses is walked, between the
  // gradients of the others; here seeds come first.
  void check_outputs() {
    std::vector<char> is_output(size_, 0);
    for (const Id id : graph_.outputs) {
      if (is_output[id] || is_leaf(graph_.nodes[id].kind) || is_transparent(id)) {
        graph_.ordered = false;
      }
      is_output[id] = 1;
    }
    for (Id id = 0; id < size_; ++id) {
      graph_.for_operands(id, [&](Id& operand) {
        if (is_output[operand]) graph_.ordered = false;
      });
    }
  }

  bool is_transparent(Id id) const { return selections_ && selections_->is_transparent(id); }

  // The computed nodes under the outputs.
  std::vector<Turn> walk() {
    Walk walk(graph_, active_);
    for (const Id output : graph_.outputs) {
      walk.from(
          output,
          [&](Id id) {
            if (selections_) selections_->enter(id);
            return true;
          },
          [&](Id id) {
            if (selections_) selections_->leave(id);
          });
    }
    return std::move(walk.order);
  }

  void add(Id id, Contribution contribution) {
    if (is_transparent(id)) {
      add_to_candidates(id, contribution);
      return;
    }
    if (graph_.nodes[id].kind == Kind::gather && head_[id] == none) gathers_.push_back(id);
    const auto at = static_cast<std::uint32_t>(contributions_.size());
    contributions_.push_back(contribution);
    (head_[id] == none ? head_[id] : contributions_[tail_[id]].next) = at;
    tail_[id] = at;
  }

  void add_to_candidates(Id select, const Contribution& contribution) {
    const Node node = graph_.nodes[select];
    for (std::uint32_t i = 0; i < node.count; ++i) {
      const Id candidate = graph_.operands[node.first + i];
      if (!active_[candidate]) continue;
      Contribution masked = contribution;
      masked.upstream =
          mask(contribution.upstream, Kind::one_hot, {select, static_cast<std::int32_t>(i)});
      add(candidate, masked);
    }
  }

  // The gradient of a node whose users have all been walked.
  Id collect(Id id) {
    place(id);
    if (placed_.size() == 1 && contributions_[placed_[0].at].local == one) {
      return contributions_[placed_[0].at].upstream;
    }
    products_.clear();
    for (const Placed& each : placed_) {
      const Contribution& contribution = contributions_[each.at];
      const Id local = contribution.local;
      Id upstream = contribution.upstream;
      if (each.mask != Kind::sum) {
        upstream = mask(upstream, each.mask, selections_->column(contribution.from));
      }
      products_.push_back(local == one ? Product{upstream, one} : Product{local, upstream});
    }
    const Node node = graph_.nodes[id];
    const Id sum = graph_.add_sum(products_.data(), products_.size(), node.stage, node.order);
    graph_.nodes[sum].gradient = graph_.nodes[sum].from_zero = true;
    return sum;
  }

  // A node's contributions, in the order of addition: what comes from several columns of one
  // selection twice, in its place unless chosen, and behind the last of them if chosen.
  void place(Id id) {
    placed_.clear();
    for (std::uint32_t at = head_[id]; at != none; at = contributions_[at].next) {
      placed_.push_back({at, Kind::sum});
    }
    if (!selections_) return;
    for (std::size_t i = 0; i < placed_.size(); ++i) {
      const Id select = column_of(placed_[i]).select;
      if (select == none) continue;
      chosen_.clear();
      bool several = false;
      std::size_t end = i;  // what was walked under one selection stands together
      for (std::size_t j = i; j < placed_.size() && is_under(placed_[j], select); ++j) {
        if (column_of(placed_[j]).select != select) continue;
        several = several || column_of(placed_[j]) != column_of(placed_[i]);
        chosen_.push_back({placed_[j].at, Kind::one_hot});
        end = j + 1;
      }
      if (several) {
        for (std::size_t j = i; j < end; ++j) {
          if (column_of(placed_[j]).select == select) placed_[j].mask = Kind::not_one_hot;
        }
        placed_.insert(placed_.begin() + static_cast<std::ptrdiff_t>(end), chosen_.begin(),
                       chosen_.end());
        end += chosen_.size();
      }
      i = end - 1;
    }
  }

  bool is_under(const Placed& placed, Id select) const {
    const Id from = contributions_[placed.at].from;
    return from != none && selections_->is_under(from, select);
  }

  Column column_of(const Placed& placed) const {
    const Id from = contributions_[placed.at].from;
    return from == none ? Column{} : selections_->column(from);
  }

  void check_selections() {
    SelectionCheck check(graph_, active_, *selections_, [&](Id id) {
      place(id);
      std::vector<Share> shares;
      for (const Placed& each : placed_) {
        const Contribution& contribution = contributions_[each.at];
        if (contribution.from == none) continue;
        shares.push_back({contribution.from, contribution.part, each.mask});
      }
      return shares;
    });
    for (Id id = 0; id < size_ && graph_.ordered; ++id) {
      if (graph_.nodes[id].kind == Kind::select) graph_.ordered = check.holds(id);
    }
  }

  Id mask(Id upstream, Kind kind, const Column& column) {
    const Node select = graph_.nodes[column.select];
    const Product product{indicator(kind, select, column.index), upstream};
    return graph_.add_sum(&product, 1, select.stage, graph_.nodes[upstream].order);
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
    const auto give = [&](Id operand, Id local, std::uint32_t part) {
      if (operand < one && active_[operand]) add(operand, {local, gradient, turn.id, part, none});
    };
    if (node.kind == Kind::sum) {
      const bool dot = is_dot(graph_, node);
      for (std::uint32_t i = turn.begin; i < turn.end; ++i) {
        const std::uint32_t at = dot ? turn.begin + turn.end - 1 - i : i;
        const Product product = graph_.products[node.first + at];
        give(product.a, product.b, at);
        give(product.b, product.a, at);
      }
    } else if (node.kind == Kind::select) {
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Id candidate = graph_.operands[node.first + i];
        if (active_[candidate]) {
          give(candidate, indicator(Kind::one_hot, node, static_cast<std::int32_t>(i)), i);
        }
      }
    } else if (is_unary(node.kind) && active_[node.first]) {
      give(node.first, local_gradient(turn.id, node), 0);
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
  std::optional<Selections> selections_;    // exact
  std::vector<Id> gradient_;                // of each node that has passed on part of it
  std::vector<std::uint32_t> head_, tail_;  // of each node's contributions
  std::vector<Contribution> contributions_;
  std::vector<Id> gathers_;
  std::vector<Placed> placed_, chosen_;
  std::vector<Product> products_;
};

}  // namespace

void differentiate(Graph& graph, Numerics numerics) { Differentiation(graph, numerics).run(); }

}  // namespace nanochat::program

// Adds gradients as ordinary nodes: reverse mode, Σ over users of local · upstream.
//
// Needs: positions; operands before users. Adds: a seed per output, and one sum for the gradient of
// every node that depends on a parameter. The products of the sum are in the order in which
// microgpt.py's backward() adds them: the reverse of the walk (walk.hpp), changed by selections
// (selections.hpp). A sum of the single product 1 · g is g itself. Correct by the chain rule. Later
// passes do not distinguish forward from backward.
#include <optional>
#include <utility>

#include "scalar/program/graph/walk.hpp"
#include "scalar/program/passes/passes.hpp"
#include "scalar/program/passes/selections.hpp"

namespace nanochat::program {
namespace {

// A product that a user adds to the gradient of a node; an element of a linked list.
struct Contribution {
  Id local;            // factor, or `one`
  Id upstream;         // gradient
  Id from;             // the user, `none` for a seed
  std::uint32_t part;  // which operand of the user the node is
  std::uint32_t next;
};

// A contribution in the order of addition, and the mask of its column: see Share.
struct Summand {
  std::uint32_t contribution;
  Kind mask;
};

class Differentiation {
 public:
  Differentiation(Graph& graph, Numerics numerics)
      : graph_(graph),
        size_(graph.nodes.size()),
        gradient_(size_, none),
        first_(size_, none),
        last_(size_, none) {
    mark_active();
    if (numerics == Numerics::exact) selections_.emplace(graph, active_);
  }

  void run() {
    const std::vector<Turn> order = walk();
    contributions_.reserve(2 * graph_.products.size());
    check_outputs();
    add_seeds();
    for (std::size_t i = order.size(); i-- > 0;) {
      const Id id = order[i].id;
      if (first_[id] == none) continue;
      if (gradient_[id] == none) gradient_[id] = collect(id);
      pass_on(order[i], gradient_[id]);
    }
    collect_leaves();
    if (selections_) check_selections();
  }

 private:
  void add_seeds() {
    for (std::size_t i = 0; i < graph_.outputs.size(); ++i) {
      Node seed;
      seed.kind = Kind::seed;
      seed.position = static_cast<std::int32_t>(i);
      seed.index = static_cast<std::int32_t>(i);
      seed.order = static_cast<Id>(i);
      const Id id = graph_.add(seed);
      graph_.seeds.push_back(id);
      if (active_[graph_.outputs[i]]) add(graph_.outputs[i], {one, id, none, 0, none});
    }
  }

  void collect_leaves() {
    graph_.parameter_gradients.assign(graph_.parameters, none);
    for (Id id = 0; id < size_; ++id) {
      if (graph_.nodes[id].kind == Kind::parameter && first_[id] != none) {
        const auto index = static_cast<std::size_t>(graph_.nodes[id].index);
        graph_.parameter_gradients[index] = collect(id);
      }
    }
    for (const Id leaf : gathers_) {
      graph_.gather_gradients.push_back({leaf, collect(leaf)});
      // microgpt.py adds to the matrix row user by user, a program leaf by leaf.
      if (summands_.size() > 1) graph_.ordered = false;
    }
  }

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

  // In microgpt.py a loss that another loss uses receives its own seed while the sum of losses is
  // walked, between the gradients of the others. Here all seeds come first.
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

  // The turns of the nodes that the outputs need and that depend on parameters.
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
    if (graph_.nodes[id].kind == Kind::gather && first_[id] == none) gathers_.push_back(id);
    const auto at = static_cast<std::uint32_t>(contributions_.size());
    contributions_.push_back(contribution);
    (first_[id] == none ? first_[id] : contributions_[last_[id]].next) = at;
    last_[id] = at;
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
    order_summands(id);
    if (summands_.size() == 1 && contribution_of(summands_[0]).local == one) {
      return contribution_of(summands_[0]).upstream;
    }
    products_.clear();
    for (const Summand& each : summands_) {
      const Contribution& contribution = contribution_of(each);
      const Id local = contribution.local;
      Id upstream = contribution.upstream;
      if (each.mask != Kind::sum) {
        upstream = mask(upstream, each.mask, selections_->column(contribution.from));
      }
      products_.push_back(local == one ? Product{upstream, one} : Product{local, upstream});
    }
    const Node node = graph_.nodes[id];
    const Id sum = graph_.add_sum(products_.data(), products_.size(), node.position, node.order);
    graph_.nodes[sum].gradient = graph_.nodes[sum].from_zero = true;
    return sum;
  }

  const Contribution& contribution_of(const Summand& summand) const {
    return contributions_[summand.contribution];
  }

  // Sets summands_: the contributions to a node, in the order of addition. Contributions from
  // several columns of one selection occur twice: in their turn, masked to 0 if their column is
  // chosen, and after the last of them, masked to 0 if it is not.
  void order_summands(Id id) {
    summands_.clear();
    for (std::uint32_t at = first_[id]; at != none; at = contributions_[at].next) {
      summands_.push_back({at, Kind::sum});
    }
    if (!selections_) return;
    for (std::size_t i = 0; i < summands_.size();) {
      const Id select = column_of(summands_[i]).select;
      i = select == none ? i + 1 : order_selection(i, select);
    }
  }

  // Masks the summands from columns of the selection, the first of which is at `begin`. Returns the
  // index after the last one.
  std::size_t order_selection(std::size_t begin, Id select) {
    const Column first_column = column_of(summands_[begin]);
    chosen_.clear();
    bool several_columns = false;
    std::size_t end = begin;
    // Summands that were walked under one selection are consecutive.
    for (std::size_t i = begin; i < summands_.size() && is_under(summands_[i], select); ++i) {
      const Column column = column_of(summands_[i]);
      if (column.select != select) continue;
      several_columns = several_columns || column != first_column;
      chosen_.push_back({summands_[i].contribution, Kind::one_hot});
      end = i + 1;
    }
    if (!several_columns) return end;
    for (std::size_t i = begin; i < end; ++i) {
      if (column_of(summands_[i]).select == select) summands_[i].mask = Kind::not_one_hot;
    }
    summands_.insert(summands_.begin() + static_cast<std::ptrdiff_t>(end), chosen_.begin(),
                     chosen_.end());
    return end + chosen_.size();
  }

  bool is_under(const Summand& summand, Id select) const {
    const Id from = contribution_of(summand).from;
    return from != none && selections_->is_under(from, select);
  }

  Column column_of(const Summand& summand) const {
    const Id from = contribution_of(summand).from;
    return from == none ? Column{} : selections_->column(from);
  }

  void check_selections() {
    SelectionCheck check(graph_, active_, *selections_, [&](Id id) {
      order_summands(id);
      std::vector<Share> shares;
      for (const Summand& each : summands_) {
        const Contribution& contribution = contribution_of(each);
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
    return graph_.add_sum(&product, 1, select.position, graph_.nodes[upstream].order);
  }

  Id indicator(Kind kind, const Node& select, std::int32_t index) {
    Node node;
    node.kind = kind;
    node.position = select.position;
    node.slot = select.slot;
    node.index = index;
    node.order = static_cast<Id>(index);
    return graph_.add(node);
  }

  // Adds a contribution of the node to each operand that has its turn.
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
      return graph_.add_unary(kind, operand, node.value, node.position, node.order);
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
  std::size_t size_;                         // number of nodes before differentiation
  std::vector<char> active_;                 // per node: does it depend on a parameter?
  std::optional<Selections> selections_;     // exact numerics
  std::vector<Id> gradient_;                 // per node that has passed on part of it
  std::vector<std::uint32_t> first_, last_;  // per node: its contributions
  std::vector<Contribution> contributions_;
  std::vector<Id> gathers_;
  std::vector<Summand> summands_, chosen_;
  std::vector<Product> products_;
};

}  // namespace

void differentiate(Graph& graph, Numerics numerics) { Differentiation(graph, numerics).run(); }

}  // namespace nanochat::program

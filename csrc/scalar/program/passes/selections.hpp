// The effect of selections on microgpt.py's order of addition, which exact numerics keep.
//
// Which candidate a selection returns is known only at replay. In microgpt.py a selection is not a
// node: it is the candidate that the token selects. This has two consequences.
//
// The chosen candidate collects the gradients of the selection's users, each in its turn. A
// selection whose candidates have no other users can collect for them. Any other selection is
// transparent: it passes each contribution on at once, masked to 0 for every candidate except the
// chosen one.
//
// The walk goes through the chosen candidate only, or first. A node to which only one candidate
// leads (the candidate's column) therefore has its turn at a different time for each token. A node
// collects from every column the gradient masked to 0 if the column is chosen, and after the last
// column the gradients masked to 0 if it is not. Adding a zero changes no bit of a sum that started
// from 0. This is the order for a softmax of which one probability is taken. Other functions have
// other orders, so SelectionCheck walks from every candidate and compares.
#ifndef NANOCHAT_SCALAR_PROGRAM_SELECTIONS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_SELECTIONS_HPP_

#include <functional>
#include <vector>

#include "scalar/program/graph/graph.hpp"
#include "scalar/program/graph/walk.hpp"

namespace nanochat::program {

// The only candidate of a selection that needs a node; select is `none` if there is no such one.
struct Column {
  Id select = none;
  std::int32_t index = 0;
  bool operator==(const Column&) const = default;
};

// One product of a gradient, passed on to operand `part` of node `from`. The mask is one_hot or
// not_one_hot of the column of `from`, or `sum` for no mask.
struct Share {
  Id from;
  std::uint32_t part;
  Kind mask;
};

class Selections {
 public:
  Selections(Graph& graph, const std::vector<char>& active);

  // The walk of the whole graph calls these: see Walk::from.
  void enter(Id id);
  void leave(Id id);

  bool is_transparent(Id id) const { return transparent_[id] != 0; }
  Column column(Id id) const;
  // Was the node first reached through the selection?
  bool is_under(Id id, Id select) const {
    return begin_[select] <= found_[id] && found_[id] < end_[select];
  }

 private:
  friend class SelectionCheck;

  void mark_columns();

  Graph& graph_;
  std::vector<std::uint32_t> uses_;  // per node, as an operand into which a gradient flows
  std::vector<char> transparent_;
  std::vector<Column> columns_;
  std::vector<Id> walked_;                  // in the order in which they were found
  std::vector<std::uint32_t> found_;        // per node, its index in walked_
  std::vector<std::uint32_t> begin_, end_;  // per selection, the range of nodes found under it
};

// Checks whether the walk for every token adds the products of each gradient in the order that was
// written.
class SelectionCheck {
 public:
  // The products of a node's gradient, in their order.
  using SharesOf = std::function<std::vector<Share>(Id)>;

  SelectionCheck(Graph& graph, const std::vector<char>& active, const Selections& selections,
                 SharesOf shares_of);

  bool holds(Id select);

 private:
  static constexpr std::uint32_t dead = ~std::uint32_t{0};

  // A share of a node under the selection.
  struct Ranked {
    std::uint32_t atom;
    std::int32_t column;  // of `mask`
    Kind mask;
  };
  using Sequence = std::vector<Ranked>;

  bool has_inner_selection() const;
  bool reaches_rows();
  void find_upper();
  void walk(const std::vector<Id>& roots);
  std::vector<Id> entries() const;
  void number_atoms();
  std::vector<Id> targets();
  Sequence sequence(Id target);
  void rank();
  bool is_rest_dead();
  bool is_descending(const Sequence& sequence, std::int32_t chosen) const;

  Graph& graph_;
  const std::vector<char>& active_;
  const Selections& selections_;
  SharesOf shares_of_;
  Walk walk_;
  Id select_ = none;
  std::vector<Id> members_;  // the nodes found under the selection
  std::vector<char> upper_;  // per node, whether it is in a column or leads to one
  std::vector<Id> entries_;  // the first nodes of the remaining members, in the order of the walk
  // An atom has one turn in the walk of a token: an operand of an upper node, or an entry with all
  // unseen nodes under it.
  std::vector<std::uint32_t> atom_;  // per node, its first atom
  std::vector<std::uint32_t> entry_atoms_;
  std::vector<std::uint32_t> ranks_;  // per atom, its turn; `dead` if the walk does not reach it
  std::vector<std::uint32_t> dead_uses_;
  std::vector<std::uint32_t> shares_;
};

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_SELECTIONS_HPP_

// What selections do to microgpt.py's order of addition, which `exact` keeps.
//
// A selection is only known at replay, and in microgpt.py it is no node: it is the candidate that
// the token names. Two things follow.
//
// The chosen candidate collects what the selection's users hand on, each in its turn. A selection
// whose candidates have no other user may collect for them; any other one is transparent, and hands
// each contribution on at once, masked to 0 for every candidate but the chosen one.
//
// The walk goes through the chosen candidate alone, or first, so what only one candidate leads to
// (its column) has its turn in another place for each token. A node collects from every column the
// gradient masked to 0 where it is chosen, and then, behind the last column, the gradients masked
// to 0 where they are not. Adding a zero changes no bit of a sum that started from 0. That is the
// order in which a softmax of which one probability is taken is walked; other functions have other
// orders, so SelectionCheck walks from every candidate and compares.
#ifndef NANOCHAT_SCALAR_PROGRAM_SELECTIONS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_SELECTIONS_HPP_

#include <functional>
#include <vector>

#include "scalar/program/graph/graph.hpp"
#include "scalar/program/graph/walk.hpp"

namespace nanochat::program {

// Which candidate of which selection a node serves alone; select is `none` for no one's.
struct Column {
  Id select = none;
  std::int32_t index = 0;
  bool operator==(const Column&) const = default;
};

// One product of a gradient: what operand `part` of node `from` hands on. The mask is one_hot or
// not_one_hot of from's column, or `sum` for no mask.
struct Share {
  Id from;
  std::uint32_t part;
  Kind mask;
};

class Selections {
 public:
  Selections(Graph& graph, const std::vector<char>& active);

  // Both are told by the walk of the whole graph.
  void enter(Id id);
  void leave(Id id);

  bool is_transparent(Id id) const { return transparent_[id] != 0; }
  Column column(Id id) const;
  // What was first reached through a selection.
  bool is_under(Id id, Id select) const {
    return begin_[select] <= found_[id] && found_[id] < end_[select];
  }

 private:
  friend class SelectionCheck;

  void mark_columns();

  Graph& graph_;
  std::vector<std::uint32_t> uses_;  // of each node, as an operand that a gradient flows into
  std::vector<char> transparent_;
  std::vector<Column> columns_;
  std::vector<Id> walked_;                  // in the order found
  std::vector<std::uint32_t> found_;        // of each node, its place there
  std::vector<std::uint32_t> begin_, end_;  // of each selection, what was found under it
};

// Whether every token's walk adds each gradient's products in the order that was written out.
class SelectionCheck {
 public:
  // The products of a node's gradient in their order.
  using SharesOf = std::function<std::vector<Share>(Id)>;

  SelectionCheck(Graph& graph, const std::vector<char>& active, const Selections& selections,
                 SharesOf shares_of);

  bool holds(Id select);

 private:
  static constexpr std::uint32_t dead = ~std::uint32_t{0};

  // A share from under the selection.
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
  std::vector<Id> members_;  // what was found under the selection
  std::vector<char> upper_;  // of each member, whether it is in a column or leads to one
  std::vector<Id> entries_;  // the first nodes of the rest, in the order of the walk
  // An atom has one place in a token's walk: an operand of an upper node, or an entry with all that
  // is new under it.
  std::vector<std::uint32_t> atom_;  // of each member, the first
  std::vector<std::uint32_t> entry_atoms_;
  std::vector<std::uint32_t> ranks_;  // of each atom, its place; `dead` where nothing leads to it
  std::vector<std::uint32_t> dead_uses_;
  std::vector<std::uint32_t> shares_;
};

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_SELECTIONS_HPP_

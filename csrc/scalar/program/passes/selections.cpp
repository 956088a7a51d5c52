// See selections.hpp.
#include "scalar/program/passes/selections.hpp"

#include <algorithm>
#include <utility>

namespace nanochat::program {
namespace {

std::uint32_t parts(const Node& node) { return is_unary(node.kind) ? 1 : node.count; }

}  // namespace

Selections::Selections(Graph& graph, const std::vector<char>& active)
    : graph_(graph),
      uses_(graph.nodes.size(), 0),
      transparent_(graph.nodes.size(), 0),
      columns_(graph.nodes.size()),
      found_(graph.nodes.size(), none),
      begin_(graph.nodes.size(), 0),
      end_(graph.nodes.size(), 0) {
  const auto size = static_cast<Id>(graph.nodes.size());
  for (Id id = 0; id < size; ++id) {
    if (graph.nodes[id].kind == Kind::largest) continue;
    graph.for_operands(id, [&](Id& operand) { ++uses_[operand]; });
  }
  for (Id id = 0; id < size; ++id) {
    if (graph.nodes[id].kind != Kind::select) continue;
    graph.for_operands(id, [&](Id& candidate) {
      if (!active[candidate]) return;
      const Kind kind = graph.nodes[candidate].kind;
      if (is_leaf(kind) || uses_[candidate] > 1) transparent_[id] = 1;
      if (kind == Kind::gather) graph.ordered = false;  // matrix rows are added leaf by leaf
    });
  }
  mark_columns();
}

// Marks the nodes under each candidate, as long as all their users are in the same column.
void Selections::mark_columns() {
  constexpr std::int32_t several = -1;
  const auto mark = [&](Id id, Column column) {
    if (is_leaf(graph_.nodes[id].kind)) return;
    if (columns_[id].select == none) {
      columns_[id] = column;
    } else if (columns_[id] != column) {
      columns_[id].index = several;
    }
  };
  for (Id id = static_cast<Id>(columns_.size()); id-- > 0;) {
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

void Selections::enter(Id id) {
  found_[id] = static_cast<std::uint32_t>(walked_.size());
  walked_.push_back(id);
  begin_[id] = found_[id] + 1;
}

void Selections::leave(Id id) { end_[id] = static_cast<std::uint32_t>(walked_.size()); }

Column Selections::column(Id id) const {
  const Column column = columns_[id];
  return column.select != none && is_under(id, column.select) ? column : Column{};
}

SelectionCheck::SelectionCheck(Graph& graph, const std::vector<char>& active,
                               const Selections& selections, SharesOf shares_of)
    : graph_(graph),
      active_(active),
      selections_(selections),
      shares_of_(std::move(shares_of)),
      walk_(graph, active),
      upper_(active.size(), 0),
      atom_(active.size(), none),
      dead_uses_(active.size(), 0),
      shares_(active.size(), 0) {
  for (Id id = 0; id < active.size(); ++id) walk_.set_seen(id, true);
}

bool SelectionCheck::holds(Id select) {
  select_ = select;
  const auto& walked = selections_.walked_;
  members_.assign(walked.begin() + selections_.begin_[select],
                  walked.begin() + selections_.end_[select]);
  if (members_.empty()) return true;
  std::sort(members_.begin(), members_.end());  // operands before users
  find_upper();
  if (has_inner_selection() || reaches_rows()) return false;
  const Node node = graph_.nodes[select];
  const std::vector<Id> candidates(graph_.operands.begin() + node.first,
                                   graph_.operands.begin() + node.first + node.count);
  walk(candidates);
  entries_ = entries();
  number_atoms();
  std::vector<Sequence> sequences;
  for (const Id target : targets()) {
    sequences.push_back(sequence(target));
  }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    walk({candidates[i]});
    if (entries() != entries_) return false;
    rank();
    if (!is_rest_dead()) return false;
    for (const Sequence& each : sequences) {
      if (!is_descending(each, static_cast<std::int32_t>(i))) return false;
    }
  }
  return true;
}

// The token of an inner selection would change the walk too.
bool SelectionCheck::has_inner_selection() const {
  return std::any_of(members_.begin(), members_.end(), [&](Id id) {
    return graph_.nodes[id].kind == Kind::select && selections_.begin_[id] < selections_.end_[id];
  });
}

// Do gradients reach matrix rows from nodes whose turns depend on the token? Rows are added in the
// order of the leaves.
bool SelectionCheck::reaches_rows() {
  return std::any_of(members_.begin(), members_.end(), [&](Id id) {
    bool found = false;
    graph_.for_operands(
        id, [&](Id& operand) { found = found || graph_.nodes[operand].kind == Kind::gather; });
    return upper_[id] != 0 && found;
  });
}

void SelectionCheck::find_upper() {
  for (const Id id : members_) {
    bool upper = selections_.column(id).select == select_;
    graph_.for_operands(id, [&](Id& operand) {
      upper = upper || (selections_.is_under(operand, select_) && upper_[operand] != 0);
    });
    upper_[id] = upper ? 1 : 0;
  }
}

// Walks the upper nodes and the entries. Below the entries every walk is the same.
void SelectionCheck::walk(const std::vector<Id>& roots) {
  walk_.order.clear();
  for (const Id id : members_) walk_.set_seen(id, false);
  for (const Id root : roots) {
    walk_.from(root, [&](Id id) { return upper_[id] != 0; }, [](Id) {});
  }
  for (const Id id : members_) walk_.set_seen(id, true);
}

std::vector<Id> SelectionCheck::entries() const {
  std::vector<Id> found;
  for (const Turn& turn : walk_.order) {
    if (upper_[turn.id] == 0) found.push_back(turn.id);
  }
  return found;
}

void SelectionCheck::number_atoms() {
  std::uint32_t atoms = 0;
  for (const Id id : members_) {
    atom_[id] = upper_[id] != 0 ? std::exchange(atoms, atoms + parts(graph_.nodes[id])) : dead;
  }
  entry_atoms_.clear();
  std::vector<Id> stack;
  for (const Id entry : entries_) {
    entry_atoms_.push_back(atoms);
    stack.push_back(entry);
    while (!stack.empty()) {
      const Id id = stack.back();
      stack.pop_back();
      if (!selections_.is_under(id, select_) || atom_[id] != dead) continue;
      atom_[id] = atoms;
      graph_.for_operands(id, [&](Id& operand) { stack.push_back(operand); });
    }
    ++atoms;
  }
  ranks_.assign(atoms, dead);
}

// The nodes to which upper nodes pass gradients and that receive another one from under the
// selection: their order of addition matters.
std::vector<Id> SelectionCheck::targets() {
  std::vector<Id> found;
  std::vector<Id> stack;
  const auto for_targets = [&](Id user, auto&& visit) {
    graph_.for_operands(user, [&](Id& operand) { stack.push_back(operand); });
    while (!stack.empty()) {
      const Id target = stack.back();
      stack.pop_back();
      if (!active_[target]) continue;
      visit(target);
      if (selections_.is_transparent(target)) {
        graph_.for_operands(target, [&](Id& candidate) { stack.push_back(candidate); });
      }
    }
  };
  for (const Id id : members_) for_targets(id, [&](Id target) { shares_[target] = 0; });
  for (const Id id : members_) for_targets(id, [&](Id target) { ++shares_[target]; });
  for (const Id id : members_) {
    if (upper_[id] == 0) continue;
    for_targets(id, [&](Id target) {
      if (std::exchange(shares_[target], 0) > 1) found.push_back(target);
    });
  }
  return found;
}

SelectionCheck::Sequence SelectionCheck::sequence(Id target) {
  Sequence found;
  for (const Share& share : shares_of_(target)) {
    if (!selections_.is_under(share.from, select_)) continue;
    const std::uint32_t part = upper_[share.from] != 0 ? share.part : 0;
    found.push_back({atom_[share.from] + part, selections_.column(share.from).index, share.mask});
  }
  return found;
}

void SelectionCheck::rank() {
  std::fill(ranks_.begin(), ranks_.end(), dead);
  std::size_t entry = 0;
  std::uint32_t rank = 0;
  for (const Turn& turn : walk_.order) {
    if (upper_[turn.id] == 0) ranks_[entry_atoms_[entry++]] = rank;
    for (std::uint32_t part = turn.begin; part < turn.end; ++part) {
      ranks_[atom_[turn.id] + part] = rank;
    }
    ++rank;
  }
}

// Is every node that this walk leaves out used only by such nodes?
bool SelectionCheck::is_rest_dead() {
  const auto is_left_out = [&](Id id) { return upper_[id] != 0 && ranks_[atom_[id]] == dead; };
  for (const Id id : members_) dead_uses_[id] = 0;
  const auto count = [&](Id user) {
    graph_.for_operands(user, [&](Id& operand) { ++dead_uses_[operand]; });
  };
  count(select_);
  for (const Id id : members_) {
    if (is_left_out(id)) count(id);
  }
  return std::all_of(members_.begin(), members_.end(), [&](Id id) {
    return !is_left_out(id) || dead_uses_[id] == selections_.uses_[id];
  });
}

bool SelectionCheck::is_descending(const Sequence& sequence, std::int32_t chosen) const {
  std::uint32_t before = dead;
  for (const Ranked& each : sequence) {
    if (each.mask == Kind::not_one_hot && each.column == chosen) continue;
    if (each.mask == Kind::one_hot && each.column != chosen) continue;
    const std::uint32_t rank = ranks_[each.atom];
    if (rank == dead) continue;
    if (rank > before) return false;
    before = rank;
  }
  return true;
}

}  // namespace nanochat::program

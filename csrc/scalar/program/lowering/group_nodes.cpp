// Groups nodes that do the same work: they become the rows and lanes of one array.
//
// Needs: positions; no dead nodes. Two nodes are in the same group if they are of the same kind, at
// the same depth, and their operands are in the same groups. The number of products of a sum does
// not matter (attention at later positions looks back over more positions), nor does which
// parameter or constant an operand is. Equal depth means that no member needs another one, so a
// group can be computed at once, and groups run in the order of depth. Features are numbered in the
// recorded order within each position, so the operands of neighbors are neighbors.
// Correct because grouping only decides where a number is stored; the lowering reads the operands
// of each node from the graph.
#include <algorithm>
#include <bit>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "scalar/program/graph/rewrite.hpp"
#include "scalar/program/graph/verify.hpp"
#include "scalar/program/lowering/groups.hpp"

namespace nanochat::program {
namespace {

// What the members of a class have in common.
using Key = std::vector<std::uint64_t>;

struct HashOfKey {
  std::size_t operator()(const Key& key) const noexcept {
    std::uint64_t hash = key.size();
    for (const std::uint64_t value : key) {
      hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
      hash ^= hash >> 31U;
    }
    return hash;
  }
};

// A copy that was added for a selection: a sum whose index is the depth of the copies in its group.
bool is_copy(const Node& node) { return node.kind == Kind::sum && node.index != 0; }

class Classes {
 public:
  explicit Classes(Graph& graph)
      : graph_(graph), class_(graph.nodes.size()), depth_(class_.size()) {
    for (Id id = 0; id < class_.size(); ++id) classify(id);
  }
  std::size_t count() const { return numbers_.size(); }
  std::uint32_t number(Id id) const { return class_[id]; }
  std::uint32_t depth(Id id) const { return depth_[id]; }

 private:
  // The factor one is not a node.
  std::uint64_t of_factor(Id id) const { return id >= one ? none : class_[id]; }

  void classify(Id id) {
    const Node& node = graph_.nodes[id];
    std::uint32_t depth = 0;
    graph_.for_operands(id, [&](Id& operand) { depth = std::max(depth, depth_[operand] + 1); });
    if (is_copy(node)) depth = std::max(depth, static_cast<std::uint32_t>(node.index));
    const std::uint64_t is_shared = node.position == shared ? 1 : 0;
    key_.assign({static_cast<std::uint64_t>(node.kind), depth, is_shared});
    if (is_unary(node.kind)) {
      add(class_[node.first], std::bit_cast<std::uint64_t>(node.value));
    } else if (node.kind == Kind::gather) {
      add(std::bit_cast<std::uint64_t>(node.value));
    } else if (is_copy(node)) {
      add(0U);
    } else if (node.kind == Kind::sum) {
      // A run of products of the same groups counts once. Recorded products form separate groups.
      add((node.product ? 1U : 2U) + (node.from_zero ? 2U : 0U));
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Product& product = graph_.products[node.first + i];
        const std::uint64_t a = of_factor(product.a), b = of_factor(product.b);
        if (i > 0 && key_[key_.size() - 2] == a && key_.back() == b) continue;
        add(a, b);
      }
    } else if (!is_leaf(node.kind)) {
      add(class_[graph_.operands[node.first]]);
      if (node.kind == Kind::select) add(node.count);
    }
    const auto next = static_cast<std::uint32_t>(numbers_.size());
    class_[id] = numbers_.try_emplace(key_, next).first->second;
    depth_[id] = depth;
  }

  template <class... Values>
  void add(Values... values) {
    (key_.push_back(values), ...);
  }

  static constexpr std::uint64_t none = ~std::uint64_t{0};

  Graph& graph_;
  std::unordered_map<Key, std::uint32_t, HashOfKey> numbers_;
  Key key_;  // of the node being classified
  std::vector<std::uint32_t> class_, depth_;
};

bool stored(Kind kind) { return kind != Kind::constant && kind != Kind::parameter; }

// The nodes of each class, in the order in which the groups can run.
std::vector<std::vector<Id>> find_members(Graph& graph) {
  const Classes classes(graph);
  std::vector<std::vector<Id>> members(classes.count());
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    if (stored(graph.nodes[id].kind)) members[classes.number(id)].push_back(id);
  }
  std::erase_if(members, [](const std::vector<Id>& ids) { return ids.empty(); });
  std::stable_sort(members.begin(), members.end(), [&](const auto& a, const auto& b) {
    return classes.depth(a.front()) < classes.depth(b.front());
  });
  return members;
}

void sort_members(const Graph& graph, std::vector<Id>& ids) {
  const auto before = [&](Id a, Id b) {
    const Node &x = graph.nodes[a], &y = graph.nodes[b];
    return std::tuple(x.position, x.order, a) < std::tuple(y.position, y.order, b);
  };
  if (!std::is_sorted(ids.begin(), ids.end(), before)) std::sort(ids.begin(), ids.end(), before);
}

void add_group(const Graph& graph, std::vector<Id> ids, Grouping& grouping) {
  Group group;
  group.kind = graph.nodes[ids.front()].kind;
  group.begin = graph.nodes[ids.front()].position;
  group.end = group.begin == shared ? shared : graph.nodes[ids.back()].position + 1;
  std::vector<std::int32_t> counts(static_cast<std::size_t>(std::max(1, group.end - group.begin)),
                                   0);
  for (const Id id : ids) {
    const auto position = static_cast<std::size_t>(graph.nodes[id].position - group.begin);
    grouping.group_of[id] = static_cast<std::int32_t>(grouping.groups.size());
    grouping.feature_of[id] = counts[position]++;
  }
  std::vector<std::uint32_t> starts{0};
  for (const std::int32_t count : counts) {
    starts.push_back(starts.back() + static_cast<std::uint32_t>(count));
  }
  group.features = *std::max_element(counts.begin(), counts.end());
  const bool even = std::all_of(counts.begin(), counts.end(),
                                [&](std::int32_t count) { return count == group.features; });
  if (!even) group.per_position = std::move(counts);
  grouping.groups.push_back(std::move(group));
  grouping.members.push_back(std::move(ids));
  grouping.starts.push_back(std::move(starts));
}

Grouping form_groups(Graph& graph) {
  Grouping grouping;
  grouping.group_of.assign(graph.nodes.size(), -1);
  grouping.feature_of.assign(graph.nodes.size(), 0);
  std::vector<std::vector<Id>> members = find_members(graph);
  for (std::vector<Id>& ids : members) {
    sort_members(graph, ids);
    add_group(graph, std::move(ids), grouping);
  }
  return grouping;
}

// Are the operands of a selection or a maximum rows i, i + 1, i + 2, … of one group, at the
// position of the node?
bool consecutive(const Graph& graph, const Grouping& grouping, const Node& node) {
  const Id first = graph.operands[node.first];
  for (std::uint32_t i = 0; i < node.count; ++i) {
    const Id id = graph.operands[node.first + i];
    if (grouping.group_of[id] < 0 || grouping.group_of[id] != grouping.group_of[first] ||
        graph.nodes[id].position != node.position ||
        grouping.feature_of[id] != grouping.feature_of[first] + static_cast<std::int32_t>(i)) {
      return false;
    }
  }
  return true;
}

bool takes_rows(Kind kind) { return kind == Kind::largest || kind == Kind::select; }

// Moves the copies of each selection to the depth of the deepest one, so they form one group.
void level_copies(Graph& graph) {
  for (bool changed = true; changed;) {
    changed = false;
    const Classes classes(graph);
    for (const Node& node : graph.nodes) {
      if (!takes_rows(node.kind)) continue;
      std::uint32_t deepest = 0;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        deepest = std::max(deepest, classes.depth(graph.operands[node.first + i]));
      }
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Id id = graph.operands[node.first + i];
        if (!is_copy(graph.nodes[id]) || classes.depth(id) == deepest) continue;
        graph.nodes[id].index = static_cast<std::int32_t>(deepest);
        changed = true;
      }
    }
  }
}

// Adds copies of the operands of these selections and maxima.
void copy_operands(Graph& graph, const std::vector<char>& scattered) {
  Id next = 0;
  rewrite(graph, [&](Graph& out, const Node& node) {
    if (!scattered[next++]) return out.add(node);
    for (std::uint32_t i = 0; i < node.count; ++i) {
      const Product product{out.operands[node.first + i], one};
      out.operands[node.first + i] =
          out.add_sum(&product, 1, node.position, static_cast<Id>(out.nodes.size()));
      out.nodes.back().index = 1;
    }
    return out.add(node);
  });
}

}  // namespace

Grouping group_nodes(Graph& graph) {
  // A copy changes the group of its users, which may separate the operands of another selection.
  for (;;) {
    Grouping grouping = form_groups(graph);
    std::vector<char> scattered(graph.nodes.size(), 0);
    bool any = false;
    for (Id id = 0; id < graph.nodes.size(); ++id) {
      const Node& node = graph.nodes[id];
      scattered[id] = takes_rows(node.kind) && !consecutive(graph, grouping, node);
      any = any || scattered[id];
    }
    if (!any) {
      verify(graph, "group_nodes");
      return grouping;
    }
    copy_operands(graph, scattered);
    level_copies(graph);
  }
}

}  // namespace nanochat::program

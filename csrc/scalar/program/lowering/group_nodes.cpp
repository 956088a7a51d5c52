// Isomorphic nodes become the rows and lanes of one array.
//
// Needs: stages, dead nodes removed. Two nodes belong together when they are of the same kind, at
// the same depth, and their operands belong together; how many products a sum has does not count
// (attention looks back over more positions the later it stands), nor does which parameter or
// constant an operand is. Same depth means that no member needs another, so a group is computed at
// once, and groups in the order of depth. Features are numbered in the recorded order within each
// stage, which is what makes the operands of neighbours neighbours.
// Right because grouping says only where a number is stored; the lowering reads from the graph
// itself which operands each one has.
#include <algorithm>
#include <bit>
#include <unordered_map>

#include "scalar/program/lowering/groups.hpp"

namespace nanochat::program {
namespace {

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
  return hash ^ (hash >> 31U);
}

// A copy made for a selection: a sum whose index is the depth that it and its neighbours share.
bool is_copy(const Node& node) { return node.kind == Kind::sum && node.index != 0; }

class Classes {
 public:
  explicit Classes(Graph& graph) : graph_(graph), hash_(graph.nodes.size()), depth_(hash_.size()) {
    for (Id id = 0; id < hash_.size(); ++id) classify(id);
  }
  std::uint64_t hash(Id id) const { return hash_[id]; }
  std::uint32_t depth(Id id) const { return depth_[id]; }

 private:
  std::uint64_t of_factor(Id id) const { return id >= one ? 1 : hash_[id]; }

  void classify(Id id) {
    const Node& node = graph_.nodes[id];
    std::uint32_t depth = 0;
    graph_.for_operands(id, [&](Id& operand) { depth = std::max(depth, depth_[operand] + 1); });
    if (is_copy(node)) depth = std::max(depth, static_cast<std::uint32_t>(node.index));
    std::uint64_t hash = mix(static_cast<std::uint64_t>(node.kind), depth);
    hash = mix(hash, node.stage == shared ? 1 : 2);
    if (is_unary(node.kind)) {
      hash = mix(mix(hash, hash_[node.first]), std::bit_cast<std::uint64_t>(node.value));
    } else if (node.kind == Kind::gather) {
      hash = mix(hash, std::bit_cast<std::uint64_t>(node.value));
    } else if (is_copy(node)) {
      hash = mix(hash, 3);
    } else if (node.kind == Kind::sum) {
      // A run of alike products counts once; what was written as a product stays one.
      hash = mix(hash, (node.product ? 4 : 5) + (node.from_zero ? 2 : 0));
      std::uint64_t before = 0;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Product& product = graph_.products[node.first + i];
        const std::uint64_t alike = mix(of_factor(product.a), of_factor(product.b));
        if (i == 0 || alike != before) hash = mix(hash, alike);
        before = alike;
      }
    } else if (!is_leaf(node.kind)) {
      hash = mix(hash, hash_[graph_.operands[node.first]]);
      if (node.kind == Kind::select) hash = mix(hash, node.count);
    }
    hash_[id] = hash;
    depth_[id] = depth;
  }

  Graph& graph_;
  std::vector<std::uint64_t> hash_;
  std::vector<std::uint32_t> depth_;
};

bool stored(Kind kind) { return kind != Kind::constant && kind != Kind::parameter; }

Grouping form_groups(Graph& graph) {
  const Classes classes(graph);
  Grouping result;
  std::unordered_map<std::uint64_t, std::size_t> index;
  std::vector<std::vector<Id>> members;
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    if (!stored(graph.nodes[id].kind)) continue;
    const auto [found, fresh] = index.try_emplace(classes.hash(id), members.size());
    if (fresh) members.emplace_back();
    members[found->second].push_back(id);
  }
  std::stable_sort(members.begin(), members.end(), [&](const auto& a, const auto& b) {
    return classes.depth(a.front()) < classes.depth(b.front());
  });
  result.group_of.assign(graph.nodes.size(), -1);
  result.feature_of.assign(graph.nodes.size(), 0);
  for (std::vector<Id>& ids : members) {
    const auto before = [&](Id a, Id b) {
      const Node &x = graph.nodes[a], &y = graph.nodes[b];
      return x.stage != y.stage   ? x.stage < y.stage
             : x.order != y.order ? x.order < y.order
                                  : a < b;
    };
    if (!std::is_sorted(ids.begin(), ids.end(), before)) std::sort(ids.begin(), ids.end(), before);
    Group group;
    group.kind = graph.nodes[ids.front()].kind;
    group.begin = graph.nodes[ids.front()].stage;
    group.end = group.begin == shared ? shared : graph.nodes[ids.back()].stage + 1;
    group.features = 0;
    std::vector<std::int32_t> counts(static_cast<std::size_t>(std::max(1, group.end - group.begin)),
                                     0);
    for (const Id id : ids) {
      const auto stage = static_cast<std::size_t>(graph.nodes[id].stage - group.begin);
      result.group_of[id] = static_cast<std::int32_t>(result.groups.size());
      result.feature_of[id] = counts[stage]++;
    }
    std::vector<std::uint32_t> starts{0};
    for (const std::int32_t count : counts) {
      starts.push_back(starts.back() + static_cast<std::uint32_t>(count));
      group.features = std::max(group.features, count);
    }
    const bool even = std::all_of(counts.begin(), counts.end(),
                                  [&](std::int32_t count) { return count == group.features; });
    if (!even) group.per_stage = counts;
    result.groups.push_back(std::move(group));
    result.members.push_back(std::move(ids));
    result.starts.push_back(std::move(starts));
  }
  return result;
}

// Are the operands of a selection or a maximum rows i, i + 1, i + 2, … of one group and stage?
bool consecutive(const Graph& graph, const Grouping& grouping, const Node& node) {
  const Id head = graph.operands[node.first];
  for (std::uint32_t i = 0; i < node.count; ++i) {
    const Id id = graph.operands[node.first + i];
    if (grouping.group_of[id] < 0 || grouping.group_of[id] != grouping.group_of[head] ||
        graph.nodes[id].stage != node.stage ||
        grouping.feature_of[id] != grouping.feature_of[head] + static_cast<std::int32_t>(i)) {
      return false;
    }
  }
  return true;
}

bool takes_rows(Kind kind) { return kind == Kind::largest || kind == Kind::select; }

// The copies of one selection go to the depth of the deepest, so that they form one group.
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

// Gives each of these selections and maxima operands of its own.
void copy_operands(Graph& graph, const std::vector<char>& scattered) {
  Graph copied;
  std::vector<Id> place(graph.nodes.size());
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    graph.for_operands(id, [&](Id& operand) { operand = place[operand]; });
    Node node = graph.nodes[id];
    if (node.kind == Kind::sum) {
      const auto first = static_cast<std::uint32_t>(copied.products.size());
      const auto begin = graph.products.begin() + node.first;
      copied.products.insert(copied.products.end(), begin, begin + node.count);
      node.first = first;
    } else if (takes_rows(node.kind)) {
      std::vector<Id> operands(graph.operands.begin() + node.first,
                               graph.operands.begin() + node.first + node.count);
      if (scattered[id]) {
        for (std::size_t i = 0; i < operands.size(); ++i) {
          const Product product{operands[i], one};
          operands[i] =
              copied.add_sum(&product, 1, node.stage, static_cast<Id>(copied.nodes.size()));
          copied.nodes.back().index = 1;
        }
      }
      node.first = static_cast<std::uint32_t>(copied.operands.size());
      copied.operands.insert(copied.operands.end(), operands.begin(), operands.end());
    }
    place[id] = copied.add(node);
  }
  copied.outputs = graph.outputs;
  copied.watched = graph.watched;
  copied.seeds = graph.seeds;
  copied.parameter_gradients = graph.parameter_gradients;
  copied.gather_gradients = graph.gather_gradients;
  copied.parameters = graph.parameters;
  copied.ordered = graph.ordered;
  copied.for_roots([&](Id& id) { id = place[id]; });
  graph = std::move(copied);
}

}  // namespace

Grouping group_nodes(Graph& graph) {
  // A copy changes the class of what uses it, which may part the operands of another selection.
  for (;;) {
    Grouping grouping = form_groups(graph);
    std::vector<char> scattered(graph.nodes.size(), 0);
    bool any = false;
    for (Id id = 0; id < graph.nodes.size(); ++id) {
      const Node& node = graph.nodes[id];
      scattered[id] = takes_rows(node.kind) && !consecutive(graph, grouping, node);
      any = any || scattered[id];
    }
    if (!any) return grouping;
    copy_operands(graph, scattered);
    level_copies(graph);
  }
}

}  // namespace nanochat::program

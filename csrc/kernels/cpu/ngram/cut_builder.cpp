#include "kernels/cpu/ngram/cut_builder.hpp"

#include <algorithm>

#include "kernels/status.hpp"

namespace nanochat::kernels::ngram {

CutBuilder::CutBuilder(int order, std::uint32_t vocab, const Cutoff& cutoff)
    : longest_(order - 1), cutoff_(cutoff), open_(static_cast<std::size_t>(order)) {
  for (Open& node : open_) node.counts.resize(vocab);
}

int CutBuilder::shared_tokens(const Context& next) const noexcept {
  int shared = 0;
  while (shared < std::min(last_.length, next.length) &&
         last_.tokens[static_cast<std::size_t>(shared) + 1] ==
             next.tokens[static_cast<std::size_t>(shared) + 1]) {
    ++shared;
  }
  return shared;
}

// Counts the last target at the longest of its contexts that occurs more than once.
void CutBuilder::place(int shared_with_next) {
  const int before = std::min(shared_, last_.length);
  const int depth = std::max(before, std::min(shared_with_next, last_.length));
  while (depth_ > before) close(depth_--);
  while (depth_ < depth) open(++depth_);
  count(open_[static_cast<std::size_t>(depth)], last_.target, 1);
  if (depth < last_.length) add_leaf(depth + 1);
}

void CutBuilder::open(int depth) {
  Open& node = open_[static_cast<std::size_t>(depth)];
  node.token = last_.tokens[static_cast<std::size_t>(depth)];
  node.first_child = static_cast<std::uint32_t>(levels_[depth].children.size());
}

// Writes a node, and adds its counts to its parent.
void CutBuilder::close(int depth) {
  Open& node = open_[static_cast<std::size_t>(depth)];
  sort_counted(node);
  const std::uint32_t least = is_cut(depth) ? cutoff_.count : 1;
  Dropped dropped{};
  for (const std::uint32_t token : node.counted) {
    auto& counts = node.counts[token];
    for (const Kind kind : {adjusted, raw}) {
      if (counts[kind] <= 4) ++counts_of_counts_[depth][kind][counts[kind] - 1];
    }
    if (depth > 0) count(open_[static_cast<std::size_t>(depth) - 1], token, counts[raw]);
    if (counts[raw] >= least) {
      kept_.push_back({token, {counts[adjusted], counts[raw]}});
    } else {
      for (const Kind kind : {adjusted, raw}) dropped.sum[kind] += counts[kind];
    }
    counts = {};
  }
  node.counted.clear();
  if (kept_.empty() && depth > 0) return;  // p = p of the shorter context
  if (depth > 0) {
    levels_[depth - 1].children.push_back(
        {node.token, static_cast<std::uint32_t>(levels_[depth].nodes.size())});
  }
  if (is_cut(depth)) levels_[depth].dropped.push_back(dropped);
  write_node(depth, node.first_child);
}

// Writes a node with the kept followers, and clears these.
void CutBuilder::write_node(int depth, std::uint32_t first_child) {
  Level& level = levels_[depth];
  level.nodes.push_back({first_child, static_cast<std::uint32_t>(level.followers.size())});
  if (kept_.size() > short_list) {
    for (const Kind kind : {adjusted, raw}) {
      const Totals totals = totals_of(kept_.data(), kept_.data() + kept_.size(), kind);
      level.followers.push_back({totals.sum, {totals.ones, totals.twos}});
    }
  }
  for (const Follower& each : kept_) level.followers.push_back(each);
  kept_.clear();
}

// Counts a target whose contexts from `first` on occur once, and writes those that are kept.
void CutBuilder::add_leaf(int first) {
  ++leaves_from_[first];
  --leaves_from_[last_.length + 1];
  for (int depth = std::min(last_.length, cutoff_.length - 2); depth >= first; --depth) {
    const bool is_last = depth == std::min(last_.length, cutoff_.length - 2);
    levels_[depth - 1].children.push_back(
        {last_.tokens[static_cast<std::size_t>(depth)],
         static_cast<std::uint32_t>(levels_[depth].nodes.size())});
    kept_.push_back({last_.target, {1, 1}});
    write_node(depth, static_cast<std::uint32_t>(levels_[depth].children.size() - !is_last));
  }
}

void CutBuilder::sort_counted(Open& node) const {
  if (node.counted.size() <= node.counts.size() / 8) {
    std::sort(node.counted.begin(), node.counted.end());
    return;
  }
  node.counted.clear();
  for (std::uint32_t token = 0; token < node.counts.size(); ++token) {
    if (node.counts[token][raw] != 0) node.counted.push_back(token);
  }
}

void CutBuilder::finish(Table& table) {
  if (targets_ > 0) place(0);
  for (; depth_ >= 0; --depth_) close(depth_);
  std::vector<Open>().swap(open_);
  table.targets = static_cast<std::uint32_t>(targets_);
  table.stream.assign(1, bos);
  std::int64_t leaves = 0;
  std::size_t nodes = 0, children = 0, followers = 0, dropped = 0;
  for (int depth = 0; depth <= longest_; ++depth) {
    leaves += leaves_from_[depth];
    for (const Kind kind : {adjusted, raw}) {
      CountsOfCounts& with = counts_of_counts_[depth][kind];
      with[0] += leaves;
      table.discounts[depth][kind] = estimate_discounts(with);
      table.counts_of_counts.insert(table.counts_of_counts.end(), with.begin(), with.end());
    }
    nodes += levels_[depth].nodes.size();
    children += levels_[depth].children.size();
    followers += levels_[depth].followers.size();
    dropped += levels_[depth].dropped.size();
  }
  if (nodes >= leaf_bit || followers >= leaf_bit) {
    throw Failure(NCK_ARGUMENT,
                  "the cut-off must leave at most 2^31 contexts and n-grams, got %lld and %lld",
                  static_cast<long long>(nodes), static_cast<long long>(followers));
  }
  table.nodes.reserve(nodes + 1);
  table.children.reserve(children);
  table.followers.reserve(followers);
  table.dropped.reserve(dropped);
  for (int depth = 0; depth <= longest_; ++depth) {
    Level& level = levels_[depth];
    const auto first_child = static_cast<std::uint32_t>(table.children.size());
    const auto first_follower = static_cast<std::uint32_t>(table.followers.size());
    level.nodes.move_to(table.nodes, [&](const Node& node) -> Node {
      return {node.first_child + first_child, node.first_follower + first_follower};
    });
    const auto below = static_cast<std::uint32_t>(table.nodes.size());
    level.children.move_to(table.children, [&](const Child& child) -> Child {
      return {child.token, child.link + below};
    });
    level.followers.move_to(table.followers, [](const Follower& each) { return each; });
    level.dropped.move_to(table.dropped, [](const Dropped& each) { return each; });
  }
  table.nodes.push_back(
      {static_cast<std::uint32_t>(children), static_cast<std::uint32_t>(followers)});
}

}  // namespace nanochat::kernels::ngram

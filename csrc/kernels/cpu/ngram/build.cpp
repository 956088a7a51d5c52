// Builds the tree of contexts from the sorted contexts: nodes and children from the root down, then
// followers from the deepest contexts up.
#include <algorithm>
#include <utility>

#include "kernels/cpu/ngram/table.hpp"

namespace nanochat::kernels::ngram {
namespace {

class Builder {
 public:
  Builder(Table& table, std::vector<std::uint32_t> order, std::vector<std::uint8_t> shared)
      : table_(table),
        order_(std::move(order)),
        shared_(std::move(shared)),
        longest_(table.order - 1),
        counts_(table.vocab) {}

  void build() {
    grow();
    for (int depth = longest_; depth >= 0; --depth) follow(depth);
    std::int64_t leaves = 0;
    for (int depth = 0; depth <= longest_; ++depth) {
      leaves += leaves_from_[depth];
      for (const Kind kind : {adjusted, raw}) {
        counts_of_counts_[depth][kind][0] += leaves;
        table_.discounts[depth][kind] = estimate_discounts(counts_of_counts_[depth][kind]);
      }
    }
    join_levels();
  }

 private:
  // The targets of a node: order_[first … first + count − 1]. has_bos: its context begins with BOS.
  struct Range {
    std::uint32_t first, count : 31, has_bos : 1;
  };

  void add_node(std::uint32_t first, std::uint32_t count, bool has_bos) {
    table_.nodes.push_back({0, 0});
    ranges_.push_back({first, count & ~leaf_bit, has_bos});
  }

  // The depth-th token before a target, from 1.
  std::uint32_t token_before(std::uint32_t target, int depth) const noexcept {
    return table_.stream[target - static_cast<std::uint32_t>(depth)];
  }

  // Makes nodes and children, depth by depth.
  void grow() {
    add_node(0, table_.targets, false);
    begins_[0] = 0;
    for (int depth = 0; depth <= longest_; ++depth) {
      begins_[depth + 1] = table_.nodes.size();
      for (std::size_t i = begins_[depth]; i < begins_[depth + 1]; ++i) {
        table_.nodes[i].first_child = static_cast<std::uint32_t>(table_.children.size());
        if (depth < longest_ && ranges_[i].has_bos == 0) split(i, depth);
      }
    }
    table_.nodes.shrink_to_fit();
    table_.children.shrink_to_fit();
    std::vector<std::uint8_t>().swap(shared_);
  }

  // Makes a child of each run of targets that also share the token before the node's context.
  void split(std::size_t index, int depth) {
    const std::uint32_t begin = ranges_[index].first, end = begin + ranges_[index].count;
    for (std::uint32_t first = begin; first < end;) {
      std::uint32_t last = first + 1;
      while (last < end && shared_[last] > depth) ++last;
      const std::uint32_t target = order_[first];
      const std::uint32_t token = token_before(target, depth + 1);
      if (last - first == 1) {
        table_.children.push_back({token, leaf_bit | target});
        note_leaf(target, depth + 1);
      } else {
        table_.children.push_back({token, static_cast<std::uint32_t>(table_.nodes.size())});
        add_node(first, last - first, token == bos);
      }
      first = last;
    }
  }

  // Counts the contexts that a leaf represents: from its depth to the longest one.
  void note_leaf(std::uint32_t target, int depth) noexcept {
    ++leaves_from_[depth];
    while (depth < longest_ && token_before(target, depth) != bos) ++depth;
    --leaves_from_[depth + 1];
  }

  // Lists the followers of the nodes of one depth.
  void follow(int depth) {
    std::vector<Follower>& followers = level_followers_[depth];
    for (std::size_t i = begins_[depth]; i < begins_[depth + 1]; ++i) {
      table_.nodes[i].first_follower = static_cast<std::uint32_t>(followers.size());
      if (depth == longest_ || ranges_[i].has_bos != 0) {
        for (std::uint32_t j = 0; j < ranges_[i].count; ++j) {
          count(table_.stream[order_[ranges_[i].first + j]], 1, 1);
        }
      } else {
        count_children(i, depth);
      }
      list_counted(followers, depth);
    }
    followers.shrink_to_fit();
  }

  void count_children(std::size_t index, int depth) {
    // The last node of all has no next node yet.
    const std::size_t last = index + 1 < table_.nodes.size() ? table_.nodes[index + 1].first_child
                                                             : table_.children.size();
    for (std::size_t c = table_.nodes[index].first_child; c < last; ++c) {
      const std::uint32_t link = table_.children[c].link;
      if ((link & leaf_bit) != 0) {
        count(table_.stream[link & ~leaf_bit], 1, 1);
        continue;
      }
      const std::vector<Follower>& below = level_followers_[depth + 1];
      const std::size_t end =
          link + 1 < begins_[depth + 2] ? table_.nodes[link + 1].first_follower : below.size();
      std::size_t first = table_.nodes[link].first_follower;
      if (end - first > short_list) first += 2;
      for (; first < end; ++first) count(below[first].token, 1, below[first].count[raw]);
    }
  }

  void count(std::uint32_t token, std::uint32_t more_adjusted, std::uint32_t more_raw) {
    Follower& counted = counts_[token];
    if (counted.count[raw] == 0) counted_.push_back(token);
    counted.count[adjusted] += more_adjusted;
    counted.count[raw] += more_raw;
  }

  // Appends what was counted, by token, and clears it.
  void list_counted(std::vector<Follower>& followers, int depth) {
    if (counted_.size() > counts_.size() / 8) {
      counted_.clear();
      for (std::uint32_t token = 0; token < counts_.size(); ++token) {
        if (counts_[token].count[raw] != 0) counted_.push_back(token);
      }
    } else {
      std::sort(counted_.begin(), counted_.end());
    }
    const bool is_short = counted_.size() <= short_list;
    if (!is_short) followers.resize(followers.size() + 2);
    for (const std::uint32_t token : counted_) {
      Follower& counted = counts_[token];
      for (const Kind kind : {adjusted, raw}) {
        const std::uint32_t value = counted.count[kind];
        if (value <= 4) ++counts_of_counts_[depth][kind][value - 1];
      }
      followers.push_back({token, {counted.count[adjusted], counted.count[raw]}});
      counted = {};
    }
    if (!is_short) {
      Follower* const last = followers.data() + followers.size();
      Follower* const first = last - counted_.size();
      for (const Kind kind : {adjusted, raw}) {
        const Totals totals = totals_of(first, last, kind);
        first[kind - 2] = {totals.sum, {totals.ones, totals.twos}};
      }
    }
    counted_.clear();
  }

  // Moves the followers of all depths into one array.
  void join_levels() {
    std::size_t size = 0;
    for (int depth = 0; depth <= longest_; ++depth) size += level_followers_[depth].size();
    table_.followers.reserve(size);
    for (int depth = 0; depth <= longest_; ++depth) {
      const auto before = static_cast<std::uint32_t>(table_.followers.size());
      for (std::size_t i = begins_[depth]; i < begins_[depth + 1]; ++i) {
        table_.nodes[i].first_follower += before;
      }
      std::vector<Follower>& level = level_followers_[depth];
      table_.followers.insert(table_.followers.end(), level.begin(), level.end());
      std::vector<Follower>().swap(level);
    }
    table_.nodes.push_back(
        {static_cast<std::uint32_t>(table_.children.size()), static_cast<std::uint32_t>(size)});
  }

  Table& table_;
  std::vector<std::uint32_t> order_;
  std::vector<std::uint8_t> shared_;
  std::vector<Range> ranges_;                         // of each node
  int longest_;                                       // tokens of the longest context
  ByDepth<std::size_t, max_order + 1> begins_;        // the first node of each depth
  ByDepth<std::int64_t, max_order + 1> leaves_from_;  // leaves that begin less those that end
  ByDepth<std::array<CountsOfCounts, 2>, max_order> counts_of_counts_;  // [depth][Kind]
  std::vector<Follower> counts_;        // of the node at hand, by token
  std::vector<std::uint32_t> counted_;  // the tokens with counts
  ByDepth<std::vector<Follower>, max_order> level_followers_;
};

}  // namespace

Discounts estimate_discounts(const CountsOfCounts& with) noexcept {
  constexpr Discounts otherwise{0.5, 1.0, 1.5};
  if (std::find(with.begin(), with.end(), 0) != with.end()) return otherwise;
  const auto ones = static_cast<double>(with[0]);
  const double y = ones / (ones + 2 * static_cast<double>(with[1]));
  Discounts discounts{};
  for (std::size_t i = 0; i < discounts.size(); ++i) {
    const double count = static_cast<double>(i) + 1;
    discounts[i] =
        count - (count + 1) * y * static_cast<double>(with[i + 1]) / static_cast<double>(with[i]);
    if (!(discounts[i] > 0 && discounts[i] <= count)) return otherwise;
  }
  return discounts;
}

void build(Table& table, int threads) {
  table.targets = static_cast<std::uint32_t>(table.stream.size()) - 1;
  std::vector<std::uint32_t> order;
  std::vector<std::uint8_t> shared;
  sort_contexts(table.stream, table.vocab, table.order - 1, threads, order, shared);
  Builder(table, std::move(order), std::move(shared)).build();
}

}  // namespace nanochat::kernels::ngram

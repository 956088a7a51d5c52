// Walks from the root to the longest context that the table has. With c the counts after a context
// h, D(c) the discount of a count, and h' the context h without its oldest token:
//
//   p(w | h) = (c(w) − D(c(w)) + Σ_v D(c(v)) · p(w | h')) / Σ_v c(v)
//
// with adjusted counts below the highest order, p(w | h') uniform for the empty context, and
// p(w | h) = p(w | h') for a context that the table does not have. A dropped n-gram has the count 0
// as c(w); in the sums, its c and D are the count that was dropped.
#include "kernels/cpu/ngram/lookup.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

namespace nanochat::kernels::ngram {
namespace {

// The counts of one context of the walk. header: where the totals are stored, or null.
struct Counts {
  const Follower* first;
  std::size_t count;
  const Follower* header;
  Dropped dropped;

  Totals totals(Kind kind) const noexcept {
    if (header == nullptr) return totals_of(first, first + count, kind);
    return {header[kind].token, header[kind].count[0], header[kind].count[1]};
  }
};

// Returns the first element that is not below the token.
template <class Element>
const Element* lower_bound(const Element* first, std::size_t count, std::uint32_t token) noexcept {
  while (count > 1) {
    const std::size_t half = count / 2;
    // A mask instead of a branch, which would be mispredicted half of the time.
    const std::size_t is_below = first[half - 1].token < token ? 1 : 0;
    first += half & (std::size_t{0} - is_below);
    count -= half;
  }
  return first + (count == 1 && first->token < token ? 1 : 0);
}

// Fetches the lines of a list that a search in a short list reads.
template <class Element>
void prefetch(const Element* first, std::size_t count) noexcept {
  constexpr std::size_t line = 64;
  const auto* const bytes = reinterpret_cast<const char*>(first);
  const std::size_t size = std::min(count, short_list + 2) * sizeof(Element);
  for (std::size_t i = 0; i < size; i += line) __builtin_prefetch(bytes + i);
}

// Goes through the contexts of a target that the table has, the empty one first, up to `longest`
// tokens. What a step reads is fetched by the one before, so that several cursors that take turns
// wait for memory at the same time.
class Cursor {
 public:
  Cursor() = default;
  Cursor(const View& table, const Context& context, int longest) noexcept
      : table_(&table),
        text_(context.text),
        left_(context.length),
        begins_(context.begins),
        longest_(longest),
        node_(table.nodes),
        children_(table.children),
        followers_(table.followers) {}

  // Tokens of the context.
  int depth() const noexcept { return depth_; }

  // Finds the lists of the context. Must be called before the two functions below.
  void open() noexcept {
    if (leaf_ != 0) {
      only_ = {table_->stream[leaf_], {1, 1}};
      return;
    }
    const Node node = node_[0], next = node_[1];
    children_ = table_->children + node.first_child;
    child_count_ = depth_ < longest_ ? next.first_child - node.first_child : 0;
    followers_ = table_->followers + node.first_follower;
    follower_count_ = next.first_follower - node.first_follower;
    prefetch(followers_, follower_count_);
    prefetch(children_, child_count_);
  }

  // The counts of a leaf refer to this cursor.
  Counts counts() const noexcept {
    if (leaf_ != 0) return {&only_, 1, nullptr, {}};
    assert(followers_ != nullptr);
    const Dropped dropped = table_->dropped_of(static_cast<std::size_t>(node_ - table_->nodes));
    if (follower_count_ <= short_list) return {followers_, follower_count_, nullptr, dropped};
    return {followers_ + 2, follower_count_ - 2, followers_, dropped};
  }

  // Goes to the context that is longer by one token. Returns false if the table lacks it.
  bool advance() noexcept {
    if (depth_ == longest_ || (leaf_ != 0 && token_ == bos) || !next_token()) return false;
    ++depth_;
    if (leaf_ != 0) {
      const auto back = static_cast<std::uint32_t>(depth_);
      return back <= leaf_ && table_->stream[leaf_ - back] == token_;  // ≤: of damaged counts
    }
    const Child* const child = lower_bound(children_, child_count_, token_);
    if (child == children_ + child_count_ || child->token != token_) return false;
    if ((child->link & leaf_bit) != 0) {
      leaf_ = child->link & ~leaf_bit;
      __builtin_prefetch(table_->stream + leaf_);
    } else {
      node_ = table_->nodes + child->link;
      __builtin_prefetch(node_);
    }
    return true;
  }

 private:
  bool next_token() noexcept {
    if (left_ > 0) {
      token_ = static_cast<std::uint32_t>(text_[--left_]);
      return true;
    }
    token_ = bos;
    return left_-- == 0 && begins_;
  }

  const View* table_ = nullptr;
  const std::int64_t* text_ = nullptr;
  std::int64_t left_ = 0;  // tokens of the text before the context
  bool begins_ = false;
  int longest_ = 0, depth_ = 0;
  std::uint32_t token_ = 0;  // the oldest one of the context
  std::uint32_t leaf_ = 0;   // position of its only target, or 0
  const Node* node_ = nullptr;
  const Child* children_ = nullptr;
  const Follower* followers_ = nullptr;
  std::size_t child_count_ = 0, follower_count_ = 0;
  Follower only_{};
};

// sum: Σ_v c(v). left: Σ_v D(c(v)), which the next shorter context distributes. Both include what a
// cut-off dropped.
struct Weights {
  double sum, left;
};

Weights weights(const Counts& counts, Kind kind, const Discounts& discounts) noexcept {
  const Totals totals = counts.totals(kind);
  const auto more = static_cast<double>(counts.count - totals.ones - totals.twos);
  const double left = discounts[0] * totals.ones + discounts[1] * totals.twos + discounts[2] * more;
  const double dropped = counts.dropped.sum[kind];
  return {totals.sum + dropped, left + dropped};
}

// c − D(c) of a count of at least 1.
double kept(std::uint32_t count, const Discounts& discounts) noexcept {
  return count - discounts[std::min(count, 3U) - 1];
}

}  // namespace

namespace {

// The state of a lookup between two contexts.
struct State {
  Cursor cursor;
  double lower = 0.0;  // p by adjusted counts up to the depth before
  int next_order = 0;  // that is to be written
  bool is_open = false;
};

// Scores the target after the context of the cursor.
void visit(const View& table, const Lookup& lookup, int least_order, int most_order,
           std::int64_t stride, State& state) noexcept {
  const int depth = state.cursor.depth();
  const Counts counts = state.cursor.counts();
  const Follower* const found = lower_bound(counts.first, counts.count, lookup.target);
  const bool seen = found != counts.first + counts.count && found->token == lookup.target;
  const auto interpolated = [&](Kind kind) noexcept {
    const Discounts& discounts = table.discounts[depth][kind];
    const double own = seen ? kept(found->count[kind], discounts) : 0.0;
    const Weights weight = weights(counts, kind, discounts);
    return (own + weight.left * state.lower) / weight.sum;
  };
  if (depth + 1 >= least_order) {
    lookup.result[(depth + 1 - least_order) * stride] = -std::log(interpolated(raw));
    state.next_order = depth + 2;
  }
  if (depth + 1 < most_order) state.lower = interpolated(adjusted);
}

}  // namespace

void losses(const View& table, const Lookup* lookups, int count, int least_order, int most_order,
            std::int64_t stride) noexcept {
  std::array<State, most_lookups> states;
  for (int i = 0; i < count; ++i) {
    states[static_cast<std::size_t>(i)] = {Cursor(table, lookups[i].context, most_order - 1),
                                           1.0 / table.vocab, least_order, table.targets > 0};
  }
  bool is_open = count > 0;
  while (is_open) {
    for (State& state : states) {
      if (state.is_open) state.cursor.open();
    }
    is_open = false;
    for (int i = 0; i < count; ++i) {
      State& state = states[static_cast<std::size_t>(i)];
      if (!state.is_open) continue;
      visit(table, lookups[i], least_order, most_order, stride, state);
      state.is_open = state.cursor.advance();
      is_open |= state.is_open;
    }
  }
  for (int i = 0; i < count; ++i) {
    const State& state = states[static_cast<std::size_t>(i)];
    for (int order = state.next_order; order <= most_order; ++order) {
      lookups[i].result[(order - least_order) * stride] = -std::log(state.lower);
    }
  }
}

void distribution(const View& table, const Context& context, int order, double* result) noexcept {
  Cursor cursor(table, context, order - 1);
  ByDepth<Counts, max_order> found;
  int depths = 0;
  if (table.targets > 0) {
    do {
      cursor.open();
      found[depths++] = cursor.counts();
    } while (cursor.advance());
  }
  // The share of each depth in the result, from the longest context down.
  ByDepth<double, max_order> shares;
  double share = 1.0;
  for (int depth = depths - 1; depth >= 0; --depth) {
    const Kind kind = depth == order - 1 ? raw : adjusted;
    const Weights weight = weights(found[depth], kind, table.discounts[depth][kind]);
    shares[depth] = share / weight.sum;
    share = shares[depth] * weight.left;
  }
  std::fill(result, result + table.vocab, share / table.vocab);
  for (int depth = 0; depth < depths; ++depth) {
    const Kind kind = depth == order - 1 ? raw : adjusted;
    const Discounts& discounts = table.discounts[depth][kind];
    for (std::size_t i = 0; i < found[depth].count; ++i) {
      const Follower& each = found[depth].first[i];
      result[each.token] += shares[depth] * kept(each.count[kind], discounts);
    }
  }
}

}  // namespace nanochat::kernels::ngram

// The counts of a text as a tree of contexts: what is counted, and how it is stored.
//
// A node is a context, the tokens before a target. The root is the empty context. A child extends
// its parent's context by one token into the past. A context that contains BOS ends there and has
// no children. Each node lists its followers, the targets that occur after it.
//
// A context that occurs once is a leaf: it stores only the position of its target. The text itself
// tells which longer contexts the leaf represents. All of its counts are 1.
//
// Counts with a cut-off have no leaves and do not hold the text. A node stores the sums of the
// counts that were dropped, and exists only if a follower was kept.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_TABLE_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_TABLE_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanochat::kernels::ngram {

inline constexpr std::uint32_t bos = 0;
inline constexpr int max_order = 16;
// With these limits no index or count overflows 32 bits: there are at most max_targets ·
// most_order = 2^31 followers. With a cut-off, the number of followers is checked.
inline constexpr std::int64_t max_targets = std::int64_t{1} << 27U, max_vocab = 1 << 20;
inline constexpr std::int64_t max_cut_targets = std::int64_t{1} << 31U;

// The two numbers that are counted for an n-gram. raw: its occurrences, used for the highest order.
// adjusted: the distinct tokens before it, used below the highest order; the occurrences if it
// begins with BOS, which no token precedes.
enum Kind : std::uint8_t { adjusted = 0, raw = 1 };

struct Follower {
  std::uint32_t token;
  std::uint32_t count[2];  // by Kind
};

// The counts of a context: the sum of its followers' counts and how many of them are 1 and 2.
struct Totals {
  std::uint32_t sum, ones, twos;
};

// N-grams of at least `length` tokens that occur less than `count` times are dropped.
struct Cutoff {
  int length;  // at least 2
  std::uint32_t count;
};

// The sums of the counts of a context's dropped followers, by Kind.
struct Dropped {
  std::uint32_t sum[2];
};

// The lists of a node end where those of the next node begin. The last node is a sentinel.
//
// A list of more than short_list followers begins with two elements that hold its totals, one for
// each Kind: the sum as the token, ones and twos as the counts. The totals of shorter lists, which
// are most, are computed when they are needed.
struct Node {
  std::uint32_t first_child, first_follower;
};
inline constexpr std::size_t short_list = 8;

// Children are sorted by token.
struct Child {
  std::uint32_t token;
  std::uint32_t link;  // the index of a node, or leaf_bit and the position of a target
};
inline constexpr std::uint32_t leaf_bit = std::uint32_t{1} << 31U;

// One element per depth. Depths are ints, because they are compared with differences of orders.
template <class T, int size>
class ByDepth {
 public:
  T& operator[](int depth) noexcept { return elements_[static_cast<std::size_t>(depth)]; }
  const T& operator[](int depth) const noexcept {
    return elements_[static_cast<std::size_t>(depth)];
  }

 private:
  std::array<T, static_cast<std::size_t>(size)> elements_{};
};

// Subtracted from the counts 1, 2, and 3 or more.
using Discounts = std::array<double, 3>;

// How many n-grams of a length have the counts 1, 2, 3 and 4.
using CountsOfCounts = std::array<std::int64_t, 4>;

// Chen and Goodman's estimates, or 0.5, 1 and 1.5 if a count of counts is 0 or an estimate is not a
// discount: it must be positive, so that unseen tokens keep some probability, and at most the
// count.
Discounts estimate_discounts(const CountsOfCounts& with) noexcept;

struct Table {
  int order = 0;
  std::uint32_t vocab = 0;
  std::vector<std::uint32_t> stream;  // BOS before each document, and one at the end
  std::vector<Node> nodes;            // by depth, the root first
  std::vector<Child> children;
  std::vector<Follower> followers;
  std::vector<Dropped> dropped;                            // of the last nodes: see View
  ByDepth<std::array<Discounts, 2>, max_order> discounts;  // [depth][Kind]
  std::vector<std::int64_t> counts_of_counts;              // (order, 2, 4), with a cut-off
  std::uint32_t targets = 0;
};

// Counts as the lookups read them: those of a Table, or arrays in the caller's memory.
struct View {
  int order = 0;
  std::uint32_t vocab = 0;
  std::uint32_t targets = 0;        // that were counted
  std::uint32_t last_position = 0;  // of the stream, which only leaves need
  std::size_t node_count = 0, child_count = 0, follower_count = 0;
  // The nodes from first_cut on have a row of `dropped`. Without a cut-off there are none.
  std::size_t first_cut = 0, dropped_count = 0;
  const std::uint32_t* stream = nullptr;
  const Node* nodes = nullptr;
  const Child* children = nullptr;
  const Follower* followers = nullptr;
  const Dropped* dropped = nullptr;
  ByDepth<std::array<Discounts, 2>, max_order> discounts;
  const std::int64_t* counts_of_counts = nullptr;  // (order, 2, 4) or null: without a cut-off

  Dropped dropped_of(std::size_t node) const noexcept {
    return node < first_cut || dropped_count == 0 ? Dropped{} : dropped[node - first_cut];
  }
};

inline View view_of(const Table& table) noexcept {
  View view;
  view.order = table.order;
  view.vocab = table.vocab;
  view.targets = table.targets;
  view.last_position = static_cast<std::uint32_t>(table.stream.size()) - 1;
  view.node_count = table.nodes.size();
  view.child_count = table.children.size();
  view.follower_count = table.followers.size();
  view.stream = table.stream.data();
  view.nodes = table.nodes.data();
  view.children = table.children.data();
  view.followers = table.followers.data();
  view.dropped = table.dropped.data();
  view.dropped_count = table.dropped.size();
  view.first_cut = view.node_count - 1 - view.dropped_count;
  view.discounts = table.discounts;
  if (!table.counts_of_counts.empty()) view.counts_of_counts = table.counts_of_counts.data();
  return view;
}

inline Totals totals_of(const Follower* first, const Follower* last, Kind kind) noexcept {
  Totals totals{0, 0, 0};
  for (; first != last; ++first) {
    const std::uint32_t count = first->count[kind];
    totals.sum += count;
    totals.ones += static_cast<std::uint32_t>(count == 1);
    totals.twos += static_cast<std::uint32_t>(count == 2);
  }
  return totals;
}

// Counts the n-grams of table.stream up to table.order, and fills in the rest of the table. Throws
// std::bad_alloc.
void build(Table& table, int threads);

// Counts the n-grams of a long text and drops the rare ones; fills in the table but for order and
// vocab, which are set. Beyond the table, which is copied once, and the text, it takes about 40
// bytes for each target of a chunk. The table is the same for any chunk.
// Token: std::uint8_t, std::uint16_t, std::uint32_t or std::uint64_t. stream: (targets + 1) tokens,
// BOS before each document and at the end. Throws std::bad_alloc, Failure.
template <class Token>
void build_long(Table& table, const Token* stream, std::int64_t targets, const Cutoff& cutoff,
                std::int64_t chunk, int threads);

// Sorts the targets of a stream, the positions 1 … targets, by their contexts of at most `longest`
// tokens, from the newest token to the oldest, and by position. A context ends at BOS. shared[i]:
// the tokens that the contexts of order[i − 1] and order[i] share, or at least `longest` if they
// are equal. Throws std::bad_alloc.
void sort_contexts(const std::vector<std::uint32_t>& stream, std::uint32_t vocab, int longest,
                   int threads, std::vector<std::uint32_t>& order,
                   std::vector<std::uint8_t>& shared);

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_TABLE_HPP_

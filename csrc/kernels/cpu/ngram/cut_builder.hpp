// Builds the tree of contexts of a long text from its sorted contexts, one at a time, without the
// rare n-grams. Only the nodes of the current context are incomplete: a node is written when the
// next context does not share it.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_CUT_BUILDER_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_CUT_BUILDER_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/ngram/table.hpp"

namespace nanochat::kernels::ngram {

// An array that grows in blocks, so that growing copies nothing and moving it out frees each block.
template <class T>
class Blocks {
 public:
  std::size_t size() const noexcept { return size_; }
  void push_back(const T& element) {
    const std::size_t place = size_ % block;
    if (place == 0) blocks_.push_back(std::unique_ptr<T[]>(new T[block]));
    blocks_.back()[place] = element;
    ++size_;
  }
  // Appends the elements to an array that has room for them, and frees their memory.
  template <class Change>
  void move_to(std::vector<T>& all, const Change& change) {
    for (std::size_t first = 0; first < size_; first += block) {
      const std::unique_ptr<T[]> from = std::move(blocks_[first / block]);
      const std::size_t count = std::min(block, size_ - first);
      for (std::size_t i = 0; i < count; ++i) all.push_back(change(from[i]));
    }
    blocks_.clear();
    size_ = 0;
  }

 private:
  static constexpr std::size_t block = std::size_t{1} << 16U;
  std::vector<std::unique_ptr<T[]>> blocks_;
  std::size_t size_ = 0;
};

class CutBuilder {
 public:
  CutBuilder(int order, std::uint32_t vocab, const Cutoff& cutoff);

  // Adds the target at `target`, whose context is the tokens before it. Contexts must come in the
  // order of sort_contexts. shared: the tokens that it shares with the context before, or at least
  // its length if they are equal; or `unknown`.
  static constexpr int unknown = -1;
  template <class Token>
  void add(const Token* target, int shared) {
    Context next;
    next.target = static_cast<std::uint32_t>(*target);
    while (next.length < longest_) {
      next.tokens[static_cast<std::size_t>(++next.length)] = static_cast<std::uint32_t>(*--target);
      if (*target == bos) break;
    }
    if (targets_ > 0) {
      if (shared == unknown) shared = shared_tokens(next);
      place(shared);
      shared_ = shared;
    }
    last_ = next;
    ++targets_;
  }

  // Writes the table but for its order and vocabulary. Throws Failure if it is too large.
  void finish(Table& table);

 private:
  struct Context {
    std::array<std::uint32_t, max_order> tokens;  // from 1: the depth-th token before the target
    int length = 0;
    std::uint32_t target = 0;
  };

  // The nodes of a depth. Indices are those of the depth.
  struct Level {
    Blocks<Node> nodes;
    Blocks<Child> children;
    Blocks<Follower> followers;
    Blocks<Dropped> dropped;
  };

  // The followers of the incomplete node of a depth.
  struct Open {
    std::uint32_t token = bos;  // the oldest one of its context
    std::uint32_t first_child = 0;
    std::vector<std::array<std::uint32_t, 2>> counts;  // by token and Kind
    std::vector<std::uint32_t> counted;                // tokens with counts
  };

  bool is_cut(int depth) const noexcept { return depth + 1 >= cutoff_.length; }
  int shared_tokens(const Context& next) const noexcept;
  void place(int shared_with_next);
  void open(int depth);
  void close(int depth);
  void add_leaf(int depth);
  void write_node(int depth, std::uint32_t first_child);
  static void count(Open& node, std::uint32_t token, std::uint32_t occurrences) {
    auto& counts = node.counts[token];
    if (counts[raw] == 0) node.counted.push_back(token);
    ++counts[adjusted];
    counts[raw] += occurrences;
  }
  void sort_counted(Open& node) const;

  int longest_;  // tokens of the longest context
  Cutoff cutoff_;
  std::int64_t targets_ = 0;
  Context last_;    // added, but not placed: whether it is a leaf depends on the next one
  int shared_ = 0;  // tokens that it shares with the context before
  int depth_ = 0;   // of the deepest open node
  std::vector<Open> open_;
  std::vector<Follower> kept_;  // of the node that is written
  ByDepth<Level, max_order> levels_;
  ByDepth<std::array<CountsOfCounts, 2>, max_order> counts_of_counts_;  // [depth][Kind]
  ByDepth<std::int64_t, max_order + 1> leaves_from_;  // leaves that begin less those that end
};

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_CUT_BUILDER_HPP_

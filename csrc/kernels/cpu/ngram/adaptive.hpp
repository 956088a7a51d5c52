// Counts that grow with the text that they read, on top of a frozen table that is not changed.
//
// Each context of the read text has an element, found by its parent and its oldest token. It refers
// to what the frozen table has for the context, and holds the totals of both. An n-gram whose count
// differs from the frozen one has an element, too. As in the frozen table, a context that occurred
// once, here in the read text, is a leaf: it holds the position of its target, and the text tells
// which longer contexts it represents. Reading a token costs O(order).
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_ADAPTIVE_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_ADAPTIVE_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/ngram/pair_index.hpp"
#include "kernels/cpu/ngram/table.hpp"

namespace nanochat::kernels::ngram {

// Corrects the discounts of contexts of one kind by what the read text teaches: gradient ascent on
// the log probability of each target, with the step size of AdaGrad (Duchi et al. 2011).
class DiscountShifts {
 public:
  // Contexts are told apart by their depth, their distinct followers, and how often each occurred.
  static constexpr std::uint32_t kinds = 30;
  static std::uint32_t kind_of(std::uint32_t types, std::uint32_t sum) noexcept;

  // The corrected discount of the count i + 1: with r its share of the count, the logit of r is
  // shifted.
  double shifted(int depth, std::uint32_t kind, std::size_t i, double discount) const noexcept;
  // slope: the derivative of log p by that discount.
  void learn(int depth, std::uint32_t kind, std::size_t i, double discount, double slope,
             double rate) noexcept;

 private:
  struct Shift {
    double value = 0.0, factor = 1.0;  // factor: exp(value)
    double squares = 1e-2;             // sum of the squared slopes so far
  };
  ByDepth<std::array<std::array<Shift, 3>, kinds>, max_order> shifts_;
};

class Adaptive {
 public:
  // The frozen table must outlive this object. begins: the first token read begins a document.
  // rate: of learning the discounts, or 0 for those that the counts of counts estimate.
  Adaptive(const View& table, int order, bool begins, double rate);

  // Returns p(target) after the text read so far.
  double score(std::uint32_t target) noexcept;

  // Counts a target that was just scored, and appends it to the text. BOS ends the document. Throws
  // std::bad_alloc.
  void read(std::uint32_t target);

  // Writes the probabilities of all tokens.
  void distribution(double* result) const noexcept;

  // How many contexts of the next target have followers, and the distinct followers of the longest.
  int depths() const noexcept { return used_; }
  std::uint32_t types() const noexcept { return used_ == 0 ? 0 : levels_[used_ - 1].types; }

  std::size_t bytes() const noexcept;

 private:
  struct Context {
    std::uint32_t first, second;  // the parent, and the oldest token of the context
    std::uint32_t frozen;         // a link as in Child, or none
    std::uint32_t leaf;           // the position of the only target in the read text, or none
    std::uint32_t types;          // distinct followers
    Totals totals;
    std::uint32_t dropped;  // sum of the frozen counts that a cut-off dropped
    std::uint32_t newest;   // of its elements in grams_, or none
  };

  struct Gram {
    std::uint32_t first, second;  // the context and its follower
    std::uint32_t count, frozen;
    std::uint32_t next;  // the next older one of the context, or none
  };

  // A context of the next target, and what its counts weigh. p = (c − D(c) + left · p_below) / sum.
  struct Level {
    std::uint32_t types, kind;
    std::array<double, 3> with;  // followers with the counts 1, 2, and 3 or more
    Discounts discounts;
    double sum, left;
  };

  Kind kind_at(int depth) const noexcept { return depth == order_ - 1 ? raw : adjusted; }
  std::uint32_t token_before(std::size_t position, int depth) const noexcept {
    return stream_[position - static_cast<std::size_t>(depth)];
  }
  bool is_virtual(int depth) const noexcept { return depth >= real_; }

  void count_frozen();
  void set_totals(Context& context, int depth) const noexcept;
  std::uint32_t frozen_child(const Context& parent, std::uint32_t token, int depth) const noexcept;
  std::uint32_t frozen_count(const Context& context, std::uint32_t token, int depth) const noexcept;
  std::uint32_t add_context(std::uint32_t parent, std::uint32_t token, std::uint32_t leaf);
  Gram& add_gram(std::uint32_t context, std::uint32_t token, std::uint32_t frozen);
  bool add_one(int depth, std::uint32_t target);
  void make_real();
  void find_path();
  void weigh(int depth);
  void learn() noexcept;

  View table_;
  int order_;
  double rate_;
  ByDepth<CountsOfCounts, max_order> counts_of_counts_;
  ByDepth<Discounts, max_order> estimates_;  // of the discounts
  ByDepth<bool, max_order> is_outdated_;     // of the estimates
  DiscountShifts shifts_;
  std::vector<std::uint32_t> stream_;  // the text, after BOS if it begins a document
  std::vector<Context> contexts_;      // the empty one first
  std::vector<Gram> grams_;
  PairIndex context_index_, gram_index_;

  // The contexts of the next target, the empty one first. Of all `depths_`, the first `real_` have
  // an element, and those up to `used_` have followers. A leaf represents those between.
  int context_size_ = 0;  // tokens of the longest context
  int real_ = 0, used_ = 0;
  ByDepth<std::uint32_t, max_order> path_;
  std::uint32_t leaf_ = none, leaf_context_ = none;
  ByDepth<Level, max_order> levels_;
  ByDepth<std::uint32_t, max_order> found_;       // its elements in grams_, or none
  ByDepth<std::uint32_t, max_order> counts_;      // of the scored target
  ByDepth<double, max_order + 1> probabilities_;  // of the scored target, below each depth
};

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_ADAPTIVE_HPP_

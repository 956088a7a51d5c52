// Cross-entropy over a few rows in three passes: the largest logit; the exponentials and their sum;
// the gradient. A row stays in the cache between the passes, so memory is read and written once,
// and the last two passes prefetch the next row. Each element takes one exponential.
#include "kernels/cpu/cross_entropy/passes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

constexpr std::int64_t min_rows_together = 4;

template <class S>
class CrossEntropyRows {
  using A = AccumType<S>;

 public:
  CrossEntropyRows(const CrossEntropy& call, void* scratch) noexcept
      : call_(call),
        exponentials_(static_cast<A*>(scratch)),
        capped_(exponentials_ + (call.vocab + line) / line * line),
        class_weights_(static_cast<const A*>(call.class_weights)),
        is_plain_(call.softcap == 0 && call.label_smoothing == 0),
        stride_((call.vocab / width<A> + 2) * width<A>),
        rows_together_(short_rows_bytes / (stride_ * static_cast<std::int64_t>(sizeof(A)))) {}

  void run(std::int64_t first, std::int64_t last, CrossEntropyResult& result) const noexcept {
    for (std::int64_t k = 0; k < last - first; ++k) {
      result.losses[k] = result.log_sums[k] = 0;
      result.correct[k] = false;
      sums_[k] = 1;
      maxima_[k] = z_targets_[k] = weighted_[k] = 0;
    }
    if (is_plain_ && rows_together_ >= min_rows_together) {
      const std::int64_t rows = rows_together_ < short_rows ? rows_together_ : short_rows;
      for (std::int64_t at = first; at < last; at += rows) {
        run_short(at, last - at < rows ? last : at + rows, at - first, result);
      }
    } else {
      for (std::int64_t i = first; i < last; ++i) run_long(i, i + 1 < last, i - first, result);
      if (call_.streaming) end_streaming();
    }
    finish(first, last, result);
  }

 private:
  const S* logits_of(std::int64_t i) const noexcept {
    return static_cast<const S*>(call_.logits) + i * call_.row_stride;
  }
  S* gradient_of(std::int64_t i) const noexcept {
    return static_cast<S*>(call_.gradient) + i * call_.gradient_stride;
  }
  bool is_ignored(std::int64_t i) const noexcept { return call_.targets[i] == call_.ignore_index; }
  double value_or_one(const void* values, std::int64_t i) const noexcept {
    return values == nullptr ? 1.0 : static_cast<double>(static_cast<const A*>(values)[i]);
  }

  // Computes row i. Its results go to index k.
  void run_long(std::int64_t i, bool has_next, std::int64_t k,
                CrossEntropyResult& result) const noexcept {
    const std::int64_t vocab = call_.vocab, target = call_.targets[i];
    if (is_ignored(i)) {
      if (call_.gradient != nullptr) fill(gradient_of(i), vocab, A{0});
      return;
    }
    const S* const logits = logits_of(i);
    const Prefetcher<S> prefetch{has_next ? logits_of(i + 1) : nullptr, vocab / 2};
    const bool smooths = call_.label_smoothing > 0;
    A maximum = 0;
    double others = 0;
    if (call_.softcap > 0) {
      maximum = cap_row(logits, vocab, call_.softcap, capped_);
      z_targets_[k] = static_cast<double>(capped_[target]);
      others = exponentials_of<S>(capped_, vocab, target, maximum, exponentials_, prefetch);
      if (smooths) weighted_[k] = weighted_sum(capped_, vocab, class_weights_);
    } else {
      maximum = row_maximum(logits, vocab);
      z_targets_[k] = value_at(logits + target);
      others = exponentials_of<S>(logits, vocab, target, maximum, exponentials_, prefetch);
      if (smooths) weighted_[k] = weighted_sum(logits, vocab, class_weights_);
    }
    if (call_.correct) {  // from the uncapped logits: the cap can make large ones equal
      const A largest = call_.softcap > 0 ? row_maximum(logits, vocab) : maximum;
      result.correct[k] = is_correct(logits, target, largest);
    }
    const double own = static_cast<double>(exponentials_[target]);
    maxima_[k] = static_cast<double>(maximum);
    sums_[k] = others + own;
    if (call_.gradient == nullptr) return;
    const Slope slope = slope_of(i, k, own, others);
    S* const gradient = gradient_of(i);
    if (is_plain_) {
      write_gradient_plain<S>(exponentials_, vocab, static_cast<A>(slope.factor), gradient,
                              call_.streaming, prefetch);
    } else {
      write_gradient<S>(RowBuffers<S>{vocab, exponentials_, capped_}, slope, call_.softcap,
                        class_weights_, gradient, prefetch);
    }
    set_value(gradient + target, slope.at_target);
  }

  // Computes rows first … last − 1, whose results begin at k: all exponentials, then all factors,
  // then all gradients. The steps of a single short row would wait for each other.
  void run_short(std::int64_t first, std::int64_t last, std::int64_t k,
                 CrossEntropyResult& result) const noexcept {
    const std::int64_t vocab = call_.vocab;
    const bool fits = vocab <= most_vectors * width<A>;  // in registers
    A maxima[short_rows] = {};
    for (std::int64_t i = first; i < last && !fits; ++i) {
      if (!is_ignored(i)) maxima[i - first] = row_maximum(logits_of(i), vocab);
    }
    const Prefetcher<S> nothing{nullptr, 0};
    double others[short_rows] = {};
    for (std::int64_t i = first; i < last; ++i) {
      if (is_ignored(i)) continue;
      const std::int64_t target = call_.targets[i], row = i - first;
      const S* const logits = logits_of(i);
      A& maximum = maxima[row];
      A* const exponentials = exponentials_ + row * stride_;
      others[row] = fits
                        ? short_row<S>(logits, vocab, target, maximum, exponentials)
                        : exponentials_of<S>(logits, vocab, target, maximum, exponentials, nothing);
      maxima_[k + row] = static_cast<double>(maximum);
      z_targets_[k + row] = value_at(logits + target);
      if (call_.correct) result.correct[k + row] = is_correct(logits, target, maximum);
    }
    Slope slopes[short_rows];
    for (std::int64_t i = first; i < last; ++i) {
      if (is_ignored(i)) continue;
      const std::int64_t row = i - first;
      const double own = static_cast<double>(exponentials_[row * stride_ + call_.targets[i]]);
      sums_[k + row] = others[row] + own;
      slopes[row] = slope_of(i, k + row, own, others[row]);
    }
    if (call_.gradient == nullptr) return;
    for (std::int64_t i = first; i < last; ++i) {
      S* const gradient = gradient_of(i);
      if (is_ignored(i)) {
        fill(gradient, vocab, A{0});
        continue;
      }
      const Slope& slope = slopes[i - first];
      write_gradient_plain<S>(exponentials_ + (i - first) * stride_, vocab,
                              static_cast<A>(slope.factor), gradient, false, nothing);
      set_value(gradient + call_.targets[i], slope.at_target);
    }
  }

  // own: the target's exponential; others: the sum of the other exponentials.
  Slope slope_of(std::int64_t i, std::int64_t k, double own, double others) const noexcept {
    const std::int64_t target = call_.targets[i];
    const double share = (1 - call_.label_smoothing) * value_or_one(class_weights_, target);
    const double smooth = call_.label_smoothing / static_cast<double>(call_.vocab);
    const double weight = value_or_one(call_.token_weights, i) * call_.scale *
                          value_or_one(call_.upstream, i * call_.upstream_stride);
    double more = smooth * call_.class_weight_sum;
    if (call_.z_loss > 0) more += 2 * call_.z_loss * (maxima_[k] + __builtin_log(sums_[k]));
    const double weight_of_sum = weight / sums_[k];
    // The target's part is p − 1, computed as minus the share of the others: this keeps its digits.
    double at_target = weight_of_sum * (more * own - share * others) -
                       weight * smooth * value_or_one(class_weights_, target);
    if (call_.softcap > 0) {
      const double t = z_targets_[k] / call_.softcap;
      at_target *= 1 - t * t;
    }
    return {weight_of_sum * (share + more), weight * smooth, at_target};
  }

  void finish(std::int64_t first, std::int64_t last, CrossEntropyResult& result) const noexcept {
    constexpr int lanes = width<double>;
    double logs[cross_entropy_rows + lanes];
    const std::int64_t rows = last - first;
    for (int i = 0; i < lanes; ++i) sums_[rows + i] = 1;
    for (std::int64_t i = 0; i < rows; i += lanes) {
      store(logs + i, vector_log(load<Doubles>(sums_ + i)));
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t target = call_.targets[first + i];
      if (target == call_.ignore_index) continue;
      const double lse = maxima_[i] + logs[i];
      result.log_sums[i] = lse;
      // This order keeps the digits of a loss near 0.
      double loss = (maxima_[i] - z_targets_[i]) + logs[i];
      if (call_.class_weights != nullptr || call_.label_smoothing > 0) {
        loss *= (1 - call_.label_smoothing) * value_or_one(class_weights_, target);
      }
      if (call_.label_smoothing > 0) {
        loss += call_.label_smoothing / static_cast<double>(call_.vocab) *
                (lse * call_.class_weight_sum - weighted_[i]);
      }
      if (call_.z_loss > 0) loss += call_.z_loss * lse * lse;
      result.losses[i] = loss * value_or_one(call_.token_weights, first + i);
    }
  }

  const CrossEntropy& call_;
  A* exponentials_;
  A* capped_;
  const A* class_weights_;
  bool is_plain_;
  std::int64_t stride_;         // of short rows' exponentials, padded by one vector
  std::int64_t rows_together_;  // how many short rows fit in the working space
  mutable double maxima_[cross_entropy_rows];
  mutable double sums_[cross_entropy_rows + width<double>];
  mutable double z_targets_[cross_entropy_rows];
  mutable double weighted_[cross_entropy_rows];
};

template <class S>
void cross_entropy(const CrossEntropy& call, std::int64_t first, std::int64_t last, void* scratch,
                   CrossEntropyResult& result) noexcept {
  const CrossEntropyRows<S> rows(call, scratch);
  rows.run(first, last, result);
}

}  // namespace

extern const CrossEntropyTable cross_entropy_table;
const CrossEntropyTable cross_entropy_table = {
    {&cross_entropy<float>, &cross_entropy<double>, &cross_entropy<BFloat16>,
     &cross_entropy<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

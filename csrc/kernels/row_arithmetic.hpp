// The arithmetic of the GPU's cross-entropy, for one row, a few elements or one element. Plain
// functions, so tests can run on the CPU what the kernels run; kernels/cuda decides which thread
// computes which elements.
// Everything is float32. Σ exp(z − maximum) is stored as 1 + rest, without the term of one largest
// logit. The loss of a likely target, log1p(rest), and its slope, −rest / (1 + rest), keep the
// digits that a sum near 1 would lose.
#ifndef NANOCHAT_KERNELS_ROW_ARITHMETIC_HPP_
#define NANOCHAT_KERNELS_ROW_ARITHMETIC_HPP_

#include <cmath>
#include <cstdint>
#include <limits>

#ifdef __CUDA_ARCH__
#include "kernels/cuda/ptx.cuh"
#endif
#include "kernels/host_device.hpp"

namespace nanochat::kernels {

inline constexpr float float_infinity = std::numeric_limits<float>::infinity();
inline constexpr float float_nan = std::numeric_limits<float>::quiet_NaN();
inline constexpr std::int32_t no_index = std::numeric_limits<std::int32_t>::max();

// exp of d ≤ 0. is_fast: two units in the last place and a rounded argument, accurate enough for
// logits of 16 bits.
template <bool is_fast>
NCK_HOST_DEVICE inline float exp_below(float d) noexcept {
#ifdef __CUDA_ARCH__
  if constexpr (is_fast) {
    return fast_exp2(d * 1.44269504088896341f);
  }
#endif
  return ::expf(d);
}

// Softmax's denominator over some of a row's elements. Without elements: maximum −∞, rest −1.
struct RowSum {
  float maximum;       // NaN is ignored
  float rest;          // NaN if there was a NaN
  std::int32_t first;  // lowest index of the maximum, or no_index
};

NCK_HOST_DEVICE inline RowSum empty_sum() noexcept { return {-float_infinity, -1.0f, no_index}; }

// Symmetric in a and b, so all lanes of a butterfly get the same bits.
template <bool is_fast>
NCK_HOST_DEVICE inline RowSum merged(const RowSum& a, const RowSum& b) noexcept {
  if (a.maximum == b.maximum) {
    return {a.maximum, (a.rest + b.rest) + 1.0f, a.first < b.first ? a.first : b.first};
  }
  const bool a_leads = a.maximum > b.maximum;
  const float high = a_leads ? a.maximum : b.maximum, low = a_leads ? b.maximum : a.maximum;
  const float high_rest = a_leads ? a.rest : b.rest, low_rest = a_leads ? b.rest : a.rest;
  return {high, high_rest + (1.0f + low_rest) * exp_below<is_fast>(low - high),
          a_leads ? a.first : b.first};
}

// Returns the lowest index of `value` among the elements index … index + count − 1 that are in the
// row.
template <int count>
NCK_HOST_DEVICE inline std::int32_t first_equal(const float (&z)[count], float value,
                                                std::int32_t index, std::int32_t vocab) noexcept {
  std::int32_t first = no_index;
  for (int i = count - 1; i >= 0; --i) {
    const bool inside = index + i >= 0 && index + i < vocab;
    if (inside && z[i] == value) first = index + i;
  }
  return first;
}

// Adds elements index … index + count − 1, which come after those of `sum`. Elements outside the
// row are −∞.
template <bool is_fast, int count>
NCK_HOST_DEVICE inline RowSum with_elements(const RowSum& sum, const float (&z)[count],
                                            std::int32_t index, std::int32_t vocab) noexcept {
  float maximum = -float_infinity;
  for (int i = 0; i < count; ++i) maximum = ::fmaxf(maximum, z[i]);
  // −∞ − −∞ would be NaN; from any other base −∞ adds nothing.
  const float base = maximum == -float_infinity ? 0.0f : maximum;
  float below = 0.0f, equal = -1.0f;
  for (int i = 0; i < count; ++i) {
    const bool is_largest = z[i] == base;
    const float e = exp_below<is_fast>(z[i] - base);
    below += is_largest ? 0.0f : e;
    equal += is_largest ? 1.0f : 0.0f;
  }
  std::int32_t first = no_index;
  if (maximum > sum.maximum || sum.first == no_index) {
    first = first_equal(z, maximum, index, vocab);
  }
  return merged<is_fast>(sum, {maximum, below + equal, first});
}

NCK_HOST_DEVICE inline float capped(float logit, float cap, float inverse_cap) noexcept {
  return ::tanhf(logit * inverse_cap) * cap;
}

// The constants of a loss, the same for all rows.
struct LossTerms {
  float kept;    // 1 − ε
  float smooth;  // ε / vocab
  float z_loss;
  float softcap, inverse_cap;  // 0: none
  bool has_class_weights;
};

inline LossTerms loss_terms(double label_smoothing, double z_loss, double softcap,
                            std::int64_t vocab, bool has_class_weights) noexcept {
  return {static_cast<float>(1 - label_smoothing),
          static_cast<float>(label_smoothing / static_cast<double>(vocab)),
          static_cast<float>(z_loss),
          static_cast<float>(softcap),
          softcap > 0 ? static_cast<float>(1 / softcap) : 0.0f,
          has_class_weights};
}

enum class RowKind : std::uint8_t { token, ignored, stray };

NCK_HOST_DEVICE inline RowKind row_kind(std::int64_t target, std::int64_t vocab,
                                        std::int64_t ignore_index) noexcept {
  if (target == ignore_index) return RowKind::ignored;
  return target >= 0 && target < vocab ? RowKind::token : RowKind::stray;
}

// Smoothing sums Σ c · (z − pivot): without the pivot, a common offset of the logits would absorb
// the differences.
NCK_HOST_DEVICE inline float pivot_of(float z_target) noexcept {
  return ::fabsf(z_target) < float_infinity ? z_target : 0.0f;
}

struct RowWeights {
  float target;     // c[t]
  float token;      // w
  float slope;      // w · upstream · scale
  float class_sum;  // Σ c
};

// The factors of a gradient. Element j is (exp(z − maximum) · factor − smooth · c[j]) times the
// derivative of the soft-cap; at_target is the target's element.
struct RowSlopes {
  float maximum, factor, smooth, at_target;
};

struct RowOutcome {
  float loss, log_sum;
  RowSlopes slopes;
};

NCK_HOST_DEVICE inline float cap_slope(float z, float inverse_cap) noexcept {
  const float t = z * inverse_cap;
  return 1.0f - t * t;
}

NCK_HOST_DEVICE inline float loss_of(const LossTerms& terms, const RowWeights& weights,
                                     float distance, float log_sum, float z_target,
                                     float deviations) noexcept {
  float loss = distance;
  if (terms.has_class_weights || terms.smooth > 0.0f) loss *= terms.kept * weights.target;
  if (terms.smooth > 0.0f) {
    const float from_pivot = pivot_of(z_target) == z_target ? distance : log_sum;
    loss += terms.smooth * (from_pivot * weights.class_sum - deviations);
  }
  if (terms.z_loss > 0.0f) loss += terms.z_loss * log_sum * log_sum;
  return loss * weights.token;
}

NCK_HOST_DEVICE inline RowSlopes slopes_of(const LossTerms& terms, const RowWeights& weights,
                                           float maximum, float rest, float log_sum,
                                           float z_target) noexcept {
  const float own = terms.kept * weights.target;
  float others = 0.0f;  // the other factors of the probabilities
  if (terms.smooth > 0.0f) others += terms.smooth * weights.class_sum;
  if (terms.z_loss > 0.0f) others += 2.0f * terms.z_loss * log_sum;
  const float sum = 1.0f + rest;
  const float lower = z_target - maximum;
  const float less_one = (::expm1f(lower) - rest) / sum;  // p − 1
  float at_target = own * less_one + others * (::expf(lower) / sum) - terms.smooth * weights.target;
  if (terms.softcap > 0.0f) at_target *= cap_slope(z_target, terms.inverse_cap);
  return {maximum, weights.slope * (own + others) / sum, weights.slope * terms.smooth,
          weights.slope * at_target};
}

// deviations: Σ c · (z − pivot), used only with smoothing.
NCK_HOST_DEVICE inline RowOutcome finish_row(const LossTerms& terms, const RowWeights& weights,
                                             const RowSum& sum, float z_target,
                                             float deviations) noexcept {
  // A maximum of +∞ leaves a finite rest, and a maximum of −∞ a sum of 0. Neither is a
  // distribution.
  const float rest = ::fabsf(sum.maximum) < float_infinity ? sum.rest : float_nan;
  const float log_rest = ::log1pf(rest);
  const float log_sum = sum.maximum + log_rest;
  const float distance = (sum.maximum - z_target) + log_rest;
  return {loss_of(terms, weights, distance, log_sum, z_target, deviations), log_sum,
          slopes_of(terms, weights, sum.maximum, rest, log_sum, z_target)};
}

// The gradient of an element other than the target. is_plain: neither smoothing nor a soft-cap.
template <bool is_fast, bool is_plain>
NCK_HOST_DEVICE inline float gradient_of(float z, const RowSlopes& slopes, float class_weight,
                                         const LossTerms& terms) noexcept {
  const float p = exp_below<is_fast>(z - slopes.maximum) * slopes.factor;
  if constexpr (is_plain) return p;
  const float g = p - slopes.smooth * class_weight;
  return terms.softcap > 0.0f ? g * cap_slope(z, terms.inverse_cap) : g;
}

NCK_HOST_DEVICE inline float value_or_one(const float* values, std::int64_t i) noexcept {
  return values == nullptr ? 1.0f : values[i];
}

// The functions below take elements index … index + count − 1 of a row; some may be outside it.

// Turns logits into z: applies the soft-cap, and sets elements outside the row to −∞.
template <bool is_plain, int count>
NCK_HOST_DEVICE inline void cap_elements(float (&z)[count], std::int32_t index, std::int32_t vocab,
                                         const LossTerms& terms) noexcept {
  if (!is_plain && terms.softcap > 0.0f) {
    for (int i = 0; i < count; ++i) z[i] = capped(z[i], terms.softcap, terms.inverse_cap);
  }
  if (index >= 0 && index + count <= vocab) return;
  for (int i = 0; i < count; ++i) {
    z[i] = index + i >= 0 && index + i < vocab ? z[i] : -float_infinity;
  }
}

// Σ c · (z − pivot) over the elements in the row.
template <int count>
NCK_HOST_DEVICE inline float deviations_of(const float (&z)[count], std::int32_t index,
                                           std::int32_t vocab, float z_target,
                                           const float* class_weights) noexcept {
  const float pivot = pivot_of(z_target);
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) {
    const bool inside = index + i >= 0 && index + i < vocab;
    if (inside) sum += value_or_one(class_weights, index + i) * (z[i] - pivot);
  }
  return sum;
}

// Turns z into the gradient.
template <bool is_fast, bool is_plain, int count>
NCK_HOST_DEVICE inline void differentiate_elements(float (&z)[count], std::int32_t index,
                                                   std::int32_t vocab, std::int64_t target,
                                                   const RowSlopes& slopes, const LossTerms& terms,
                                                   const float* class_weights) noexcept {
  for (int i = 0; i < count; ++i) {
    const bool is_weighted = !is_plain && index + i >= 0 && index + i < vocab;
    const float weight = is_weighted ? value_or_one(class_weights, index + i) : 1.0f;
    z[i] = gradient_of<is_fast, is_plain>(z[i], slopes, weight, terms);
  }
  const std::int32_t at = static_cast<std::int32_t>(target) - index;
  if (at < 0 || at >= count) return;
  for (int i = 0; i < count; ++i) z[i] = i == at ? slopes.at_target : z[i];
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_ROW_ARITHMETIC_HPP_

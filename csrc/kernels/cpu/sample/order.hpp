// The order of a row's tokens as integer keys: a larger logit first, then the lower index. A
// smaller key comes first. Follows the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_SAMPLE_ORDER_HPP_
#define NANOCHAT_KERNELS_CPU_SAMPLE_ORDER_HPP_

#include <cstdint>

#include "kernels/draw_arithmetic.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

inline std::uint64_t key_of(float logit, std::uint32_t index) noexcept {
  // The sum turns −0 into +0, which it equals.
  const auto order = static_cast<std::uint32_t>(order_of(logit + 0.0f));
  return std::uint64_t{order ^ 0x7FFFFFFFU} << 32U | index;
}

inline float logit_of(std::uint64_t key) noexcept {
  return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(key >> 32U) ^ 0x7FFFFFFFU));
}

struct Extent {
  std::uint64_t least, most;
};

inline Extent extent_of(const std::uint64_t* keys, std::int64_t count) noexcept {
  Extent extent{keys[0], keys[0]};
  for (std::int64_t i = 1; i < count; ++i) {
    extent.least = keys[i] < extent.least ? keys[i] : extent.least;
    extent.most = keys[i] > extent.most ? keys[i] : extent.most;
  }
  return extent;
}

// What a key counts: one, or the integer weight at its index.
struct Ones {
  std::uint64_t operator[](std::int64_t) const noexcept { return 1; }
  void copy_to(float*, std::int64_t, std::int64_t) const noexcept {}
  static Ones at(const float*) noexcept { return {}; }
};
struct Weights {
  const float* weights;  // in units of 2²⁰
  std::uint64_t operator[](std::int64_t i) const noexcept {
    return integer_weight(weights[i] * 0x1p20f);
  }
  std::uint64_t sum(std::int64_t count) const noexcept {
    std::uint64_t total = 0;
    for (std::int64_t i = 0; i < count; ++i) total += (*this)[i];
    return total;
  }
  void copy_to(float* to, std::int64_t at, std::int64_t i) const noexcept { to[at] = weights[i]; }
  static Weights at(const float* weights) noexcept { return {weights}; }
};

// Returns the smallest key up to which the counts of the keys sum to `needed`, which is at least 1
// and at most the total. Keys are distinct. A radix selection: it sums by the eight bits below the
// highest bit that differs and continues among the keys that share the digit found. The spare
// arrays have room for `count` elements.
template <class Counts>
inline std::uint64_t boundary_key(const std::uint64_t* keys, Counts counts, std::int64_t count,
                                  std::uint64_t needed, std::uint64_t* spare_keys,
                                  float* spare_weights) noexcept {
  for (;;) {
    const Extent extent = extent_of(keys, count);
    if (extent.least == extent.most) return extent.least;
    const int highest = 63 - __builtin_clzll(extent.least ^ extent.most);
    const int shift = highest > 7 ? highest - 7 : 0;
    std::uint64_t sums[256] = {};
    for (std::int64_t i = 0; i < count; ++i) sums[keys[i] >> shift & 255U] += counts[i];
    std::uint64_t digit = 0;
    while (sums[digit] < needed) needed -= sums[digit++];
    std::int64_t left = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      spare_keys[left] = keys[i];
      counts.copy_to(spare_weights, left, i);
      left += (keys[i] >> shift & 255U) == digit ? 1 : 0;
    }
    keys = spare_keys;
    counts = Counts::at(spare_weights);
    count = left;
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_SAMPLE_ORDER_HPP_

// The steps of one token between the matrix products: norm, rotation, and attention over the cache.
// Follows the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_ATTENTION_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_ATTENTION_HPP_

#include "simd/lanes.hpp"
#include "simd/math.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

// to = x / √(mean x² + eps); may be x.
template <class A>
inline void normalise(const A* x, std::int64_t size, double eps, A* to) noexcept {
  using V = Whole<A>;
  V squares{};
  for_vectors<V>(size, [&](std::int64_t at, int count) {
    const V v = load_at(x, at, count);
    squares = fused_multiply_add(v, v, squares);
  });
  const A mean = sum_of_lanes(squares) / static_cast<A>(size) + static_cast<A>(eps);
  const V inverse = A{1} / square_root(broadcast<V>(mean));
  for_vectors<V>(size, [&](std::int64_t at, int count) {
    store_at(to, at, count, load_at(x, at, count) * inverse);
  });
}

// Rotates halves in place: y₁ = x₁·cos + x₂·sin, y₂ = x₂·cos − x₁·sin.
template <class A>
inline void rotate(A* x, std::int64_t half, const A* cosines, const A* sines) noexcept {
  using V = Whole<A>;
  for_vectors<V>(half, [&](std::int64_t at, int count) {
    const V first = load_at(x, at, count), second = load_at(x + half, at, count);
    const V c = load_at(cosines, at, count), s = load_at(sines, at, count);
    store_at(x, at, count, fused_multiply_add(first, c, second * s));
    store_at(x + half, at, count, fused_multiply_add(second, c, -first * s));
  });
}

// The part of the cache of one head.
template <class A>
struct CachedHead {
  const A* keys;    // (size, slots)
  const A* values;  // (filled, value_width)
  std::int64_t size, slots, value_width;
  std::int64_t filled;  // slots that hold a token
};

// Scores of `vectors` whole vectors of slots.
template <int vectors, class A>
inline void scores_at(const CachedHead<A>& head, const A* query, std::int64_t slot, A scale,
                      A* scores) noexcept {
  using V = Whole<A>;
  constexpr int lanes = width<A>;
  V sums[vectors] = {};
  for (std::int64_t d = 0; d < head.size; ++d) {
    const V q = broadcast<V>(query[d]);
    const A* const from = head.keys + d * head.slots + slot;
#pragma GCC unroll 4
    for (int i = 0; i < vectors; ++i) {
      sums[i] = fused_multiply_add(q, load<V>(from + i * lanes), sums[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < vectors; ++i) store(scores + slot + i * lanes, sums[i] * scale);
}

// Replaces the scores by exp(score − largest), and by 0 beyond the filled slots. Returns their sum.
template <class A>
inline A exponentials(A* scores, std::int64_t filled) noexcept {
  using V = Whole<A>;
  constexpr int lanes = width<A>;
  const V least = broadcast<V>(-Constants<A>::infinity);
  V largest = least;
  for (std::int64_t t = 0; t < filled; t += lanes) {
    const auto count = static_cast<int>(filled - t < lanes ? filled - t : lanes);
    const V v = keep_first(load<V>(scores + t), least, count);
    store(scores + t, v);
    largest = larger(v, largest);
  }
  const V all = broadcast<V>(largest_lane(largest));
  V sum{};
  for (std::int64_t t = 0; t < filled; t += lanes) {
    const auto count = static_cast<int>(filled - t < lanes ? filled - t : lanes);
    const V e = keep_first(exp_of_nonpositive(load<V>(scores + t) - all), V{}, count);
    store(scores + t, e);
    sum += e;
  }
  return sum_of_lanes(sum);
}

// mixed = softmax(query · keys · scale) · values. scores: working space of head.slots elements.
template <class A>
inline void attend(const CachedHead<A>& head, const A* query, A scale, A* scores,
                   A* mixed) noexcept {
  using V = Whole<A>;
  constexpr int lanes = width<A>;
  std::int64_t t = 0;
  for (; t + 4 * lanes <= head.slots && t < head.filled; t += 4 * lanes) {
    scores_at<4>(head, query, t, scale, scores);
  }
  for (; t < head.filled; t += lanes) scores_at<1>(head, query, t, scale, scores);
  const V inverse = A{1} / broadcast<V>(exponentials(scores, head.filled));
  for (std::int64_t d = 0; d < head.size; d += lanes) {
    // Four independent sums hide the latency of the additions.
    V sums[4] = {};
    const A* const values = head.values + d;
    std::int64_t slot = 0;
    for (; slot + 4 <= head.filled; slot += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const V v = load<V>(values + (slot + i) * head.value_width);
        sums[i] = fused_multiply_add(broadcast<V>(scores[slot + i]), v, sums[i]);
      }
    }
    for (; slot < head.filled; ++slot) {
      const V v = load<V>(values + slot * head.value_width);
      sums[0] = fused_multiply_add(broadcast<V>(scores[slot]), v, sums[0]);
    }
    const auto count = static_cast<int>(head.size - d < lanes ? head.size - d : lanes);
    store_at(mixed, d, count, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * inverse);
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_DECODE_ATTENTION_HPP_

// What a decode step does to one token beside its products: the norm, the rotation, attention over
// the cache. Under the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_ATTENTION_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_ATTENTION_HPP_

#include "simd/lanes.hpp"
#include "simd/math.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

// to = x / √(mean x² + eps); may be x.
template <class N>
inline void normalise(const N* x, std::int64_t size, double eps, N* to) noexcept {
  using V = Whole<N>;
  V squares{};
  for_vectors<V>(size, [&](std::int64_t at, int count) {
    const V v = load_at(x, at, count);
    squares = fused_multiply_add(v, v, squares);
  });
  const N mean = sum_of_lanes(squares) / static_cast<N>(size) + static_cast<N>(eps);
  const V inverse = N{1} / square_root(broadcast<V>(mean));
  for_vectors<V>(size, [&](std::int64_t at, int count) {
    store_at(to, at, count, load_at(x, at, count) * inverse);
  });
}

// y₁ = x₁·cos + x₂·sin, y₂ = x₂·cos − x₁·sin in halves, in place.
template <class N>
inline void rotate(N* x, std::int64_t half, const N* cosines, const N* sines) noexcept {
  using V = Whole<N>;
  for_vectors<V>(half, [&](std::int64_t at, int count) {
    const V first = load_at(x, at, count), second = load_at(x + half, at, count);
    const V c = load_at(cosines, at, count), s = load_at(sines, at, count);
    store_at(x, at, count, fused_multiply_add(first, c, second * s));
    store_at(x + half, at, count, fused_multiply_add(second, c, -first * s));
  });
}

// One head's part of the cache.
template <class N>
struct Head {
  const N* keys;    // (size, slots)
  const N* values;  // (filled, value_width)
  std::int64_t size, slots, value_width;
  std::int64_t filled;  // slots that hold a token
};

// Scores of `vectors` whole vectors of slots.
template <int vectors, class N>
inline void scores_at(const Head<N>& head, const N* query, std::int64_t slot, N scale,
                      N* scores) noexcept {
  using V = Whole<N>;
  constexpr int lanes = width<N>;
  V sums[vectors] = {};
  for (std::int64_t d = 0; d < head.size; ++d) {
    const V q = broadcast<V>(query[d]);
    const N* const from = head.keys + d * head.slots + slot;
#pragma GCC unroll 4
    for (int i = 0; i < vectors; ++i) {
      sums[i] = fused_multiply_add(q, load<V>(from + i * lanes), sums[i]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < vectors; ++i) store(scores + slot + i * lanes, sums[i] * scale);
}

// exp(score − largest) in place of the scores, 0 beyond the filled slots; their sum.
template <class N>
inline N exponentials(N* scores, std::int64_t filled) noexcept {
  using V = Whole<N>;
  constexpr int lanes = width<N>;
  const V least = broadcast<V>(-Constants<N>::infinity);
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

// mixed = softmax(query · keys · scale) · values. scores: head.slots numbers of working space.
template <class N>
inline void attend(const Head<N>& head, const N* query, N scale, N* scores, N* mixed) noexcept {
  using V = Whole<N>;
  constexpr int lanes = width<N>;
  std::int64_t t = 0;
  for (; t + 4 * lanes <= head.slots && t < head.filled; t += 4 * lanes) {
    scores_at<4>(head, query, t, scale, scores);
  }
  for (; t < head.filled; t += lanes) scores_at<1>(head, query, t, scale, scores);
  const V inverse = N{1} / broadcast<V>(exponentials(scores, head.filled));
  for (std::int64_t d = 0; d < head.size; d += lanes) {
    // Four sums, so that none waits for the one before.
    V sums[4] = {};
    const N* const values = head.values + d;
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

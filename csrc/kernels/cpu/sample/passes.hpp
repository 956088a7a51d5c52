// The passes of a draw over a row, in vectors of floats. Follows the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_SAMPLE_PASSES_HPP_
#define NANOCHAT_KERNELS_CPU_SAMPLE_PASSES_HPP_

#include "kernels/draw_arithmetic.hpp"
#include "simd/storage.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

constexpr int lanes = float_lanes;
using Ints = Vector<std::int32_t, lanes>;
constexpr float infinity = __builtin_inff();
constexpr float largest_finite = 0x1.fffffep127f;

// Reduces the lanes by halves. combine(a, b) takes vectors or single elements.
template <class T, int n, class Combine>
inline T folded(Vector<T, n> v, const Combine& combine) noexcept {
  if constexpr (n > 4) {
    using Half = Vector<T, n / 2>;
    const union {
      Vector<T, n> whole;
      Half halves[2];
    } parts{v};
    return folded<T, n / 2>(combine(parts.halves[0], parts.halves[1]), combine);
  } else {
    return combine(combine(v[0], v[1]), combine(v[2], v[3]));
  }
}
constexpr auto sum_of = [](auto a, auto b) { return a + b; };
constexpr auto larger_of = [](auto a, auto b) { return a > b ? a : b; };

// Loads up to `count` logits, at most a vector, followed by −∞.
inline Floats load_logits(const float* from, std::int64_t count) noexcept {
  if (count >= lanes) return load<Floats>(from);
  const int lanes_left = static_cast<int>(count);
  return keep_first(load_first<Floats>(from, lanes_left), broadcast<Floats>(-infinity), lanes_left);
}

// Returns the row as floats. rounded: room for the row and one more vector.
inline const float* as_floats(const float* row, std::int64_t, float*) noexcept { return row; }

inline const float* as_floats(const double* row, std::int64_t vocab, float* rounded) noexcept {
  for (std::int64_t i = 0; i < vocab; ++i) rounded[i] = static_cast<float>(row[i]);
  return rounded;
}

template <class S>
inline const float* as_floats(const S* row, std::int64_t vocab, float* rounded) noexcept {
  std::int64_t at = 0;
  for (; at + lanes <= vocab; at += lanes) store(rounded + at, Stored<S>::load(row + at));
  if (at < vocab) {
    store(rounded + at, Stored<S>::load_first(row + at, static_cast<int>(vocab - at)));
  }
  return rounded;
}

// The lanes where either input is NaN: as all bits of a lane, or as one bit where there are mask
// registers.
#if NCLAB_SIMD_BYTES == 64
using Unordered = __mmask16;
inline Unordered unordered(Floats a, Floats b) noexcept {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
}
inline bool any(Unordered lanes_of) noexcept { return lanes_of != 0; }
#else
using Unordered = Ints;
inline Unordered unordered(Floats a, Floats b) noexcept { return (a != a) | (b != b); }
inline bool any(Unordered lanes_of) noexcept {
  return folded<std::int32_t, lanes>(lanes_of, [](auto a, auto b) { return a | b; }) != 0;
}
#endif

struct Scan {
  float largest;  // NaN is ignored
  bool has_nan;
};

constexpr std::int64_t block = 8 * lanes;  // tokens; scan() keeps the maxima of each block

// Returns the largest logit, and writes the maxima of each lane of each block to `maxima`.
inline Scan scan(const float* x, std::int64_t vocab, float* maxima) noexcept {
  constexpr std::int64_t prefetch =
      4096;  // bytes: the hardware prefetcher stops at the end of a page
  const Floats least = broadcast<Floats>(-infinity);
  Floats all = least;
  Unordered nans{};
  for (std::int64_t at = 0; at < vocab; at += block, maxima += lanes) {
    Floats best[2] = {least, least};
    if (at + block <= vocab) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const float* const from = x + at + 2 * i * lanes;
        const Floats v[2] = {load<Floats>(from), load<Floats>(from + lanes)};
        __builtin_prefetch(reinterpret_cast<const char*>(from) + prefetch, 0, 2);
        __builtin_prefetch(reinterpret_cast<const char*>(from + lanes) + prefetch, 0, 2);
        best[0] = larger(v[0], best[0]);
        best[1] = larger(v[1], best[1]);
        nans |= unordered(v[0], v[1]);
      }
    } else {
      for (std::int64_t i = at; i < vocab; i += lanes) {
        const Floats v = load_logits(x + i, vocab - i);
        best[0] = larger(v, best[0]);
        nans |= unordered(v, v);
      }
    }
    const Floats block_maximum = larger(best[0], best[1]);
    store(maxima, block_maximum);
    all = larger(block_maximum, all);
  }
  return {folded<float, lanes>(all, larger_of), any(nans)};
}

// Weights of tokens in units of 2²⁰, equal to float_weight. If the largest logit is +∞, tokens with
// it weigh 2⁴⁰ and the others 0.
struct Weigher {
  float largest, scale;

  Floats operator()(Floats x) const noexcept {
    const Floats none{};
    if (largest == infinity) return x == largest ? none + 0x1p20f : none;
    const Floats z = larger((x - largest) * scale, none + smallest_exponent);
    return exp_in_range<Floats, Words>(z, 20U);
  }
};

constexpr std::int64_t chunk = 256;  // tokens per partial sum

// Sums integer weights by chunks into `sums` and returns the total. weights(offset): a vector of
// weights in units of 2²⁰; those beyond `count` must be less than 2⁻²⁰.
template <class FloatWeights>
inline std::uint64_t sum_chunks(std::int64_t count, std::uint64_t* sums,
                                FloatWeights weights) noexcept {
  std::uint64_t total = 0;
  for (std::int64_t first = 0; first < count; first += chunk) {
    const std::int64_t end = first + chunk < count ? first + chunk : count;
    // The integer and the fractional part of a weight, both exact. Sums of either fit in 32 bits.
    Ints high{}, low{};
    for (std::int64_t at = first; at < end; at += lanes) {
      const Floats w = weights(at);
      const Ints whole = __builtin_convertvector(w, Ints);
      high += whole;
      low += __builtin_convertvector((w - __builtin_convertvector(whole, Floats)) * 0x1p20f, Ints);
    }
    const auto above = static_cast<std::uint64_t>(folded<std::int32_t, lanes>(high, sum_of));
    const auto below = static_cast<std::uint64_t>(folded<std::int32_t, lanes>(low, sum_of));
    const std::uint64_t sum = (above << 20U) + below;
    *sums++ = sum;
    total += sum;
  }
  return total;
}

// Returns the first token at which the running sum of the integer weights exceeds total · random /
// 2⁶⁴.
// `random` says.
inline std::int64_t pick(const float* weights, std::int64_t count, const std::uint64_t* sums,
                         std::uint64_t total, std::uint64_t random) noexcept {
  std::uint64_t target = multiply_high(random, total);
  std::int64_t first = 0;
  for (; *sums <= target; first += chunk) target -= *sums++;
  const std::int64_t end = first + chunk < count ? first + chunk : count;
  std::uint64_t running = 0;
  std::int64_t token = first;
  // A count without branches: one mispredicted branch costs more than the rest of a chunk.
  for (std::int64_t i = first; i < end; ++i) {
    running += integer_weight(weights[i] * 0x1p20f);
    token += running <= target ? 1 : 0;
  }
  return token;
}

// Prefetches the next row while this one is computed.
struct Prefetcher {
  const char* next;
  const char* end;
  void operator()(int bytes) noexcept {
    for (; bytes > 0 && next < end; bytes -= 64, next += 64) __builtin_prefetch(next, 0, 2);
  }
};

// Returns one bit per lane: whether a ≥ b.
inline unsigned at_least(Floats a, Floats b) noexcept {
#if NCLAB_SIMD_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#elif NCLAB_SIMD_BYTES == 32
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ)));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < lanes; ++lane) bits |= (a[lane] >= b[lane] ? 1U : 0U) << lane;
  return bits;
#endif
}

// A range of logits that includes both ends. floor is finite.
struct Window {
  float floor = -largest_finite, ceiling = infinity;
};

// Collects the logits in the window and their indices, in order. maxima: from scan(). Returns the
// count.
inline std::int64_t gather(const float* x, std::int64_t vocab, Window window, const float* maxima,
                           float* values, std::uint32_t* indices, Prefetcher prefetch) noexcept {
  const Floats floor = broadcast<Floats>(window.floor), ceiling = Floats{} + window.ceiling;
  std::int64_t count = 0;
  for (std::int64_t first = 0; first < vocab; first += block, maxima += lanes) {
    prefetch(256);  // bytes of the next row: half of what is scanned here
    if (at_least(load<Floats>(maxima), floor) == 0) continue;
    const std::int64_t end = first + block < vocab ? first + block : vocab;
    for (std::int64_t at = first; at < end; at += lanes) {
      const Floats v = load_logits(x + at, end - at);
      for (unsigned bits = at_least(v, floor) & at_least(ceiling, v); bits != 0; bits &= bits - 1) {
        const std::int64_t index = at + __builtin_ctz(bits);
        values[count] = x[index];
        indices[count++] = static_cast<std::uint32_t>(index);
      }
    }
  }
  return count;
}

// Returns the sum of the weights of logits above `ceiling`. sums: as in sum_chunks().
inline std::uint64_t sum_above(const float* x, std::int64_t vocab, float ceiling,
                               const float* weights, std::uint64_t* sums) noexcept {
  if (ceiling == infinity) return 0;
  return sum_chunks(vocab, sums, [=](std::int64_t at) {
    return load_logits(x + at, vocab - at) > ceiling ? load<Floats>(weights + at) : Floats{};
  });
}

// Sets the weights of the tokens after (logit, index) in the order of the row to 0. Returns the sum
// of the others.
inline std::uint64_t leave_out_after(float logit, std::int32_t index, const float* x,
                                     std::int64_t vocab, float* weights,
                                     std::uint64_t* sums) noexcept {
  Ints lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  return sum_chunks(vocab, sums, [=](std::int64_t at) {
    const Floats v = load_logits(x + at, vocab - at);
    const auto before = lane <= index - static_cast<std::int32_t>(at);
    const Floats w = (v > logit) | ((v == logit) & before) ? load<Floats>(weights + at) : Floats{};
    store(weights + at, w);
    return w;
  });
}

// Merges the maxima of `times` blocks into one. Returns the count of the merged maxima.
inline std::int64_t merge(const float* maxima, std::int64_t count, std::int64_t times,
                          float* merged) noexcept {
  float* to = merged;
  for (std::int64_t first = 0; first < count; first += times * lanes, to += lanes) {
    const std::int64_t end = first + times * lanes < count ? first + times * lanes : count;
    Floats best = load<Floats>(maxima + first);
    for (std::int64_t at = first; at < end; at += lanes) {
      best = larger(load<Floats>(maxima + at), best);
    }
    store(to, best);
  }
  return to - merged;
}

// Returns a logit that at least k of `count` maxima reach and not many more; at least the smallest
// finite one.
inline float floor_reached_by(std::int64_t k, const float* maxima, std::int64_t count,
                              float largest) noexcept {
  const auto reaching = [&](float floor) {
    Ints found{};
    for (std::int64_t at = 0; at < count; at += lanes) {
      found -= (Ints)(load<Floats>(maxima + at) >= floor);
    }
    return static_cast<std::int64_t>(folded<std::int32_t, lanes>(found, sum_of));
  };
  float least = largest < largest_finite ? largest : largest_finite;
  std::int64_t high = order_of(least);
  for (std::int64_t i = 0; i < count; ++i) least = maxima[i] < least ? maxima[i] : least;
  std::int64_t low = order_of(least > -largest_finite ? least : -largest_finite);
  // Any `low` that k maxima reach is correct. Each step leaves fewer logits for the exact
  // selection.
  for (std::int64_t found = count; high - low > 1 && found > k + k / 8 + 4;) {
    const std::int64_t middle = (low + high) / 2;
    const std::int64_t block_maximum = reaching(float_of(static_cast<std::int32_t>(middle)));
    if (block_maximum < k) {
      high = middle;
    } else {
      low = middle;
      found = block_maximum;
    }
  }
  return float_of(static_cast<std::int32_t>(low));
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_SAMPLE_PASSES_HPP_

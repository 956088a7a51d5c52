// The passes over a row that the draw is made of, in vectors of floats, under the rule of
// simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_SAMPLE_PASSES_HPP_
#define NANOCHAT_KERNELS_CPU_SAMPLE_PASSES_HPP_

#include "kernels/draw_arithmetic.hpp"
#include "simd/storage.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

constexpr int lanes = float_lanes;
using Ints = Vector<std::int32_t, lanes>;
constexpr float infinity = __builtin_inff();
constexpr float largest_finite = 0x1.fffffep127f;

// All lanes as one, by halves: combine(a, b) of vectors or single elements.
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

// Up to `count` logits, at most a vector, and −∞ after them.
inline Floats load_logits(const float* from, std::int64_t count) noexcept {
  if (count >= lanes) return load<Floats>(from);
  const int some = static_cast<int>(count);
  return keep_first(load_first<Floats>(from, some), broadcast<Floats>(-infinity), some);
}

// The row as floats; `rounded` has room for a whole vector after it.
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

// Lanes where either is NaN, as all their bits or, where there are masks, as one.
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
  float largest;  // leaving NaN aside
  bool has_nan;
};

constexpr std::int64_t block = 8 * lanes;  // tokens that scan() tells from others

// The largest logit, and those of each lane of each block into `maxima`.
inline Scan scan(const float* x, std::int64_t vocab, float* maxima) noexcept {
  constexpr std::int64_t ahead = 4096;  // bytes: the processor itself stops at the end of a page
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
        __builtin_prefetch(reinterpret_cast<const char*>(from) + ahead, 0, 2);
        __builtin_prefetch(reinterpret_cast<const char*>(from + lanes) + ahead, 0, 2);
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
    const Floats here = larger(best[0], best[1]);
    store(maxima, here);
    all = larger(here, all);
  }
  return {folded<float, lanes>(all, larger_of), any(nans)};
}

// Weights of tokens in units of 2²⁰, as float_weight; where the largest logit is +∞, 2⁴⁰ for those
// that are and 0 for the others.
struct Weigher {
  float largest, scale;

  Floats operator()(Floats x) const noexcept {
    const Floats none{};
    if (largest == infinity) return x == largest ? none + 0x1p20f : none;
    const Floats z = larger((x - largest) * scale, none + smallest_exponent);
    return exp_in_range<Floats, Words>(z, 20U);
  }
};

constexpr std::int64_t chunk = 256;  // tokens to a partial sum

// Integer weights of tokens summed chunk by chunk into `sums`; the sum of all. weights(offset): a
// vector of them in units of 2²⁰, what is beyond `count` less than 2⁻²⁰.
template <class FloatWeights>
inline std::uint64_t sum_chunks(std::int64_t count, std::uint64_t* sums,
                                FloatWeights weights) noexcept {
  std::uint64_t total = 0;
  for (std::int64_t first = 0; first < count; first += chunk) {
    const std::int64_t end = first + chunk < count ? first + chunk : count;
    // What is above the point of a weight and what is below, both exact: sums of either fit 32
    // bits.
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

// The first token at which the running sum of integer weights is above the share of the total that
// `random` says.
inline std::int64_t pick(const float* weights, std::int64_t count, const std::uint64_t* sums,
                         std::uint64_t total, std::uint64_t random) noexcept {
  std::uint64_t target = multiply_high(random, total);
  std::int64_t first = 0;
  for (; *sums <= target; first += chunk) target -= *sums++;
  const std::int64_t end = first + chunk < count ? first + chunk : count;
  std::uint64_t running = 0;
  std::int64_t token = first;
  // Counted, not searched: a branch at a random place costs more than the rest of a chunk.
  for (std::int64_t i = first; i < end; ++i) {
    running += integer_weight(weights[i] * 0x1p20f);
    token += running <= target ? 1 : 0;
  }
  return token;
}

// Fetches the row that comes next while this one is computed on.
struct Ahead {
  const char* next;
  const char* end;
  void operator()(int bytes) noexcept {
    for (; bytes > 0 && next < end; bytes -= 64, next += 64) __builtin_prefetch(next, 0, 2);
  }
};

// One bit for each lane where a ≥ b.
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

// A range of logits, both ends in it; floor is finite.
struct Window {
  float floor = -largest_finite, ceiling = infinity;
};

// The logits of the window and their places, in order; maxima of scan(). Returns how many.
inline std::int64_t gather(const float* x, std::int64_t vocab, Window window, const float* maxima,
                           float* values, std::uint32_t* places, Ahead ahead) noexcept {
  const Floats floor = broadcast<Floats>(window.floor), ceiling = Floats{} + window.ceiling;
  std::int64_t count = 0;
  for (std::int64_t first = 0; first < vocab; first += block, maxima += lanes) {
    ahead(256);  // bytes of the next row, half of what is looked through of this one
    if (at_least(load<Floats>(maxima), floor) == 0) continue;
    const std::int64_t end = first + block < vocab ? first + block : vocab;
    for (std::int64_t at = first; at < end; at += lanes) {
      const Floats v = load_logits(x + at, end - at);
      for (unsigned bits = at_least(v, floor) & at_least(ceiling, v); bits != 0; bits &= bits - 1) {
        const std::int64_t place = at + __builtin_ctz(bits);
        values[count] = x[place];
        places[count++] = static_cast<std::uint32_t>(place);
      }
    }
  }
  return count;
}

// The sum of the weights of logits above `ceiling`; sums as in sum_chunks().
inline std::uint64_t sum_above(const float* x, std::int64_t vocab, float ceiling,
                               const float* weights, std::uint64_t* sums) noexcept {
  if (ceiling == infinity) return 0;
  return sum_chunks(vocab, sums, [=](std::int64_t at) {
    return load_logits(x + at, vocab - at) > ceiling ? load<Floats>(weights + at) : Floats{};
  });
}

// Weighs nothing the tokens after (logit, place) in the order of the row; the sum of the others.
inline std::uint64_t leave_out_after(float logit, std::int32_t place, const float* x,
                                     std::int64_t vocab, float* weights,
                                     std::uint64_t* sums) noexcept {
  Ints lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  return sum_chunks(vocab, sums, [=](std::int64_t at) {
    const Floats v = load_logits(x + at, vocab - at);
    const auto before = lane <= place - static_cast<std::int32_t>(at);
    const Floats w = (v > logit) | ((v == logit) & before) ? load<Floats>(weights + at) : Floats{};
    store(weights + at, w);
    return w;
  });
}

// Maxima of so many times more tokens; returns how many.
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

// A logit that at least k of `count` maxima reach, and few more; at least the least finite one.
inline float reached_by(std::int64_t k, const float* maxima, std::int64_t count,
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
  // Any `low` that k maxima reach is right; each step leaves fewer logits for the exact selection.
  for (std::int64_t found = count; high - low > 1 && found > k + k / 8 + 4;) {
    const std::int64_t middle = (low + high) / 2;
    const std::int64_t here = reaching(float_of(static_cast<std::int32_t>(middle)));
    if (here < k) {
      high = middle;
    } else {
      low = middle;
      found = here;
    }
  }
  return float_of(static_cast<std::int32_t>(low));
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_SAMPLE_PASSES_HPP_

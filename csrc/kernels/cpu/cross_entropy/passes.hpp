// The passes of a cross-entropy over one row, in their order. Follows the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_PASSES_HPP_
#define NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_PASSES_HPP_

#include "kernels/cpu/cross_entropy/cross_entropy.hpp"
#include "simd/lanes.hpp"
#include "simd/math.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

constexpr std::int64_t line = 64;  // bytes of a cache line
// Vectors that are summed before the sum is added to one in double. A small number loses less of
// many small terms next to a large one.
constexpr int vectors_per_fold = 16;

using Doubles = Whole<double>;

inline Doubles as_doubles(Whole<double> v) noexcept { return v; }
inline Doubles as_doubles(Whole<float> v) noexcept {
  const Halves<Whole<float>> parts = halves(v);
#if NCLAB_SIMD_BYTES == 64  // GCC's own conversion goes through quarters
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)parts.low) +
         (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)parts.high);
#endif
  return __builtin_convertvector(parts.low, Doubles) + __builtin_convertvector(parts.high, Doubles);
}

// Prefetches the next row into the second-level cache: the first half of it while the exponentials
// of this row are computed, the second half while its gradient is.
template <class S>
struct Prefetcher {
  const S* row;  // null: no next row
  std::int64_t middle;

  void first_half(std::int64_t at) const noexcept {
    if (row != nullptr) __builtin_prefetch(row + at / 2, 0, 2);
  }
  void second_half(std::int64_t at) const noexcept {
    if (row != nullptr) __builtin_prefetch(row + middle + at / 2, 0, 2);
  }
};

// The working space of a row.
template <class S>
struct RowBuffers {
  std::int64_t vocab;
  const AccumType<S>* exponentials;
  const AccumType<S>* capped;  // the logits after the soft-cap
};

// The largest logit; NaN is ignored.
template <class S>
inline AccumType<S> row_maximum(const S* logits, std::int64_t vocab) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  constexpr int lanes = width<A>;
  const V least = broadcast<V>(-__builtin_inff());
  V best[4] = {least, least, least, least};
  std::int64_t at = 0;
  for (; at + 4 * lanes <= vocab; at += 4 * lanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      best[i] = larger(Stored<S>::load(logits + at + i * lanes), best[i]);
    }
  }
  for (; at + lanes <= vocab; at += lanes) best[0] = larger(Stored<S>::load(logits + at), best[0]);
  if (at < vocab) {
    const int count = static_cast<int>(vocab - at);
    const V tail = Stored<S>::load_first(logits + at, count);
    best[1] = larger(keep_first(tail, least, count), best[1]);
  }
  return largest_lane(larger(larger(best[0], best[1]), larger(best[2], best[3])));
}

// Writes cap · tanh(logit / cap) to `capped` and returns the largest of it.
template <class S>
inline AccumType<S> cap_row(const S* logits, std::int64_t vocab, double cap,
                            AccumType<S>* capped) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  const A bound = static_cast<A>(cap), inverse = static_cast<A>(1 / cap);
  const V least = broadcast<V>(-__builtin_inff());
  V best = least;
  for_vectors<V>(vocab, [&](std::int64_t at, int count) {
    const V z = vector_tanh(load_at(logits, at, count) * inverse) * bound;
    store_at(capped, at, count, z);
    best = larger(keep_first(z, least, count), best);
  });
  return largest_lane(best);
}

// Returns v with 0 in one lane, if it has that lane.
template <class V>
inline V without(V v, int lane) noexcept {
  using Index = Bits<Element<V>>;
  return lane_numbers<V>() == static_cast<Index>(lane) - Integers<V>{} ? V{} : v;
}

// Writes exp(z − maximum) to `exponentials` and returns their sum without the target's, which may
// be 1 and would absorb the others if they are small.
template <class S, class Z>
inline double exponentials_of(const Z* z, std::int64_t vocab, std::int64_t target,
                              AccumType<S> maximum, AccumType<S>* exponentials,
                              const Prefetcher<S>& prefetch) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  constexpr int lanes = width<A>, fold = vectors_per_fold * lanes;
  const V largest = broadcast<V>(maximum);
  const auto exponential = [&](std::int64_t at) {
    const V e = exp_of_nonpositive(Stored<Z>::load(z + at) - largest);
    store(exponentials + at, e);
    prefetch.first_half(at);
    return e;
  };
  const auto next = [&](std::int64_t at) {
    return without(exponential(at), static_cast<int>(target - at));
  };
  const auto fold_of = [](std::int64_t at, const auto& term) {
    V sums[4] = {term(at), term(at + lanes), term(at + 2 * lanes), term(at + 3 * lanes)};
#pragma GCC unroll 1
    for (int i = 4; i < vectors_per_fold; i += 4) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) sums[k] += term(at + (i + k) * lanes);
    }
    return as_doubles(sums[0] + sums[1]) + as_doubles(sums[2] + sums[3]);
  };
  Doubles total{};
  std::int64_t at = 0;
  for (; at + fold <= vocab; at += fold) {
    const bool is_own = target >= at && target < at + fold;
    total += is_own ? fold_of(at, next) : fold_of(at, exponential);
  }
  for (; at + lanes <= vocab; at += lanes) total += as_doubles(next(at));
  if (at < vocab) {
    const int count = static_cast<int>(vocab - at);
    const V lower = keep_first(Stored<Z>::load_first(z + at, count) - largest,
                               broadcast<V>(-__builtin_inff()), count);
    const V e = exp_of_nonpositive(lower);
    store(exponentials + at, e);
    total += as_doubles(without(e, static_cast<int>(target - at)));
  }
  return sum_of_lanes(total);
}

// exponentials_of() for a short row, with its largest logit. The row stays in registers, `vectors`
// of them; the last has `count` elements.
template <class S, int vectors>
inline double short_row(const S* logits, int count, int target, AccumType<S>& maximum,
                        AccumType<S>* exponentials) noexcept {
  using V = Whole<AccumType<S>>;
  constexpr int lanes = width<AccumType<S>>;
  const V least = broadcast<V>(-__builtin_inff());
  V e[vectors];
#pragma GCC unroll 8
  for (int i = 0; i + 1 < vectors; ++i) e[i] = Stored<S>::load(logits + i * lanes);
  const V tail = Stored<S>::load_first(logits + (vectors - 1) * lanes, count);
  e[vectors - 1] = keep_first(tail, least, count);
  V best = e[0];
#pragma GCC unroll 8
  for (int i = 1; i < vectors; ++i) best = larger(e[i], best);
  maximum = largest_lane(larger(best, least));  // NaN is ignored
  const V largest = broadcast<V>(maximum);
  V sum{};
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i) {
    e[i] = exp_of_nonpositive(e[i] - largest);
    store(exponentials + i * lanes, e[i]);
    sum += without(e[i], target - i * lanes);
  }
  return sum_of_lanes(as_doubles(sum));
}

constexpr int most_vectors = 8;

template <class S>
inline double short_row(const S* logits, std::int64_t vocab, std::int64_t target,
                        AccumType<S>& maximum, AccumType<S>* exponentials) noexcept {
  constexpr int lanes = width<AccumType<S>>;
  const int vectors = static_cast<int>((vocab + lanes - 1) / lanes);
  const int count = static_cast<int>(vocab) - (vectors - 1) * lanes;
  const int own = static_cast<int>(target);
  switch (vectors) {
    case 1:
      return short_row<S, 1>(logits, count, own, maximum, exponentials);
    case 2:
      return short_row<S, 2>(logits, count, own, maximum, exponentials);
    case 3:
      return short_row<S, 3>(logits, count, own, maximum, exponentials);
    case 4:
      return short_row<S, 4>(logits, count, own, maximum, exponentials);
    case 5:
      return short_row<S, 5>(logits, count, own, maximum, exponentials);
    case 6:
      return short_row<S, 6>(logits, count, own, maximum, exponentials);
    case 7:
      return short_row<S, 7>(logits, count, own, maximum, exponentials);
    default:
      return short_row<S, most_vectors>(logits, count, own, maximum, exponentials);
  }
}

// Returns Σ weights[j] · z[j], or Σ z[j] without weights.
template <class S>
inline double weighted_sum(const S* z, std::int64_t vocab, const AccumType<S>* weights) noexcept {
  using V = Whole<AccumType<S>>;
  Doubles total{};
  for_vectors<V>(vocab, [&](std::int64_t at, int count) {
    const V value = load_at(z, at, count);
    total += as_doubles(weights == nullptr ? value : value * load_at(weights, at, count));
  });
  return sum_of_lanes(total);
}

// The gradient of a row is (exponentials · factor − class weights · smooth) times the derivative of
// the soft-cap, except the target's element.
struct Slope {
  double factor, smooth;
  double at_target;  // the target's element as it is written
};

template <class S>
inline void write_gradient_plain(const AccumType<S>* exponentials, std::int64_t vocab,
                                 AccumType<S> factor, S* gradient, bool streaming,
                                 const Prefetcher<S>& prefetch) noexcept {
  using V = Whole<AccumType<S>>;
  constexpr int lanes = width<AccumType<S>>;
  std::int64_t at = 0;
  if (streaming) {
    constexpr std::int64_t bytes = lanes * static_cast<std::int64_t>(sizeof(S));
    const auto misaligned = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(gradient) %
                                                      static_cast<std::uintptr_t>(bytes));
    if (misaligned != 0) {
      const std::int64_t head = (bytes - misaligned) / static_cast<std::int64_t>(sizeof(S));
      const int count = static_cast<int>(head < vocab ? head : vocab);
      Stored<S>::store_first(gradient, load<V>(exponentials) * factor, count);
      at = count;
    }
    for (; at + lanes <= vocab; at += lanes) {
      store_streaming<S>(gradient + at, load<V>(exponentials + at) * factor);
      prefetch.second_half(at);
    }
  } else {
    for (; at + lanes <= vocab; at += lanes) {
      Stored<S>::store(gradient + at, load<V>(exponentials + at) * factor);
      prefetch.second_half(at);
    }
  }
  if (at < vocab) {
    const int count = static_cast<int>(vocab - at);
    Stored<S>::store_first(gradient + at, load<V>(exponentials + at) * factor, count);
  }
}

template <class S>
inline void write_gradient(const RowBuffers<S>& row, const Slope& slope, double cap,
                           const AccumType<S>* weights, S* gradient,
                           const Prefetcher<S>& prefetch) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  const A factor = static_cast<A>(slope.factor), smooth = static_cast<A>(slope.smooth);
  const A inverse = cap > 0 ? static_cast<A>(1 / cap) : A{0};
  for_vectors<V>(row.vocab, [&](std::int64_t at, int count) {
    V g = load<V>(row.exponentials + at) * factor;
    g -= weights == nullptr ? broadcast<V>(smooth) : load_at(weights, at, count) * smooth;
    if (cap > 0) {
      const V t = load<V>(row.capped + at) * inverse;
      g *= A{1} - t * t;
    }
    store_at(gradient, at, count, g);
    prefetch.second_half(at);
  });
}

template <class S>
inline void fill(S* to, std::int64_t vocab, AccumType<S> value) noexcept {
  using V = Whole<AccumType<S>>;
  const V all = broadcast<V>(value);
  for_vectors<V>(vocab, [&](std::int64_t at, int count) { store_at(to, at, count, all); });
}

template <class S>
inline double value_at(const S* from) noexcept {
  if constexpr (sizeof(S) == sizeof(AccumType<S>)) {
    return static_cast<double>(*from);
  } else {
    return static_cast<double>(Stored<S>::load_first(from, 1)[0]);
  }
}

template <class S>
inline void set_value(S* to, double value) noexcept {
  if constexpr (sizeof(S) == sizeof(AccumType<S>)) {
    *to = static_cast<S>(value);
  } else {
    Stored<S>::store_first(to, broadcast<Whole<float>>(static_cast<float>(value)), 1);
  }
}

// Returns whether the first of the largest logits is the target's.
template <class S>
inline bool is_correct(const S* z, std::int64_t target, AccumType<S> maximum) noexcept {
  if (!(value_at(z + target) == static_cast<double>(maximum))) return false;
  using V = Whole<AccumType<S>>;
  const V largest = broadcast<V>(maximum);
  const V nothing = broadcast<V>(__builtin_nanf(""));
  Integers<V> equal{};
  for_vectors<V>(target, [&](std::int64_t at, int count) {
    equal |= keep_first(load_at(z, at, count), nothing, count) == largest;
  });
  bool first = true;
  for (int i = 0; i < Traits<V>::lanes; ++i) first = first && equal[i] == 0;
  return first;
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_PASSES_HPP_

// The passes of a cross-entropy over one row, in the order in which a row meets them. Under the
// rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_PASSES_HPP_
#define NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_PASSES_HPP_

#include "kernels/cpu/cross_entropy/cross_entropy.hpp"
#include "simd/lanes.hpp"
#include "simd/math.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

constexpr std::int64_t line = 64;  // bytes of a cache line
// Vectors between two folds of the running sums into double: the fewer, the less of many small
// terms is lost beside a large one.
constexpr int vectors_a_fold = 16;

using Doubles = Whole<double>;

inline Doubles as_doubles(Whole<double> v) noexcept { return v; }
inline Doubles as_doubles(Whole<float> v) noexcept {
  const Halves<Whole<float>> parts = halves(v);
#if NCLAB_SIMD_BYTES == 64  // GCC's own conversion goes by way of quarters
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)parts.low) +
         (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)parts.high);
#endif
  return __builtin_convertvector(parts.low, Doubles) + __builtin_convertvector(parts.high, Doubles);
}

// Fetches the next row into the second-level cache while this one is worked on: the first half of
// it beside the exponentials, the second beside the gradient.
template <class S>
struct Ahead {
  const S* row;  // null: there is none
  std::int64_t middle;

  void first_half(std::int64_t at) const noexcept {
    if (row != nullptr) __builtin_prefetch(row + at / 2, 0, 2);
  }
  void second_half(std::int64_t at) const noexcept {
    if (row != nullptr) __builtin_prefetch(row + middle + at / 2, 0, 2);
  }
};

// A row's working space.
template <class S>
struct Row {
  std::int64_t vocab;
  const Number<S>* exponentials;
  const Number<S>* capped;  // the logits after the soft-cap
};

// The largest logit, leaving NaN aside.
template <class S>
inline Number<S> row_maximum(const S* logits, std::int64_t vocab) noexcept {
  using N = Number<S>;
  using V = Whole<N>;
  constexpr int lanes = width<N>;
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

// cap · tanh(logit / cap) into `capped`, and the largest of it.
template <class S>
inline Number<S> cap_row(const S* logits, std::int64_t vocab, double cap,
                         Number<S>* capped) noexcept {
  using N = Number<S>;
  using V = Whole<N>;
  const N bound = static_cast<N>(cap), inverse = static_cast<N>(1 / cap);
  const V least = broadcast<V>(-__builtin_inff());
  V best = least;
  for_vectors<V>(vocab, [&](std::int64_t at, int count) {
    const V z = vector_tanh(load_at(logits, at, count) * inverse) * bound;
    store_at(capped, at, count, z);
    best = larger(keep_first(z, least, count), best);
  });
  return largest_lane(best);
}

// A vector with 0 in the lane of that number, if it has one.
template <class V>
inline V without(V v, int lane) noexcept {
  using Index = Bits<Element<V>>;
  return lane_numbers<V>() == static_cast<Index>(lane) - Integers<V>{} ? V{} : v;
}

// exp(z − maximum) into `exponentials`; returns their sum without the target's. Where the target's
// is 1 and the others are small, they would be lost in a sum with it.
template <class S, class Z>
inline double exponentials_of(const Z* z, std::int64_t vocab, std::int64_t target,
                              Number<S> maximum, Number<S>* exponentials,
                              const Ahead<S>& ahead) noexcept {
  using N = Number<S>;
  using V = Whole<N>;
  constexpr int lanes = width<N>, fold = vectors_a_fold * lanes;
  const V largest = broadcast<V>(maximum);
  const auto exponential = [&](std::int64_t at) {
    const V e = exp_of_nonpositive(Stored<Z>::load(z + at) - largest);
    store(exponentials + at, e);
    ahead.first_half(at);
    return e;
  };
  const auto next = [&](std::int64_t at) {
    return without(exponential(at), static_cast<int>(target - at));
  };
  const auto fold_of = [](std::int64_t at, const auto& term) {
    V sums[4] = {term(at), term(at + lanes), term(at + 2 * lanes), term(at + 3 * lanes)};
#pragma GCC unroll 1
    for (int i = 4; i < vectors_a_fold; i += 4) {
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

// The same for a short row, with its largest logit: all in registers, `vectors` of them, the last
// with `count` elements.
template <class S, int vectors>
inline double short_row(const S* logits, int count, int target, Number<S>& maximum,
                        Number<S>* exponentials) noexcept {
  using V = Whole<Number<S>>;
  constexpr int lanes = width<Number<S>>;
  const V least = broadcast<V>(-__builtin_inff());
  V e[vectors];
#pragma GCC unroll 8
  for (int i = 0; i + 1 < vectors; ++i) e[i] = Stored<S>::load(logits + i * lanes);
  const V tail = Stored<S>::load_first(logits + (vectors - 1) * lanes, count);
  e[vectors - 1] = keep_first(tail, least, count);
  V best = e[0];
#pragma GCC unroll 8
  for (int i = 1; i < vectors; ++i) best = larger(e[i], best);
  maximum = largest_lane(larger(best, least));  // NaN is left aside
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
                        Number<S>& maximum, Number<S>* exponentials) noexcept {
  constexpr int lanes = width<Number<S>>;
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

// Σ weights[j] · z[j], or Σ z[j].
template <class S>
inline double weighted_sum(const S* z, std::int64_t vocab, const Number<S>* weights) noexcept {
  using V = Whole<Number<S>>;
  Doubles total{};
  for_vectors<V>(vocab, [&](std::int64_t at, int count) {
    const V value = load_at(z, at, count);
    total += as_doubles(weights == nullptr ? value : value * load_at(weights, at, count));
  });
  return sum_of_lanes(total);
}

// The gradient of a row is exponentials · factor − class weights · smooth, but for the target's
// own, all times the soft-cap's derivative.
struct Slope {
  double factor, smooth;
  double at_target;  // as it is written
};

template <class S>
inline void write_gradient_plain(const Number<S>* exponentials, std::int64_t vocab,
                                 Number<S> factor, S* gradient, bool streaming,
                                 const Ahead<S>& ahead) noexcept {
  using V = Whole<Number<S>>;
  constexpr int lanes = width<Number<S>>;
  std::int64_t at = 0;
  if (streaming) {
    constexpr std::int64_t bytes = lanes * static_cast<std::int64_t>(sizeof(S));
    const auto misplaced = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(gradient) %
                                                     static_cast<std::uintptr_t>(bytes));
    if (misplaced != 0) {
      const std::int64_t head = (bytes - misplaced) / static_cast<std::int64_t>(sizeof(S));
      const int count = static_cast<int>(head < vocab ? head : vocab);
      Stored<S>::store_first(gradient, load<V>(exponentials) * factor, count);
      at = count;
    }
    for (; at + lanes <= vocab; at += lanes) {
      store_streaming<S>(gradient + at, load<V>(exponentials + at) * factor);
      ahead.second_half(at);
    }
  } else {
    for (; at + lanes <= vocab; at += lanes) {
      Stored<S>::store(gradient + at, load<V>(exponentials + at) * factor);
      ahead.second_half(at);
    }
  }
  if (at < vocab) {
    const int count = static_cast<int>(vocab - at);
    Stored<S>::store_first(gradient + at, load<V>(exponentials + at) * factor, count);
  }
}

template <class S>
inline void write_gradient(const Row<S>& row, const Slope& slope, double cap,
                           const Number<S>* weights, S* gradient, const Ahead<S>& ahead) noexcept {
  using N = Number<S>;
  using V = Whole<N>;
  const N factor = static_cast<N>(slope.factor), smooth = static_cast<N>(slope.smooth);
  const N inverse = cap > 0 ? static_cast<N>(1 / cap) : N{0};
  for_vectors<V>(row.vocab, [&](std::int64_t at, int count) {
    V g = load<V>(row.exponentials + at) * factor;
    g -= weights == nullptr ? broadcast<V>(smooth) : load_at(weights, at, count) * smooth;
    if (cap > 0) {
      const V t = load<V>(row.capped + at) * inverse;
      g *= N{1} - t * t;
    }
    store_at(gradient, at, count, g);
    ahead.second_half(at);
  });
}

template <class S>
inline void fill(S* to, std::int64_t vocab, Number<S> value) noexcept {
  using V = Whole<Number<S>>;
  const V all = broadcast<V>(value);
  for_vectors<V>(vocab, [&](std::int64_t at, int count) { store_at(to, at, count, all); });
}

template <class S>
inline double number_at(const S* from) noexcept {
  if constexpr (sizeof(S) == sizeof(Number<S>)) {
    return static_cast<double>(*from);
  } else {
    return static_cast<double>(Stored<S>::load_first(from, 1)[0]);
  }
}

template <class S>
inline void set_number(S* to, double value) noexcept {
  if constexpr (sizeof(S) == sizeof(Number<S>)) {
    *to = static_cast<S>(value);
  } else {
    Stored<S>::store_first(to, broadcast<Whole<float>>(static_cast<float>(value)), 1);
  }
}

// Whether the first of the largest logits is the target's.
template <class S>
inline bool is_correct(const S* z, std::int64_t target, Number<S> maximum) noexcept {
  if (!(number_at(z + target) == static_cast<double>(maximum))) return false;
  using V = Whole<Number<S>>;
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

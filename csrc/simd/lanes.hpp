// Reductions over the lanes of a vector, and loops over rows by vectors. Follows the rule of
// vector.hpp.
#ifndef NANOCHAT_SIMD_LANES_HPP_
#define NANOCHAT_SIMD_LANES_HPP_

#include "simd/storage.hpp"

namespace nanochat::simd::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

template <class V>
struct Halves {
  using Half = Vector<Element<V>, Traits<V>::lanes / 2>;
  Half low, high;
};
template <class V>
inline Halves<V> halves(V v) noexcept {
  Halves<V> parts;
  __builtin_memcpy(&parts, &v, sizeof v);
  return parts;
}

template <class V>
inline Element<V> largest_lane(V v) noexcept {
  if constexpr (Traits<V>::lanes == 2) {
    return v[0] > v[1] ? v[0] : v[1];
  } else {
    const Halves<V> parts = halves(v);
    return largest_lane(parts.low > parts.high ? parts.low : parts.high);
  }
}

template <class V>
inline Element<V> sum_of_lanes(V v) noexcept {
  if constexpr (Traits<V>::lanes == 2) {
    return v[0] + v[1];
  } else {
    const Halves<V> parts = halves(v);
    return sum_of_lanes(parts.low + parts.high);
  }
}

// Calls body(offset, count) for each whole vector of a row, then for its tail.
template <class V, class Body>
inline void for_vectors(std::int64_t vocab, const Body& body) noexcept {
  constexpr int lanes = Traits<V>::lanes;
  std::int64_t at = 0;
  for (; at + lanes <= vocab; at += lanes) body(at, lanes);
  if (at < vocab) body(at, static_cast<int>(vocab - at));
}

template <class S>
inline Whole<AccumType<S>> load_at(const S* from, std::int64_t at, int count) noexcept {
  constexpr int lanes = width<AccumType<S>>;
  return count == lanes ? Stored<S>::load(from + at) : Stored<S>::load_first(from + at, count);
}

template <class S>
inline void store_at(S* to, std::int64_t at, int count, Whole<AccumType<S>> v) noexcept {
  constexpr int lanes = width<AccumType<S>>;
  if (count == lanes) {
    Stored<S>::store(to + at, v);
  } else {
    Stored<S>::store_first(to + at, v, count);
  }
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SIMD_LANES_HPP_

// Transposition of squares in registers. Follows the rule of vector.hpp.
#ifndef NANOCHAT_SIMD_TRANSPOSE_HPP_
#define NANOCHAT_SIMD_TRANSPOSE_HPP_

#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// A square of `side` vectors of `side` lanes.
template <class T>
constexpr int side = (NCLAB_SIMD_BYTES > 16 ? 32 : 16) / static_cast<int>(sizeof(T));

// A part is 16 bytes of a vector: interleaving is cheap within parts.
template <class V>
constexpr int part_lanes = 16 / static_cast<int>(sizeof(Element<V>));

template <int... lane, class V>
inline V shuffled(V a, V b) noexcept {
#ifdef __clang__
  return __builtin_shufflevector(a, b, lane...);
#else
  return __builtin_shuffle(a, b, Integers<V>{lane...});
#endif
}

// The first, or second, halves of the parts of a and b, a lane of each in turn.
template <bool high, class V>
inline V interleaved(V a, V b) noexcept {
  constexpr int lanes = Traits<V>::lanes, part = part_lanes<V>;
  constexpr int x = high ? part / 2 : 0, y = x + lanes;
  if constexpr (lanes == 2) {
    return shuffled<x, y>(a, b);
  } else if constexpr (lanes == 4 && part == 2) {
    return shuffled<x, y, x + 2, y + 2>(a, b);
  } else if constexpr (lanes == 4) {
    return shuffled<x, y, x + 1, y + 1>(a, b);
  } else {
    return shuffled<x, y, x + 1, y + 1, x + 4, y + 4, x + 5, y + 5>(a, b);
  }
}

// The first, or second, part of a and b.
template <bool high, class V>
inline V parts(V a, V b) noexcept {
  constexpr int lanes = Traits<V>::lanes, x = high ? lanes / 2 : 0;
  if constexpr (lanes == 4) {
    return shuffled<x, x + 1, x + 4, x + 5>(a, b);
  } else {
    return shuffled<x, x + 1, x + 2, x + 3, x + 8, x + 9, x + 10, x + 11>(a, b);
  }
}

// The parts are exchanged first. Then squares of parts are transposed in log2(part_lanes) rounds: a
// round interleaves each vector of the first half of a square with its partner in the second half.
template <class V, int count>
inline void transpose_square(V (&x)[count]) noexcept {
  constexpr int part = part_lanes<V>;
  V y[count];
  if constexpr (count > part) {
#pragma GCC unroll 4
    for (int i = 0; i < part; ++i) {
      y[i] = parts<false>(x[i], x[i + part]);
      y[i + part] = parts<true>(x[i], x[i + part]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) x[i] = y[i];
  }
#pragma GCC unroll 3
  for (int round = 1; round < part; round *= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < count / 2; ++i) {
      const int from = i / (part / 2) * part + i % (part / 2);
      const int to = i / (part / 2) * part + i % (part / 2) * 2;
      y[to] = interleaved<false>(x[from], x[from + part / 2]);
      y[to + 1] = interleaved<true>(x[from], x[from + part / 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) x[i] = y[i];
  }
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SIMD_TRANSPOSE_HPP_

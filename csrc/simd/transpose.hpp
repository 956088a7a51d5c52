// Transposition of squares in registers. Follows the rule of vector.hpp.
#ifndef NANOCHAT_SIMD_TRANSPOSE_HPP_
#define NANOCHAT_SIMD_TRANSPOSE_HPP_

#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// A square of `side` vectors of `side` lanes is transposed in log2(side) rounds. A round
// interleaves each vector of the first half with its partner in the second half.
template <class T>
constexpr int side = (NCLAB_SIMD_BYTES > 16 ? 32 : 16) / static_cast<int>(sizeof(T));

template <bool high, class V>
inline V interleaved(V a, V b) noexcept {
  constexpr int lanes = Traits<V>::lanes;
  constexpr int from = high ? lanes / 2 : 0;
#ifdef __clang__
  if constexpr (lanes == 2) {
    return __builtin_shufflevector(a, b, from, 2 + from);
  } else if constexpr (lanes == 4) {
    return __builtin_shufflevector(a, b, from, 4 + from, from + 1, 5 + from);
  } else {
    return __builtin_shufflevector(a, b, from, 8 + from, from + 1, 9 + from, from + 2, 10 + from,
                                   from + 3, 11 + from);
  }
#else
  Integers<V> order{};
  for (int i = 0; i < lanes; ++i) order[i] = from + i / 2 + (i % 2) * lanes;
  return __builtin_shuffle(a, b, order);
#endif
}

template <class V, int count>
inline void transpose_square(V (&x)[count]) noexcept {
#pragma GCC unroll 3
  for (int round = 1; round < count; round *= 2) {
    V y[count];
#pragma GCC unroll 4
    for (int i = 0; i < count / 2; ++i) {
      y[2 * i] = interleaved<false>(x[i], x[i + count / 2]);
      y[2 * i + 1] = interleaved<true>(x[i], x[i + count / 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) x[i] = y[i];
  }
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SIMD_TRANSPOSE_HPP_

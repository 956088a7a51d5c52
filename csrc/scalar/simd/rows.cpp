// Rows as wholes: the largest of them, and rows made columns.
#include "scalar/simd/kernels.hpp"
#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
namespace {

// A square of `side` vectors of `side` lanes is transposed by log2(side) rounds of interleaving
// each vector of the first half with its partner in the second.
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

template <class T>
void largest(T* dst, const T* src, std::ptrdiff_t step, std::int32_t rows,
             std::int32_t lanes) noexcept {
  using V = Whole<T>;
  std::int32_t n = 0;
  for (; n + width<T> <= lanes; n += width<T>) {
    V best = load<V>(src + n);
    for (std::int32_t f = 1; f < rows; ++f) {
      const V x = load<V>(src + f * step + n);
      best = x > best ? x : best;
    }
    store(dst + n, best);
  }
  if (n == lanes) return;
  const int rest = lanes - n;
  V best = load_first<V>(src + n, rest);
  for (std::int32_t f = 1; f < rows; ++f) {
    const V x = load_first<V>(src + f * step + n, rest);
    best = x > best ? x : best;
  }
  store_first(dst + n, best, rest);
}

template <class T>
void transpose(T* dst, std::ptrdiff_t dst_step, const T* src, std::ptrdiff_t src_step,
               std::int32_t rows, std::int32_t lanes) noexcept {
  constexpr int block = side<T>;
  using V = Vector<T, block>;
  for (std::int32_t f = 0; f < rows; f += block) {
    const std::int32_t high = rows - f < block ? rows - f : block;
    for (std::int32_t n = 0; n < lanes; n += block) {
      const std::int32_t wide = lanes - n < block ? lanes - n : block;
      V x[block];
      if (high == block && wide == block) {
#pragma GCC unroll 8
        for (int i = 0; i < block; ++i) x[i] = load<V>(src + (f + i) * src_step + n);
      } else {
#pragma GCC unroll 8
        for (int i = 0; i < block; ++i) {
          x[i] = i < high ? load_first<V>(src + (f + i) * src_step + n, wide) : V{};
        }
      }
      transpose_square(x);
      // Whole vectors: dst's rows have room for them.
#pragma GCC unroll 8
      for (int i = 0; i < block; ++i) {
        if (i < wide) store(dst + (n + i) * dst_step + f, x[i]);
      }
    }
  }
}

template void largest<double>(double*, const double*, std::ptrdiff_t, std::int32_t,
                              std::int32_t) noexcept;
template void largest<float>(float*, const float*, std::ptrdiff_t, std::int32_t,
                             std::int32_t) noexcept;
template void transpose<double>(double*, std::ptrdiff_t, const double*, std::ptrdiff_t,
                                std::int32_t, std::int32_t) noexcept;
template void transpose<float>(float*, std::ptrdiff_t, const float*, std::ptrdiff_t, std::int32_t,
                               std::int32_t) noexcept;

}  // namespace nanochat::simd::NCLAB_SIMD

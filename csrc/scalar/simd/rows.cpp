// Operations on whole rows: the largest of several, and the transpose.
#include "scalar/simd/kernels.hpp"
#include "simd/transpose.hpp"

namespace nanochat::simd::NCLAB_SIMD {

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

// Products of small matrices in the caches, for one thread. Follows the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_ATTENTION_PRODUCTS_HPP_
#define NANOCHAT_KERNELS_CPU_ATTENTION_PRODUCTS_HPP_

#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

// The rows of a tile and its most vectors: the sums of a tile fill the registers.
constexpr int tile_rows = 4;
constexpr int tile_vectors = NCLAB_SIMD_BYTES == 64 ? 4 : 2;

// A matrix whose element (i, k) is at data[i · row_stride + k · column_stride].
template <class A>
struct MatrixView {
  const A* data;
  std::int64_t row_stride, column_stride;
};

template <class A, int rows, int vectors>
inline void product_tile(MatrixView<A> a, const A* b, std::int64_t b_stride, std::int64_t first,
                         std::int64_t last, A* c, std::int64_t c_stride) noexcept {
  using V = Whole<A>;
  constexpr int lanes = width<A>;
  V sums[rows][vectors] = {};
  for (std::int64_t k = first; k < last; ++k) {
    V b_values[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) b_values[v] = load<V>(b + k * b_stride + v * lanes);
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
      const V a_value = broadcast<V>(a.data[i * a.row_stride + k * a.column_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sums[i][v] = fused_multiply_add(a_value, b_values[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store<V>(c + i * c_stride + v * lanes, sums[i][v]);
  }
}

template <class A, int rows>
inline void product_rows(MatrixView<A> a, const A* b, std::int64_t b_stride, std::int64_t first,
                         std::int64_t last, A* c, std::int64_t c_stride,
                         std::int64_t columns) noexcept {
  constexpr std::int64_t lanes = width<A>;
  std::int64_t data = 0;
  // No single vector may follow a full tile: its few sums would wait for each other.
  for (; columns - data >= tile_vectors * lanes && columns - data != (tile_vectors + 1) * lanes;
       data += tile_vectors * lanes) {
    product_tile<A, rows, tile_vectors>(a, b + data, b_stride, first, last, c + data, c_stride);
  }
  for (; columns - data >= 3 * lanes; data += 3 * lanes) {
    product_tile<A, rows, 3>(a, b + data, b_stride, first, last, c + data, c_stride);
  }
  for (; columns - data >= 2 * lanes; data += 2 * lanes) {
    product_tile<A, rows, 2>(a, b + data, b_stride, first, last, c + data, c_stride);
  }
  if (data < columns)
    product_tile<A, rows, 1>(a, b + data, b_stride, first, last, c + data, c_stride);
}

// c(i, j) = Σ a(i, k) · b(k, j) over k in [first, last), for at most tile_rows rows. columns: a
// multiple of the vector width; rows of b and c are padded to it.
template <class A>
inline void product(MatrixView<A> a, std::int64_t rows, const A* b, std::int64_t b_stride,
                    std::int64_t first, std::int64_t last, A* c, std::int64_t c_stride,
                    std::int64_t columns) noexcept {
  if (rows == tile_rows) {
    return product_rows<A, tile_rows>(a, b, b_stride, first, last, c, c_stride, columns);
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const MatrixView<A> row_stride{a.data + i * a.row_stride, a.row_stride, a.column_stride};
    product_rows<A, 1>(row_stride, b, b_stride, first, last, c + i * c_stride, c_stride, columns);
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_ATTENTION_PRODUCTS_HPP_

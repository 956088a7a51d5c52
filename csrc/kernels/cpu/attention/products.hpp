// Products of small matrices that lie in the caches, for one thread. Under the rule of
// simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_ATTENTION_PRODUCTS_HPP_
#define NANOCHAT_KERNELS_CPU_ATTENTION_PRODUCTS_HPP_

#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

// Rows of a tile, and the most vectors of one: as many sums as there are registers for.
constexpr int tile_rows = 4;
constexpr int tile_vectors = NCLAB_SIMD_BYTES == 64 ? 4 : 2;

// a: element (i, k) at i · row + k · column. Rows of b and c are whole vectors.
template <class N>
struct Factor {
  const N* at;
  std::int64_t row, column;
};

template <class N, int rows, int vectors>
inline void product_tile(Factor<N> a, const N* b, std::int64_t b_row, std::int64_t first,
                         std::int64_t last, N* c, std::int64_t c_row) noexcept {
  using V = Whole<N>;
  constexpr int lanes = width<N>;
  V sums[rows][vectors] = {};
  for (std::int64_t k = first; k < last; ++k) {
    V of_b[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) of_b[v] = load<V>(b + k * b_row + v * lanes);
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
      const V of_a = broadcast<V>(a.at[i * a.row + k * a.column]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sums[i][v] = fused_multiply_add(of_a, of_b[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store<V>(c + i * c_row + v * lanes, sums[i][v]);
  }
}

template <class N, int rows>
inline void product_rows(Factor<N> a, const N* b, std::int64_t b_row, std::int64_t first,
                         std::int64_t last, N* c, std::int64_t c_row,
                         std::int64_t columns) noexcept {
  constexpr std::int64_t lanes = width<N>;
  std::int64_t at = 0;
  // Never a single vector behind a full tile: its few sums would wait for each other.
  for (; columns - at >= tile_vectors * lanes && columns - at != (tile_vectors + 1) * lanes;
       at += tile_vectors * lanes) {
    product_tile<N, rows, tile_vectors>(a, b + at, b_row, first, last, c + at, c_row);
  }
  for (; columns - at >= 3 * lanes; at += 3 * lanes) {
    product_tile<N, rows, 3>(a, b + at, b_row, first, last, c + at, c_row);
  }
  for (; columns - at >= 2 * lanes; at += 2 * lanes) {
    product_tile<N, rows, 2>(a, b + at, b_row, first, last, c + at, c_row);
  }
  if (at < columns) product_tile<N, rows, 1>(a, b + at, b_row, first, last, c + at, c_row);
}

// c(i, j) = Σ a(i, k) · b(k, j) over k in [first, last), for `rows` ≤ tile_rows rows and `columns`,
// whole vectors of them.
template <class N>
inline void product(Factor<N> a, std::int64_t rows, const N* b, std::int64_t b_row,
                    std::int64_t first, std::int64_t last, N* c, std::int64_t c_row,
                    std::int64_t columns) noexcept {
  if (rows == tile_rows) {
    return product_rows<N, tile_rows>(a, b, b_row, first, last, c, c_row, columns);
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const Factor<N> row{a.at + i * a.row, a.row, a.column};
    product_rows<N, 1>(row, b, b_row, first, last, c + i * c_row, c_row, columns);
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_ATTENTION_PRODUCTS_HPP_

// Small matrix products: a tile of rows × vectors of c stays in registers for all of k.
#include "scalar/simd/kernels.hpp"
#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
namespace {

// Rows of a tile that is 1, 2 or 4 vectors wide: as many as fit in registers with the operands.
template <int vectors>
constexpr int most_rows = NCLAB_SIMD_BYTES == 64 ? (vectors == 1   ? 16
                                                    : vectors == 2 ? 12
                                                                   : 6)
                                                 : (vectors == 1   ? 12
                                                    : vectors == 2 ? 6
                                                                   : 3);

// Rows from i and lanes from n of c; `last` lanes in the last vector.
template <class N, class V, int rows, int vectors, bool unit_step>
void tile(const Gemm<typename N::T>& g, std::int32_t i, std::int32_t n, int last) noexcept {
  using T = typename N::T;
  constexpr int lanes = Traits<V>::lanes;
  const std::ptrdiff_t a_step = unit_step ? 1 : g.a_step;
  T* const c = g.c + i * g.c_step + n;
  V sum[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[r][v] = broadcast<V>(g.start);
  }
  if (g.accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const T* const row = c + r * g.c_step;
#pragma GCC unroll 4
      for (int v = 0; v + 1 < vectors; ++v) sum[r][v] = load<V>(row + v * lanes);
      constexpr int final = vectors - 1;
      sum[r][final] =
          last == lanes ? load<V>(row + final * lanes) : load_first<V>(row + final * lanes, last);
    }
  }
  const Products<T>* const end = g.term + g.terms;
  for (const Products<T>* term = g.term; term != end; ++term) {
    const T* a = term->a + i * a_step;
    const T* b = term->b + n;
    const std::ptrdiff_t a_next = term->a_next, b_next = term->b_next;
    for (std::int32_t k = term->k; k > 0; --k, a += a_next, b += b_next) {
      V row[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) row[v] = load<V>(b + v * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const V factor = broadcast<V>(a[r * a_step]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          sum[r][v] = multiply_add<N>(factor, row[v], sum[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    T* const row = c + r * g.c_step;
#pragma GCC unroll 4
    for (int v = 0; v + 1 < vectors; ++v) store(row + v * lanes, sum[r][v]);
    constexpr int final = vectors - 1;
    if (last == lanes) {
      store(row + final * lanes, sum[r][final]);
    } else {
      store_first(row + final * lanes, sum[r][final], last);
    }
  }
}

template <class N, class V, int rows, int vectors>
void tile_of(std::int32_t height, const Gemm<typename N::T>& g, std::int32_t i, std::int32_t n,
             int last) noexcept {
  if constexpr (rows > 1) {
    if (height < rows) return tile_of<N, V, rows - 1, vectors>(height, g, i, n, last);
  }
  if (g.a_step == 1) {
    tile<N, V, rows, vectors, true>(g, i, n, last);
  } else {
    tile<N, V, rows, vectors, false>(g, i, n, last);
  }
}

// All rows of c, in tiles of nearly equal height: each tile loads b again.
template <class N, class V, int vectors>
void column(const Gemm<typename N::T>& g, std::int32_t n, int last) noexcept {
  constexpr int most = most_rows<vectors>;
  std::int32_t tiles = (g.m + most - 1) / most;
  for (std::int32_t i = 0; i < g.m; --tiles) {
    const std::int32_t height = (g.m - i + tiles - 1) / tiles;
    tile_of<N, V, most, vectors>(height, g, i, n, last);
    i += height;
  }
}

}  // namespace

template <class N>
void gemm(const Gemm<typename N::T>& g) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  constexpr int lanes = width<T>;
  std::int32_t n = 0;
  // Wide tiles need fewer loads, and with few rows they hide the latency of an addition.
  const bool low = g.m <= most_rows<4>;
  for (; low && n + 4 * lanes <= g.lanes; n += 4 * lanes) column<N, V, 4>(g, n, lanes);
  for (; n + 2 * lanes <= g.lanes; n += 2 * lanes) column<N, V, 2>(g, n, lanes);
  for (; n + lanes <= g.lanes; n += lanes) column<N, V, 1>(g, n, lanes);
  const int rest = g.lanes - n;
  if (rest == 0) return;
  if constexpr (tail_width<T> < lanes) {
    if (rest <= tail_width<T>) return column<N, Vector<T, tail_width<T>>, 1>(g, n, rest);
  }
  column<N, V, 1>(g, n, rest);
}

template void gemm<Exact>(const Gemm<double>&) noexcept;
template void gemm<Fast64>(const Gemm<double>&) noexcept;
template void gemm<Fast32>(const Gemm<float>&) noexcept;

}  // namespace nanochat::simd::NCLAB_SIMD

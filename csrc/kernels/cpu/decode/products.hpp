// Products of a few tokens with a packed matrix. Follows the rule of simd/vector.hpp.
// An output's sum runs over the inputs in order, in blocks of depth_block that are added in order.
// Its bits do not depend on the number of tokens.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_PRODUCTS_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_PRODUCTS_HPP_

#include "kernels/cpu/decode/decode.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

// Inputs whose products are summed in a register. Fewer inputs lose less of small terms: with 32,
// the error of four layers of 128 is 0.85 of torch's, with 64 it is 1.05, with 128 1.5.
constexpr std::int64_t depth_block = 32;
// Tokens whose sums fit in the registers together with two vectors of weights.
constexpr int max_tile_rows = NCLAB_SIMD_BYTES == 64 ? 12 : 6;

template <class A>
constexpr int panel = 2 * width<A>;  // outputs

template <class V>
struct VectorPair {
  V low, high;
};

// Loads the weights of one input for the outputs of a panel. AccumType: Clang 14 forms the
// type that is returned for bfloat16 too, although the function below is the better match.
template <class A>
inline VectorPair<Whole<AccumType<A>>> load_pair(const A* from) noexcept {
  return {load<Whole<A>>(from), load<Whole<A>>(from + width<A>)};
}
// bfloat16 is the upper half of a float. The weights of the panel's two vectors share words, so one
// shift and one mask widen them.
inline VectorPair<Floats> load_pair(const BFloat16* from) noexcept {
  Words words;
  __builtin_memcpy(&words, from, sizeof words);
  return {(Floats)(words << 16U), (Floats)(words & 0xffff0000U)};
}

// The index of an output's weight among the weights of one input.
template <class S>
constexpr int packed_index(int output) noexcept {
  constexpr int lanes = width<AccumType<S>>;
  return sizeof(S) == 2 ? output % lanes * 2 + output / lanes : output;
}

template <class S>
void pack(const void* matrix, std::int64_t outputs, std::int64_t inputs, void* packed) noexcept {
  constexpr std::int64_t line = 64 / sizeof(S);
  constexpr int size = panel<AccumType<S>>;
  S* to = static_cast<S*>(packed);
  for (std::int64_t first = 0; first < outputs; first += size, to += inputs * size) {
    // One cache line of each output at a time.
    for (std::int64_t begin = 0; begin < inputs; begin += line) {
      const std::int64_t end = inputs - begin < line ? inputs : begin + line;
      for (int i = 0; i < size; ++i) {
        const bool is_one = first + i < outputs;
        const S* const from = static_cast<const S*>(matrix) + (first + i) * inputs;
        S* const column = to + packed_index<S>(i);
        for (std::int64_t k = begin; k < end; ++k) column[k * size] = is_one ? from[k] : S{};
      }
    }
  }
}

// The inputs of a product: `depth` values of each token, x_stride apart, and adjacent panels.
template <class S>
struct ProductInputs {
  const AccumType<S>* x;
  std::int64_t x_stride;
  const S* weights;
  std::int64_t panel_size;  // elements from one panel to the next
  std::int64_t depth;
};

// Adds the products of `rows` tokens and `panels` panels to the tile.
template <class S, int rows, int panels>
inline void multiply(const ProductInputs<S>& factors, AccumType<S>* tile) noexcept {
  using V = Whole<AccumType<S>>;
  constexpr int lanes = width<AccumType<S>>;
  V sums[rows][panels][2] = {};
  for (std::int64_t k = 0; k < factors.depth; ++k) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const S* const from = factors.weights + p * factors.panel_size + k * panel<AccumType<S>>;
      if constexpr (rows == 1) __builtin_prefetch(from + 16 * panel<AccumType<S>>, 0, 3);
      const VectorPair<V> w = load_pair(from);
#pragma GCC unroll 12
      for (int r = 0; r < rows; ++r) {
        const V x = broadcast<V>(factors.x[r * factors.x_stride + k]);
        sums[r][p][0] = fused_multiply_add(x, w.low, sums[r][p][0]);
        sums[r][p][1] = fused_multiply_add(x, w.high, sums[r][p][1]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * panels; ++i) {
      AccumType<S>* const at = tile + (r * 2 * panels + i) * lanes;
      store(at, load<V>(at) + sums[r][i / 2][i % 2]);
    }
  }
}

constexpr int next_tile_rows(int rows) noexcept { return rows > 8 ? 8 : rows > 4 ? 4 : rows / 2; }

// Multiplies all tokens, `rows` at a time, then the rest in smaller tiles.
template <class S, int rows, int panels>
inline void multiply_all(ProductInputs<S> factors, std::int64_t count,
                         AccumType<S>* tile) noexcept {
  for (; count >= rows; count -= rows) {
    multiply<S, rows, panels>(factors, tile);
    factors.x += rows * factors.x_stride;
    tile += rows * panels * panel<AccumType<S>>;
  }
  if constexpr (rows > 1) {
    if (count > 0) multiply_all<S, next_tile_rows(rows), panels>(factors, count, tile);
  }
}

// Calls finish(row, column, sums) for every vector of the products with adjacent panels.
template <class S, int rows, int panels, class Finish>
inline void multiply_panels(ProductInputs<S> factors, std::int64_t count, std::int64_t column,
                            std::int64_t outputs, const Finish& finish) noexcept {
  using A = AccumType<S>;
  constexpr int lanes = width<A>;
  // Few tokens take several panels at once, which gives the processor enough independent sums.
  constexpr std::int64_t room = panels == 1 ? decode_tokens : rows;
  alignas(64) A tile[room * panels * panel<A>];
  for (std::int64_t i = 0; i < count * panels * panel<A>; i += lanes) store(tile + i, Whole<A>{});
  const std::int64_t inputs = factors.depth;
  for (std::int64_t k = 0; k < inputs; k += depth_block) {
    factors.depth = inputs - k < depth_block ? inputs - k : depth_block;
    multiply_all<S, rows, panels>(factors, count, tile);
    factors.x += factors.depth;
    factors.weights += factors.depth * panel<A>;
  }
  for (std::int64_t r = 0; r < count; ++r) {
    for (int i = 0; i < 2 * panels && column + i * lanes < outputs; ++i) {
      finish(r, column + i * lanes, load<Whole<A>>(tile + (r * 2 * panels + i) * lanes));
    }
  }
}

// Calls finish(row, column, sums) for every vector of x · matrixᵀ, for at most decode_tokens rows.
// Sums beyond `outputs` are 0.
template <class S, class Finish>
inline void product(const AccumType<S>* x, std::int64_t x_stride, std::int64_t rows,
                    const void* packed, std::int64_t outputs, std::int64_t inputs,
                    const Finish& finish) noexcept {
  constexpr int outputs_a_panel = panel<AccumType<S>>;
  const auto* const weights = static_cast<const S*>(packed);
  const std::int64_t panel_size = inputs * outputs_a_panel;
  const std::int64_t panels = (outputs + outputs_a_panel - 1) / outputs_a_panel;
  const auto factors = [&](std::int64_t p) {
    return ProductInputs<S>{x, x_stride, weights + p * panel_size, panel_size, inputs};
  };
  std::int64_t p = 0;
  for (; rows == 1 && p + 4 <= panels; p += 4) {
    multiply_panels<S, 1, 4>(factors(p), rows, p * outputs_a_panel, outputs, finish);
  }
  for (; rows <= 2 && p + 2 <= panels; p += 2) {
    multiply_panels<S, 2, 2>(factors(p), rows, p * outputs_a_panel, outputs, finish);
  }
  for (; p < panels; ++p) {
    multiply_panels<S, max_tile_rows, 1>(factors(p), rows, p * outputs_a_panel, outputs, finish);
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_DECODE_PRODUCTS_HPP_

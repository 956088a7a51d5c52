// Products of a few tokens with a packed matrix, under the rule of simd/vector.hpp.
//
// An output's sum runs over the inputs in their order, in blocks of depth_block that are added in
// theirs: the same bits for any number of tokens beside it.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_PRODUCTS_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_PRODUCTS_HPP_

#include "kernels/cpu/decode/decode.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

// Inputs whose products are added in a register: the fewer, the less of a small term is lost (with
// 32, the error of four layers of 128 is 0.85 of torch's, with 64 it is 1.05, with 128 1.5).
constexpr std::int64_t depth_block = 32;
// Tokens whose sums fit in the registers beside two vectors of weights.
constexpr int most_rows = NCLAB_SIMD_BYTES == 64 ? 12 : 6;

template <class N>
constexpr int panel = 2 * width<N>;  // outputs

template <class V>
struct Pair {
  V low, high;
};

// The weights of one input for a panel's outputs.
template <class N>
inline Pair<Whole<N>> load_pair(const N* from) noexcept {
  return {load<Whole<N>>(from), load<Whole<N>>(from + width<N>)};
}
// bfloat16 is the upper half of a float: the weights of the panel's two vectors share words, so
// that a shift and a mask widen them.
inline Pair<Floats> load_pair(const BFloat16* from) noexcept {
  Words words;
  __builtin_memcpy(&words, from, sizeof words);
  return {(Floats)(words << 16U), (Floats)(words & 0xffff0000U)};
}

// Where an output's weights stand among those of one input.
template <class S>
constexpr int place_of(int output) noexcept {
  constexpr int lanes = width<Number<S>>;
  return sizeof(S) == 2 ? output % lanes * 2 + output / lanes : output;
}

template <class S>
void pack(const void* matrix, std::int64_t outputs, std::int64_t inputs, void* packed) noexcept {
  constexpr std::int64_t line = 64 / sizeof(S);
  constexpr int size = panel<Number<S>>;
  S* to = static_cast<S*>(packed);
  for (std::int64_t first = 0; first < outputs; first += size, to += inputs * size) {
    // A cache line of each output at a time.
    for (std::int64_t begin = 0; begin < inputs; begin += line) {
      const std::int64_t end = inputs - begin < line ? inputs : begin + line;
      for (int i = 0; i < size; ++i) {
        const bool is_one = first + i < outputs;
        const S* const from = static_cast<const S*>(matrix) + (first + i) * inputs;
        S* const column = to + place_of<S>(i);
        for (std::int64_t k = begin; k < end; ++k) column[k * size] = is_one ? from[k] : S{};
      }
    }
  }
}

// What a product reads: `depth` inputs of tokens x_stride apart, and neighbouring panels.
template <class S>
struct Factors {
  const Number<S>* x;
  std::int64_t x_stride;
  const S* weights;
  std::int64_t panel_size;  // elements from one panel to the next
  std::int64_t depth;
};

// Adds the products of `rows` tokens with `panels` panels to the tile.
template <class S, int rows, int panels>
inline void multiply(const Factors<S>& factors, Number<S>* tile) noexcept {
  using V = Whole<Number<S>>;
  constexpr int lanes = width<Number<S>>;
  V sums[rows][panels][2] = {};
  for (std::int64_t k = 0; k < factors.depth; ++k) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const S* const from = factors.weights + p * factors.panel_size + k * panel<Number<S>>;
      if constexpr (rows == 1) __builtin_prefetch(from + 16 * panel<Number<S>>, 0, 3);
      const Pair<V> w = load_pair(from);
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
      Number<S>* const at = tile + (r * 2 * panels + i) * lanes;
      store(at, load<V>(at) + sums[r][i / 2][i % 2]);
    }
  }
}

constexpr int fewer(int rows) noexcept { return rows > 8 ? 8 : rows > 4 ? 4 : rows / 2; }

// All tokens, `rows` at a time, the rest fewer.
template <class S, int rows, int panels>
inline void multiply_all(Factors<S> factors, std::int64_t count, Number<S>* tile) noexcept {
  for (; count >= rows; count -= rows) {
    multiply<S, rows, panels>(factors, tile);
    factors.x += rows * factors.x_stride;
    tile += rows * panels * panel<Number<S>>;
  }
  if constexpr (rows > 1) {
    if (count > 0) multiply_all<S, fewer(rows), panels>(factors, count, tile);
  }
}

// finish(row, column, sums) for every vector of the products with neighbouring panels.
template <class S, int rows, int panels, class Finish>
inline void multiply_panels(Factors<S> factors, std::int64_t count, std::int64_t column,
                            std::int64_t outputs, const Finish& finish) noexcept {
  using N = Number<S>;
  constexpr int lanes = width<N>;
  // Few tokens take several panels at once, for there is too little else to do meanwhile.
  constexpr std::int64_t room = panels == 1 ? decode_tokens : rows;
  alignas(64) N tile[room * panels * panel<N>];
  for (std::int64_t i = 0; i < count * panels * panel<N>; i += lanes) store(tile + i, Whole<N>{});
  const std::int64_t inputs = factors.depth;
  for (std::int64_t k = 0; k < inputs; k += depth_block) {
    factors.depth = inputs - k < depth_block ? inputs - k : depth_block;
    multiply_all<S, rows, panels>(factors, count, tile);
    factors.x += factors.depth;
    factors.weights += factors.depth * panel<N>;
  }
  for (std::int64_t r = 0; r < count; ++r) {
    for (int i = 0; i < 2 * panels && column + i * lanes < outputs; ++i) {
      finish(r, column + i * lanes, load<Whole<N>>(tile + (r * 2 * panels + i) * lanes));
    }
  }
}

// finish(row, column, sums) for every vector of x · matrixᵀ, at most decode_tokens rows; what lies
// beyond `outputs` is 0.
template <class S, class Finish>
inline void product(const Number<S>* x, std::int64_t x_stride, std::int64_t rows,
                    const void* packed, std::int64_t outputs, std::int64_t inputs,
                    const Finish& finish) noexcept {
  constexpr int outputs_a_panel = panel<Number<S>>;
  const auto* const weights = static_cast<const S*>(packed);
  const std::int64_t panel_size = inputs * outputs_a_panel;
  const std::int64_t panels = (outputs + outputs_a_panel - 1) / outputs_a_panel;
  const auto factors = [&](std::int64_t p) {
    return Factors<S>{x, x_stride, weights + p * panel_size, panel_size, inputs};
  };
  std::int64_t p = 0;
  for (; rows == 1 && p + 4 <= panels; p += 4) {
    multiply_panels<S, 1, 4>(factors(p), rows, p * outputs_a_panel, outputs, finish);
  }
  for (; rows <= 2 && p + 2 <= panels; p += 2) {
    multiply_panels<S, 2, 2>(factors(p), rows, p * outputs_a_panel, outputs, finish);
  }
  for (; p < panels; ++p) {
    multiply_panels<S, most_rows, 1>(factors(p), rows, p * outputs_a_panel, outputs, finish);
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_DECODE_PRODUCTS_HPP_

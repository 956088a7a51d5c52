// A decode step of a GPT over some rows, and the functions of one instruction set. The computation
// is specified in abi.h; decode.cpp checks the arguments and owns the memory. Follows the rule of
// simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

// The tokens that go through a layer together. Enough to load the layer's weights from memory while
// earlier weights are multiplied, and few enough to keep the tokens' activations in the
// second-level cache.
inline constexpr std::int64_t decode_tokens = 48;

struct DecodeLayer {  // packed matrices
  const void* wqkv;
  const void* wo;
  const void* fc1;
  const void* fc2;
};

// A model as the kernels read it, and its caches. "accum": of the accumulation dtype, double for
// NCK_FLOAT64 and float otherwise. Strides are those of tokens in the working space; they include
// whole panels.
struct DecodeModel {
  std::int64_t vocab, n_embd, n_layer, n_head, head_dim, block_size, prev_token_tables;
  std::int64_t hash_embed_rows, hash_embed_longest;
  std::int64_t lookback;  // how many earlier tokens the embedding of a token reads
  bool squared, qk_norm, input_norm, output_norm, rotates;
  double eps, softcap;
  const void* wte;            // ((prev_token_tables + 1) · vocab + hash_embed_rows, n_embd) accum
  const void* wpe;            // (block_size, n_embd) accum, or null
  const void* lm_head;        // packed
  const DecodeLayer* layers;  // n_layer
  std::int64_t rows;
  // The slots of keys are adjacent: a vector holds one dimension of several slots. The dimensions
  // of values are adjacent, as they are summed.
  void* keys;                       // (n_layer, rows, n_head, head_dim, slots) accum
  void* values;                     // (n_layer, rows, n_head, block_size, value_width) accum
  std::int64_t slots, value_width;  // block_size and head_dim, rounded up to whole vectors
  std::int64_t embd_stride, qkv_stride, mlp_stride;
};

struct DecodeStep {
  // (count,): the rows that read, as the caches number them, and the position of the first token of
  // each.
  const std::int64_t* rows;
  const std::int64_t* firsts;
  // (count, lookback + length): the tokens of each row, preceded by those read before, or by −1
  // where there are none.
  const std::int64_t* tokens;
  std::int64_t length;  // tokens per row
  const void* cosines;  // ([count,] length, head_dim / 2) accum, if the model rotates
  const void* sines;
  std::int64_t angle_stride;  // from row to row; 0: all rows are at one position
  void* logits;               // (rows of the caches, vocab) accum
};

struct DecodeTable {
  std::int64_t vector_bytes;
  // Packs a matrix (outputs, inputs) into panels of two vectors of outputs. In a panel, the weights
  // of all outputs for the first input are adjacent, then those for the second, and so on. Outputs
  // beyond the last are 0.
  void (*pack[dtype_count])(const void* matrix, std::int64_t outputs, std::int64_t inputs,
                            void* packed) noexcept;
  // The rows first_row … last_row − 1 of the step. scratch: (2 · embd_stride + qkv_stride +
  // mlp_stride) accum elements for each of decode_tokens tokens, and slots more, aligned to 64
  // bytes.
  void (*run[dtype_count])(const DecodeModel&, const DecodeStep&, std::int64_t first_row,
                           std::int64_t last_row, void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_DECODE_HPP_

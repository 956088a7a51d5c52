// A decode step of a GPT over some rows, one table of functions for each instruction set. What is
// computed is in abi.h; decode.cpp checks arguments and owns all that is pointed to. Included by
// files under the rule of simd/vector.hpp: no functions here.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

// So many tokens go through a layer together: enough for its weights to come from memory while the
// tokens are multiplied with those before, few enough for what they carry to stay in the
// second-level cache.
inline constexpr std::int64_t decode_tokens = 48;

struct DecodeLayer {  // packed matrices
  const void* wqkv;
  const void* wo;
  const void* fc1;
  const void* fc2;
};

// A model as the kernels read it and its caches. "number" as in abi.h. A stride is that of tokens
// in the working space, at least the columns of whole panels.
struct Decode {
  std::int64_t vocab, n_embd, n_layer, n_head, head_dim, block_size, past_embeds;
  std::int64_t ngram_rows, ngram_longest;
  std::int64_t lookback;  // so many tokens before a token count where it is embedded
  bool squared, qk_norm, input_norm, rotates;
  double eps, softcap;
  const void* wte;            // ((past_embeds + 1) · vocab + ngram_rows, n_embd) numbers
  const void* wpe;            // (block_size, n_embd) numbers, or null
  const void* lm_head;        // packed
  const DecodeLayer* layers;  // n_layer
  std::int64_t rows;
  // Keys lie with the slots side by side, so that a vector holds one dimension of several of them;
  // values as they are summed, a slot's dimensions side by side.
  void* keys;                       // (n_layer, rows, n_head, head_dim, slots) numbers
  void* values;                     // (n_layer, rows, n_head, block_size, value_width) numbers
  std::int64_t slots, value_width;  // block_size and head_dim filled up to whole vectors
  std::int64_t embd_stride, qkv_stride, inner_stride;
};

struct DecodeStep {
  // (rows, lookback + width): before each row's own tokens those that were read last, or −1
  // where there were none.
  const std::int64_t* tokens;
  std::int64_t width, first;  // position of the first of them
  const void* cosines;        // (width, head_dim / 2) numbers, where the model rotates
  const void* sines;
  void* logits;  // (rows, vocab) numbers
};

struct DecodeTable {
  std::int64_t vector_bytes;
  // A matrix (outputs, inputs) in panels of two vectors of outputs; in each, input by input, the
  // weights of its outputs side by side, 0 beyond the last output.
  void (*pack[dtype_count])(const void* matrix, std::int64_t outputs, std::int64_t inputs,
                            void* packed) noexcept;
  // Rows first_row … last_row − 1. scratch: for each of decode_tokens tokens 2 · embd_stride +
  // qkv_stride + inner_stride numbers, and slots numbers, aligned to 64 bytes.
  void (*run[dtype_count])(const Decode&, const DecodeStep&, std::int64_t first_row,
                           std::int64_t last_row, void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_DECODE_HPP_

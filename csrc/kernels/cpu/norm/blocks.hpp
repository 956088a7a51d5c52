// What a transformer block does between its matrix products, over a few rows or one head, one table
// of functions for each instruction set. What they compute is in abi.h. Included by files under the
// rule of simd/vector.hpp: no functions here.
#ifndef NANOCHAT_KERNELS_CPU_BLOCKS_HPP_
#define NANOCHAT_KERNELS_CPU_BLOCKS_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/rows.hpp"
#include "kernels/nck.h"

namespace nanochat::kernels {

// "number" as in abi.h: float, or double for NCK_FLOAT64; "element": of the call's dtype.
struct RmsNorm {
  const void* x;       // numbers
  const void* branch;  // elements, or null
  std::int64_t width;
  double eps;
  void* sum;      // numbers, may be x; null where branch is
  void* normed;   // elements
  void* inverse;  // a number a row
};

struct RmsNormBackward {
  const void* gradient;  // elements, of what was normed
  const void* x;         // numbers, what was normed
  const void* inverse;   // a number a row
  const void* onto;      // numbers
  std::int64_t width;
  void* result;  // numbers, may be onto
  void* narrow;  // elements, or null
};

struct Embed {
  nck_embeddings embeddings;
  const std::int64_t* tokens;  // (rows, columns)
  std::int64_t rows, columns;
  const std::int64_t* starts;  // the first column of its row that a token looks back to, or null
  const void* from;            // numbers: the table, or the gradient of the sums
  void* to;                    // numbers: the sums, or the table's gradient
};

struct Attention {
  nck_attention_shape shape;
  const void* qkv;                // elements
  const void* cosines;            // numbers, or null: no rotation
  const void* sines;              // numbers
  const std::int64_t* positions;  // a row of cosines and sines for each token
  const std::int64_t* starts;     // the first visible column for each token, or null for 0
  const void* gradient;           // elements, of the mixed values; backward alone
  void* result;                   // elements: mixed values, or the gradient of qkv
};

struct BlockTable {
  void (*rms_norm[dtypes])(const RmsNorm&, std::int64_t first, std::int64_t last) noexcept;
  void (*rms_norm_backward[dtypes])(const RmsNormBackward&, std::int64_t first,
                                    std::int64_t last) noexcept;
  // Elements first … last − 1.
  void (*activation[dtypes])(const void* x, bool squared, void* result, std::int64_t first,
                             std::int64_t last) noexcept;
  void (*activation_backward[dtypes])(const void* x, bool squared, void* gradient,
                                      std::int64_t first, std::int64_t last) noexcept;
  // Of numbers, NCK_FLOAT32 or NCK_FLOAT64. Tokens first … last − 1; columns of the table.
  void (*embed[2])(const Embed&, std::int64_t first, std::int64_t last) noexcept;
  void (*embed_backward[2])(const Embed&, std::int64_t first, std::int64_t last) noexcept;
};

struct AttentionTable {
  // One head of one row. scratch: attention_scratch(shape) bytes, aligned to 64.
  void (*forward[dtypes])(const Attention&, std::int64_t row, std::int64_t head,
                          void* scratch) noexcept;
  void (*backward[dtypes])(const Attention&, std::int64_t row, std::int64_t head,
                           void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_BLOCKS_HPP_

// One call of the cross-entropy kernel, and the functions of one instruction set. Follows the rule
// of simd/vector.hpp: no functions are defined here. "accum": of the accumulation dtype, double for
// NCK_FLOAT64 and float otherwise.
#ifndef NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_CROSS_ENTROPY_HPP_
#define NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_CROSS_ENTROPY_HPP_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct CrossEntropy {
  const void* logits;
  std::int64_t vocab, row_stride;  // row_stride in elements
  const std::int64_t* targets;     // each a token or ignore_index
  const void* class_weights;       // (vocab) accum, or null for ones
  const void* token_weights;       // (rows) accum, or null for ones
  double class_weight_sum;         // Σ class_weights
  std::int64_t ignore_index;
  double label_smoothing, z_loss, softcap;
  const void* upstream;  // accum, or null for ones
  std::int64_t upstream_stride;
  double scale;    // a factor of every gradient, besides upstream
  void* gradient;  // of the logits' dtype, or null
  std::int64_t gradient_stride;
  bool correct;    // whether to compute result.correct
  bool streaming;  // the gradient is larger than the caches and is not read soon
};

// The most rows of one call.
inline constexpr std::int64_t cross_entropy_rows = 256;

// The most short rows that are computed together, and the bytes of their exponentials, which fit in
// the first-level cache together with the rows.
inline constexpr std::int64_t short_rows = 32, short_rows_bytes = 18 << 10;

struct CrossEntropyResult {  // element i belongs to row first + i; 0 for ignored rows
  double losses[cross_entropy_rows];
  double log_sums[cross_entropy_rows];
  bool correct[cross_entropy_rows];
};

struct CrossEntropyTable {
  // Rows first … last − 1. scratch: cross_entropy_scratch(vocab, dtype) bytes, aligned to 64.
  void (*rows[dtype_count])(const CrossEntropy&, std::int64_t first, std::int64_t last,
                            void* scratch, CrossEntropyResult& result) noexcept;
};

// The rows of one chunk. Depends on the shape only, because the chunks determine the order of sums
// over the rows.
std::int64_t cross_entropy_rows_per_chunk(std::int64_t rows, std::int64_t vocab) noexcept;

// The bytes of working space for a call of CrossEntropyTable::rows.
std::size_t cross_entropy_scratch(std::int64_t vocab, std::int32_t dtype) noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_CROSS_ENTROPY_HPP_

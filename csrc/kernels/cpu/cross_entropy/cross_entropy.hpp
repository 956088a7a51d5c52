// One call of the cross-entropy kernel, and its functions of one instruction set.
// Read by files that follow the rule of simd/vector.hpp, so it defines no functions.
#ifndef NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_CROSS_ENTROPY_HPP_
#define NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_CROSS_ENTROPY_HPP_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct CrossEntropy {
  const void* logits;
  std::int64_t vocab, row_stride;  // elements
  const std::int64_t* targets;     // each a token or ignore_index
  const void* class_weights;       // numbers, or null for ones
  const void* token_weights;       // numbers, or null for ones
  double class_weight_sum;         // Σ class_weights
  std::int64_t ignore_index;
  double label_smoothing, z_loss, softcap;
  const void* upstream;  // numbers, or null for ones
  std::int64_t upstream_stride;
  double scale;    // of every gradient, besides upstream
  void* gradient;  // of the logits' type, or null
  std::int64_t gradient_stride;
  bool correct;    // whether result.correct is wanted
  bool streaming;  // the gradient is larger than the caches and not read soon
};

// At most this many rows at a time.
inline constexpr std::int64_t cross_entropy_rows = 256;

// At most this many short rows are worked on together, in so many bytes of working space: what the
// first-level cache holds beside the rows themselves.
inline constexpr std::int64_t short_rows = 32, short_space = 18 << 10;

struct CrossEntropyResult {  // of row `first` + i at i; 0 for ignored rows
  double losses[cross_entropy_rows];
  double log_sums[cross_entropy_rows];
  bool correct[cross_entropy_rows];
};

struct CrossEntropyTable {
  // Rows first … last − 1. scratch: cross_entropy_scratch(vocab, dtype) bytes, aligned to 64.
  void (*rows[dtype_count])(const CrossEntropy&, std::int64_t first, std::int64_t last,
                            void* scratch, CrossEntropyResult& result) noexcept;
};

// Bytes of working space that a call of CrossEntropyTable::rows needs.
std::size_t cross_entropy_scratch(std::int64_t vocab, std::int32_t dtype) noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_CROSS_ENTROPY_CROSS_ENTROPY_HPP_

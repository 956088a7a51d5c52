// The kernels over a few rows, one table of functions for each instruction set. What they compute
// is in abi.h; arguments are checked and rows shared out before they are called. Included by files
// under the rule of simd/vector.hpp: no functions here.
#ifndef NANOCHAT_KERNELS_CPU_ROWS_HPP_
#define NANOCHAT_KERNELS_CPU_ROWS_HPP_

#include <cstdint>

namespace nanochat::kernels {

inline constexpr int dtypes = 4;  // NCK_FLOAT32 … NCK_FLOAT16 are the indices of a table

// "number" as in abi.h: float, or double for NCK_FLOAT64.
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

struct ScaleRows {
  const void* matrix;
  std::int64_t vocab, row_stride;
  const void* upstream;  // numbers
  std::int64_t upstream_stride;
  void* result;
  std::int64_t result_stride;
};

struct Sample {
  const void* logits;
  std::int64_t vocab, row_stride;
  float scale;          // inverse_temperature
  std::int64_t top_k;   // 0: all
  std::uint64_t share;  // share_of top_p
  std::int64_t* tokens;
};

// At most this many rows at a time.
inline constexpr std::int64_t sample_rows = 64;
// Bytes of working space for each token of a row and of sample_pad more.
inline constexpr std::int64_t sample_bytes = 52, sample_pad = 128;

struct SampleTable {
  // random: the integer of row `first` + i at i. scratch: sample_bytes · (vocab + sample_pad)
  // bytes, aligned to 64.
  void (*rows[dtypes])(const Sample&, std::int64_t first, std::int64_t last,
                       const std::uint64_t* random, void* scratch) noexcept;
};

struct BlockTable;      // blocks.hpp
struct AttentionTable;  // blocks.hpp
struct DecodeTable;

struct Tables {
  // Rows first … last − 1. scratch: cross_entropy_scratch(vocab) bytes, aligned to 64.
  void (*cross_entropy[dtypes])(const CrossEntropy&, std::int64_t first, std::int64_t last,
                                void* scratch, CrossEntropyResult& result) noexcept;
  void (*scale_rows[dtypes])(const ScaleRows&, std::int64_t first, std::int64_t last) noexcept;
  const SampleTable* sample;
  const BlockTable* blocks;
  const AttentionTable* attention;
  const DecodeTable* decode;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_ROWS_HPP_

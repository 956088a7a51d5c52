// One call of the mixture's loss, and the functions of one instruction set. Follows the rule of
// simd/vector.hpp: no functions are defined here. "accum": of the accumulation dtype.
#ifndef NANOCHAT_KERNELS_CPU_MIXTURE_MIXTURE_HPP_
#define NANOCHAT_KERNELS_CPU_MIXTURE_MIXTURE_HPP_

#include <cstdint>

#include "kernels/cpu/cross_entropy/cross_entropy.hpp"
#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct Mixture {
  const void* logits;
  std::int64_t outputs, row_stride;  // outputs: the tokens and the share of the counts
  const std::int64_t* targets;       // each a token or ignore_index
  const float* by_counts;            // (rows) probability of the target by the counts
  std::int64_t ignore_index;
  double network_weight, softcap, share_offset;
  void* gradient;  // of the logits' dtype, or null
  std::int64_t gradient_stride;
};

struct MixtureResult {  // element i belongs to row first + i; 0 for ignored rows
  double mixed[cross_entropy_rows];
  double network[cross_entropy_rows];
};

// What is done to the logarithm of the counts' share against that of the tokens.
struct Share {
  double scale, offset;
};

struct MixtureTable {
  // Rows first … last − 1, at most cross_entropy_rows. scratch: cross_entropy_scratch(outputs,
  // dtype) bytes, aligned to 64.
  void (*rows[dtype_count])(const Mixture&, std::int64_t first, std::int64_t last, void* scratch,
                            MixtureResult& result) noexcept;
  // NCK_FLOAT32 and NCK_FLOAT64: replaces the probability of each of `tokens` tokens by the counts
  // with its log probability by the mixture. logits: of the tokens and of the counts' share.
  void (*log_probabilities[2])(const void* logits, std::int64_t tokens, const Share& share,
                               double* probabilities) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_MIXTURE_MIXTURE_HPP_

// One call of the token draw, and the functions of one instruction set. Follows the rule of
// simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_SAMPLE_SAMPLE_HPP_
#define NANOCHAT_KERNELS_CPU_SAMPLE_SAMPLE_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct Sample {
  const void* logits;
  std::int64_t vocab, row_stride;
  float scale;          // inverse_temperature
  std::int64_t top_k;   // 0: all
  std::uint64_t share;  // share_of top_p
  std::int64_t* tokens;
};

// The most rows of one call.
inline constexpr std::int64_t sample_rows = 64;
// Bytes of working space per token of a row and of sample_pad more tokens.
inline constexpr std::int64_t sample_bytes = 52, sample_pad = 128;

struct SampleTable {
  // random: element i is the integer of row first + i. scratch: sample_bytes · (vocab + sample_pad)
  // bytes, aligned to 64.
  void (*rows[dtype_count])(const Sample&, std::int64_t first, std::int64_t last,
                            const std::uint64_t* random, void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_SAMPLE_SAMPLE_HPP_

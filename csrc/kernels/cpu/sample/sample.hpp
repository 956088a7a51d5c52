// One call of the token draw, and its functions of one instruction set.
// Read by files that follow the rule of simd/vector.hpp, so it defines no functions.
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

// At most this many rows at a time.
inline constexpr std::int64_t sample_rows = 64;
// Bytes of working space for each token of a row and of sample_pad more.
inline constexpr std::int64_t sample_bytes = 52, sample_pad = 128;

struct SampleTable {
  // random: the integer of row `first` + i at i. scratch: sample_bytes · (vocab + sample_pad)
  // bytes, aligned to 64.
  void (*rows[dtype_count])(const Sample&, std::int64_t first, std::int64_t last,
                            const std::uint64_t* random, void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_SAMPLE_SAMPLE_HPP_

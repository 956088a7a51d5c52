// One call of attention or of its derivative, and their functions of one instruction set.
// Read by files that follow the rule of simd/vector.hpp, so it defines no functions.
#ifndef NANOCHAT_KERNELS_CPU_ATTENTION_ATTENTION_HPP_
#define NANOCHAT_KERNELS_CPU_ATTENTION_ATTENTION_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"
#include "kernels/nck.h"

namespace nanochat::kernels {

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

struct AttentionTable {
  // One head of one row. scratch: attention_scratch(shape) bytes, aligned to 64.
  void (*forward[dtype_count])(const Attention&, std::int64_t row, std::int64_t head,
                               void* scratch) noexcept;
  void (*backward[dtype_count])(const Attention&, std::int64_t row, std::int64_t head,
                                void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_ATTENTION_ATTENTION_HPP_

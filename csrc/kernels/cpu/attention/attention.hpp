// One call of attention or its derivative, and the functions of one instruction set. Follows the
// rule of simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_ATTENTION_ATTENTION_HPP_
#define NANOCHAT_KERNELS_CPU_ATTENTION_ATTENTION_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"
#include "kernels/nck.h"

namespace nanochat::kernels {

struct Attention {
  nck_attention_shape shape;
  const void* qkv;                // elements of the dtype
  const void* cosines;            // accumulation dtype; null: no rotation
  const void* sines;              // accumulation dtype
  const std::int64_t* positions;  // the row of cosines and sines for each token
  const std::int64_t* starts;     // the first visible column for each token; null: 0
  const void* gradient;           // elements, of the mixed values; backward only
  void* result;                   // elements: the mixed values, or the gradient of qkv
};

struct AttentionTable {
  // Computes one head of one row. scratch: the bytes that attention.cpp computes, aligned to 64.
  void (*forward[dtype_count])(const Attention&, std::int64_t row, std::int64_t head,
                               void* scratch) noexcept;
  void (*backward[dtype_count])(const Attention&, std::int64_t row, std::int64_t head,
                                void* scratch) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_ATTENTION_ATTENTION_HPP_

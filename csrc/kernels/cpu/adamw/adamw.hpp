// One call of AdamW, and the functions of one instruction set. Follows the rule of simd/vector.hpp:
// no functions are defined here. "accum": of the accumulation dtype.
#ifndef NANOCHAT_KERNELS_CPU_ADAMW_ADAMW_HPP_
#define NANOCHAT_KERNELS_CPU_ADAMW_ADAMW_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct AdamW {
  void *values, *gradients, *m, *v;  // accum
  void* computed;                    // of the dtype, or null
  std::int64_t first_computed;       // the copy begins with this element
  double beta1, beta2, eps;
  double clip;               // factor of the gradients
  double root_correction_2;  // √(1 − beta2^count)
};

// What differs between weights with unlike learning rates.
struct AdamWRate {
  double decay;  // 1 − lr · weight_decay
  double step;   // lr / (1 − beta1^count)
};

struct AdamWTable {
  // Returns the sum of the squares of elements first … last − 1.
  double (*squares[dtype_count])(const void* gradients, std::int64_t first,
                                 std::int64_t last) noexcept;
  // Elements first … last − 1: updates values and moments, sets the gradients to 0.
  void (*update[dtype_count])(const AdamW&, const AdamWRate&, std::int64_t first,
                              std::int64_t last) noexcept;
  // Multiplies the gradients first … last − 1 by clip.
  void (*clip[dtype_count])(const AdamW&, std::int64_t first, std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_ADAMW_ADAMW_HPP_

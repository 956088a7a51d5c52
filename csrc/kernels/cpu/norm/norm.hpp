// One call of the RMS norm or of its derivative, and their functions of one instruction set.
// Read by files that follow the rule of simd/vector.hpp, so it defines no functions.
#ifndef NANOCHAT_KERNELS_CPU_NORM_NORM_HPP_
#define NANOCHAT_KERNELS_CPU_NORM_NORM_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

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

struct NormTable {
  // Rows first … last − 1.
  void (*forward[dtype_count])(const RmsNorm&, std::int64_t first, std::int64_t last) noexcept;
  void (*backward[dtype_count])(const RmsNormBackward&, std::int64_t first,
                                std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_NORM_NORM_HPP_

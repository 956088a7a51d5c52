// One call of the RMS norm or its derivative, and the functions of one instruction set. Follows the
// rule of simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_NORM_NORM_HPP_
#define NANOCHAT_KERNELS_CPU_NORM_NORM_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

// "accum": of the accumulation dtype, double for NCK_FLOAT64 and float otherwise; "elements": of
// the call's dtype.
struct RmsNorm {
  const void* x;             // (rows, hidden_size) accum
  const void* branch;        // elements, or null
  const std::uint8_t* mask;  // of the branch, or null
  double scale;
  std::int64_t hidden_size;
  double eps;
  void* sum;      // accum, may be x; null if branch is null
  void* normed;   // elements
  void* inverse;  // (rows) accum
};

struct RmsNormBackward {
  const void* gradient;  // elements, of the normed rows
  const void* x;         // accum, the input of the norm
  const void* inverse;   // (rows) accum
  const void* onto;      // accum
  std::int64_t hidden_size;
  void* result;              // accum, may be onto
  void* stored_result;       // elements, or null
  const std::uint8_t* mask;  // of stored_result, or null
  double scale;
};

struct NormTable {
  // Rows first … last − 1.
  void (*forward[dtype_count])(const RmsNorm&, std::int64_t first, std::int64_t last) noexcept;
  void (*backward[dtype_count])(const RmsNormBackward&, std::int64_t first,
                                std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_NORM_NORM_HPP_

// Replaces CUDA's header of the same name, as far as the kernels use it.
#ifndef NANOCHAT_TESTS_CUDA_FP16_H_
#define NANOCHAT_TESTS_CUDA_FP16_H_

#include "float_formats.hpp"

struct __half {
  unsigned short bits;
};
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline float __half2float(__half value) {
  return static_cast<float>(kernel_testing::widen(kernel_testing::float16, value.bits));
}
inline __half __float2half_rn(float value) {
  return {kernel_testing::narrow(kernel_testing::float16, value)};
}

#endif  // NANOCHAT_TESTS_CUDA_FP16_H_

// Replaces CUDA's header of the same name, as far as the kernels use it.
#ifndef NANOCHAT_TESTS_CUDA_BF16_H_
#define NANOCHAT_TESTS_CUDA_BF16_H_

#include "float_formats.hpp"

struct __nv_bfloat16 {
  unsigned short bits;
};
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return {kernel_testing::narrow(kernel_testing::bfloat16, value)};
}

#endif  // NANOCHAT_TESTS_CUDA_BF16_H_

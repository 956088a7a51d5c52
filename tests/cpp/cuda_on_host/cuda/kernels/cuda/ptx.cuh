// Replaces csrc/kernels/cuda/ptx.cuh: the same functions in C++.
#ifndef NANOCHAT_TESTS_PTX_CUH_
#define NANOCHAT_TESTS_PTX_CUH_

#include <cuda_runtime.h>

#include <cmath>
#include <limits>

#pragma GCC visibility push(default)
namespace host_gpu {

uint4* dynamic_shared_memory();
void start_copy(uint4* shared, const uint4* global);
void close_copy_group();
void wait_for_copy_groups(int pending);
void store_16_bytes(uint4* global, const uint4& value);

}  // namespace host_gpu
#pragma GCC visibility pop

namespace nanochat::kernels {

inline uint4* dynamic_shared_memory() { return host_gpu::dynamic_shared_memory(); }
inline void copy_async(uint4* shared, const uint4* global) { host_gpu::start_copy(shared, global); }
inline void commit_copies() { host_gpu::close_copy_group(); }
template <int pending>
void wait_for_copies() {
  host_gpu::wait_for_copy_groups(pending);
}
inline void store_16_bytes(uint4* global, const uint4& value) {
  host_gpu::store_16_bytes(global, value);
}

// Exact at 0 only, and otherwise as far off as the instruction may be, in a direction that looks
// random.
inline float fast_exp2(float x) {
  const float power = ::exp2f(x);
  if (power < std::numeric_limits<float>::min()) return 0.0f;
  if (x == 0.0f) return power;
  return power * ((__float_as_uint(x) & 1U) == 0 ? 1 + 0x1p-22f : 1 - 0x1p-22f);
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_TESTS_PTX_CUH_

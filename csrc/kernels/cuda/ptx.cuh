// Everything of the CUDA sources that is not C++: inline PTX statements and declarations of dynamic
// shared memory, each behind a function. A header with the same functions in plain C++ lets a host
// compiler build the kernels.
#ifndef NANOCHAT_KERNELS_CUDA_PTX_CUH_
#define NANOCHAT_KERNELS_CUDA_PTX_CUH_

#include <cuda_runtime.h>

namespace nanochat::kernels {

// The block's dynamic shared memory.
inline __device__ uint4* dynamic_shared_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}

// Starts to copy 16 bytes from global to shared memory. The copy belongs to the thread's next
// group.
inline __device__ void copy_async(uint4* shared, const uint4* global) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}

// Closes a group of the copies that the thread has started since the last group.
inline __device__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of the thread's latest groups are still on their way.
template <int pending>
inline __device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Stores 16 bytes at once; the compiler splits an assignment into four stores of a word.
inline __device__ void store_16_bytes(uint4* global, const uint4& value) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}

// 2^x within two units in the last place; subnormal results are 0.
inline __device__ float fast_exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_PTX_CUH_

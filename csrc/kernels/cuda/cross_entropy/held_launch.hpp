// The launch sizes of the kernels that hold a row in shared memory.
#ifndef NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_LAUNCH_HPP_
#define NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_LAUNCH_HPP_

#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/slots.cuh"

namespace nanochat::kernels {

// The slots of a row at the worst alignment.
inline std::int64_t most_slots(std::int64_t vocab, std::int32_t dtype) {
  const std::int64_t elements = slot_bytes / element_bytes(dtype);
  return (vocab + elements - 2) / elements + 1;
}

// The threads of a block: each has a few slots.
inline int threads_for(std::int64_t slots) {
  return slots <= 1024 ? 128 : slots <= 3072 ? 256 : 512;
}

// The largest dynamic shared memory of a block. The kernels' static shared memory fits in 1 KiB.
inline std::int64_t most_shared() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 1024;
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_LAUNCH_HPP_

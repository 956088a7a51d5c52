// Working space of the calling thread, kept from call to call.
#ifndef NANOCHAT_KERNELS_CPU_SCRATCH_HPP_
#define NANOCHAT_KERNELS_CPU_SCRATCH_HPP_

#include <cstddef>

namespace nanochat::kernels {

// At least `bytes`, aligned to 64, until this thread's next call; null where there is no memory.
void* scratch(std::size_t bytes) noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_SCRATCH_HPP_

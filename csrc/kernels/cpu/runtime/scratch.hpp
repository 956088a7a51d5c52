// Working space of the calling thread, kept between calls.
#ifndef NANOCHAT_KERNELS_CPU_SCRATCH_HPP_
#define NANOCHAT_KERNELS_CPU_SCRATCH_HPP_

#include <cstddef>

namespace nanochat::kernels {

// Returns at least `bytes`, aligned to 64 and valid until the thread's next call, or null if there
// is not enough memory.
void* scratch(std::size_t bytes) noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_SCRATCH_HPP_

// The size of a table with one function per element type.
#ifndef NANOCHAT_KERNELS_CPU_RUNTIME_DTYPES_HPP_
#define NANOCHAT_KERNELS_CPU_RUNTIME_DTYPES_HPP_

#include <cstdint>

namespace nanochat::kernels {

// NCK_FLOAT32 … NCK_FLOAT16 index such a table.
inline constexpr int dtype_count = 4;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_RUNTIME_DTYPES_HPP_

// One call of the kernel that scales rows, and the functions of one instruction set. Follows the
// rule of simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_SCALE_ROWS_SCALE_ROWS_HPP_
#define NANOCHAT_KERNELS_CPU_SCALE_ROWS_SCALE_ROWS_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct ScaleRows {
  const void* matrix;
  std::int64_t vocab, row_stride;
  const void* upstream;  // accumulation dtype
  std::int64_t upstream_stride;
  void* result;
  std::int64_t result_stride;
};

struct ScaleRowsTable {
  void (*rows[dtype_count])(const ScaleRows&, std::int64_t first, std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_SCALE_ROWS_SCALE_ROWS_HPP_

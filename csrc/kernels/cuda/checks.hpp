// Checks of arguments that only the CUDA library needs.
#ifndef NANOCHAT_KERNELS_CUDA_CHECKS_HPP_
#define NANOCHAT_KERNELS_CUDA_CHECKS_HPP_

#include <cstdint>

#include "kernels/checks.hpp"

namespace nanochat::kernels {

// Rows are blocks of a grid.
inline constexpr std::int64_t most_rows = (std::int64_t{1} << 31U) - 1;

inline void check_cuda_sizes(std::int64_t rows, std::int64_t vocab, std::int32_t dtype) {
  if (dtype == NCK_FLOAT64) {
    throw Failure(NCK_ARGUMENT,
                  "dtype must be NCK_FLOAT32, NCK_BFLOAT16 or NCK_FLOAT16 on a GPU, got "
                  "NCK_FLOAT64: the CPU library has it");
  }
  element_bytes(dtype);
  if (rows < 0 || rows > most_rows) {
    throw Failure(NCK_ARGUMENT, "rows must be in [0, 2^31) on a GPU, got %lld", (long long)rows);
  }
  if (vocab < 1 || vocab > most_vocab) {
    throw Failure(NCK_ARGUMENT, "vocab must be in [1, 2^30], got %lld", (long long)vocab);
  }
}

inline void check_cuda_matrix(const char* name, const void* data, std::int64_t rows,
                              std::int64_t vocab, std::int64_t stride, std::int32_t dtype) {
  check_cuda_sizes(rows, vocab, dtype);
  check_matrix(name, data, rows, vocab, stride, dtype);
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(element_bytes(dtype)) !=
      0) {
    throw Failure(NCK_ARGUMENT, "%s must be aligned to its elements, got address %p", name, data);
  }
}

inline void check_workspace(const void* workspace) {
  check_pointer(workspace, "workspace");
  if (reinterpret_cast<std::uintptr_t>(workspace) % 16 != 0) {
    throw Failure(NCK_ARGUMENT, "workspace must be aligned to 16 bytes, got %p", workspace);
  }
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CHECKS_HPP_

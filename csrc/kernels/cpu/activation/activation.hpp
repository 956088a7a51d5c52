// The functions of the activation kernel of one instruction set. Follows the rule of
// simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_ACTIVATION_ACTIVATION_HPP_
#define NANOCHAT_KERNELS_CPU_ACTIVATION_ACTIVATION_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

struct ActivationTable {
  // Elements first … last − 1.
  void (*forward[dtype_count])(const void* x, bool squared, void* result, std::int64_t first,
                               std::int64_t last) noexcept;
  void (*backward[dtype_count])(const void* x, bool squared, void* gradient, std::int64_t first,
                                std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_ACTIVATION_ACTIVATION_HPP_

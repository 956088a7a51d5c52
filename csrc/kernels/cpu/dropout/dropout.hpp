// One call of a dropout kernel, and the functions of one instruction set. Follows the rule of
// simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_DROPOUT_DROPOUT_HPP_
#define NANOCHAT_KERNELS_CPU_DROPOUT_DROPOUT_HPP_

#include <cstdint>

#include "kernels/cpu/runtime/dtypes.hpp"

namespace nanochat::kernels {

// The masks of all places: byte i of a place holds the eight decisions of Philox block i.
struct DropoutMasks {
  std::uint32_t seed, step, microbatch, rank;
  std::uint32_t most;  // a 16-bit number up to this one keeps its element
  std::int64_t bytes;  // per place
  std::uint8_t* masks;
};

struct Dropout {
  const void* x;     // elements
  const void* onto;  // (rows, hidden_size) accum, or null
  const std::uint8_t* mask;
  std::int64_t hidden_size;
  double scale;
  void* result;  // elements, may be x
};

struct DropoutTable {
  // Bytes first … last − 1 of one place.
  void (*draw)(const DropoutMasks&, std::uint32_t place, std::int64_t first,
               std::int64_t last) noexcept;
  // Rows first … last − 1.
  void (*apply[dtype_count])(const Dropout&, std::int64_t first, std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_DROPOUT_DROPOUT_HPP_

// Shared by the tests of the kernels: a loop over the instruction sets that this processor
// supports, and conversions of 16-bit formats.
#ifndef NANOCHAT_TESTS_KERNEL_TESTING_HPP_
#define NANOCHAT_TESTS_KERNEL_TESTING_HPP_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "float_formats.hpp"
#include "kernels/cpu/runtime/tables.hpp"
#include "kernels/nck.h"
#include "simd/instruction_set.hpp"
#include "testing.hpp"

namespace kernel_testing {

using nanochat::kernels::Tables;

// Calls body(name, tables) for every set that runs on this processor; "portable" always does.
template <class Body>
void for_each_set(const Body& body) {
  for (const char* name : nanochat::simd::instruction_sets) {
    if (const Tables* const tables = nanochat::kernels::tables_named(name)) body(name, *tables);
  }
}

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace kernel_testing

#endif  // NANOCHAT_TESTS_KERNEL_TESTING_HPP_

// The row kernels of one instruction set, and which set's run.
#ifndef NANOCHAT_KERNELS_CPU_TABLES_HPP_
#define NANOCHAT_KERNELS_CPU_TABLES_HPP_

#include <cstddef>

#include "kernels/cpu/runtime/rows.hpp"

namespace nanochat::kernels {

// Of simd::chosen_instruction_set(). Throws std::invalid_argument as it does.
const Tables& tables();
// Null where this build or processor has no such set.
const Tables* tables_named(const char* name) noexcept;
// Bytes of working space that a call of cross_entropy needs, aligned to 64.
std::size_t cross_entropy_scratch(std::int64_t vocab, std::int32_t dtype) noexcept;
// The chosen set's name, or "none" where NCLAB_SIMD names none that runs.
const char* tables_name() noexcept;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_TABLES_HPP_

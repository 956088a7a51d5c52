// The choice of an instruction set. Every vector kernel is compiled once per set, into a namespace
// with the set's name. The best set that this processor supports is chosen when the process starts,
// unless NCLAB_SIMD names another.
#ifndef NANOCHAT_SIMD_INSTRUCTION_SET_HPP_
#define NANOCHAT_SIMD_INSTRUCTION_SET_HPP_

namespace nanochat::simd {

// "avx512bf16" is avx512 with bfloat16 conversions; "portable" runs everywhere.
inline constexpr const char* instruction_sets[] = {"avx512bf16", "avx512", "avx2", "portable"};

// Returns whether this build has code for the set and this processor supports it.
bool runs(const char* instruction_set) noexcept;

// Returns one of instruction_sets, the best first. Throws std::invalid_argument if NCLAB_SIMD names
// a set that does not run on this processor.
const char* chosen_instruction_set();

}  // namespace nanochat::simd

#endif  // NANOCHAT_SIMD_INSTRUCTION_SET_HPP_

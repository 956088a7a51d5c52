// Which instruction set's code runs. Every vector kernel is compiled once for each set, into a
// namespace of its name; the best that this processor runs is chosen when the process starts, or
// the one that NCLAB_SIMD names.
#ifndef NANOCHAT_SIMD_INSTRUCTION_SET_HPP_
#define NANOCHAT_SIMD_INSTRUCTION_SET_HPP_

namespace nanochat::simd {

// "avx512bf16" is avx512 with bfloat16 conversions; "portable" runs everywhere.
inline constexpr const char* instruction_sets[] = {"avx512bf16", "avx512", "avx2", "portable"};

// Whether this build has code for the set and this processor runs it.
bool runs(const char* instruction_set) noexcept;

// One of instruction_sets, best first. Throws std::invalid_argument where NCLAB_SIMD names none
// that runs here.
const char* chosen_instruction_set();

}  // namespace nanochat::simd

#endif  // NANOCHAT_SIMD_INSTRUCTION_SET_HPP_

// What each function of the C ABI that draws tokens does around the rows.
#ifndef NANOCHAT_KERNELS_CPU_SAMPLE_CALL_HPP_
#define NANOCHAT_KERNELS_CPU_SAMPLE_CALL_HPP_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/sample/sample.hpp"

namespace nanochat::kernels {

// Returns a call without logits and tokens. Throws Failure for an option that is out of range.
Sample checked_sample(std::int64_t vocab, double temperature, std::int64_t top_k, double top_p);

// The bytes of working space for rows of `vocab` tokens.
std::size_t sample_scratch(std::int64_t vocab) noexcept;

// Throws Failure for the first row from which no token could be drawn.
void refuse_rows_without_token(const std::int64_t* tokens, std::int64_t rows);

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_SAMPLE_CALL_HPP_

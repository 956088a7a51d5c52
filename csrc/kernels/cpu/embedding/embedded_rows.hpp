// The table rows that a token's embedding sums (abi.h). Follows the rule of simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_EMBEDDED_ROWS_HPP_
#define NANOCHAT_KERNELS_CPU_EMBEDDED_ROWS_HPP_

#include <cstdint>

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// Calls visit(row) for each table row of a token, the token's own row first. token[-k] is the k-th
// token before; it is read only if seen(k), which holds up to some k. sizes: any struct with the
// fields of nck_embeddings.
template <class Sizes, class Seen, class Visit>
inline void for_embedded_rows(const Sizes& sizes, const std::int64_t* token, const Seen& seen,
                              const Visit& visit) noexcept {
  constexpr std::uint64_t multiplier = 0x9E3779B97F4A7C15U;  // as in abi.h
  visit(token[0]);
  for (std::int64_t k = 1; k <= sizes.prev_token_tables && seen(k); ++k) {
    visit(k * sizes.vocab + token[-k]);
  }
  if (sizes.hash_embed_rows == 0) return;
  const auto rows = static_cast<std::uint64_t>(sizes.hash_embed_rows);
  const std::int64_t first = (sizes.prev_token_tables + 1) * sizes.vocab;
  std::uint64_t key = (static_cast<std::uint64_t>(token[0]) + 1) * multiplier;
  for (std::int64_t k = 1; k < sizes.hash_embed_longest && seen(k); ++k) {
    key = (key + static_cast<std::uint64_t>(token[-k]) + 1) * multiplier;
    visit(first + static_cast<std::int64_t>((key >> 32U) * rows >> 32U));
  }
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_EMBEDDED_ROWS_HPP_

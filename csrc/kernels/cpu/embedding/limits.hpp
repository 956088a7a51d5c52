// The largest sizes of an embedding that a call accepts.
#ifndef NANOCHAT_KERNELS_CPU_EMBEDDING_LIMITS_HPP_
#define NANOCHAT_KERNELS_CPU_EMBEDDING_LIMITS_HPP_

#include <cstdint>

namespace nanochat::kernels {

// With these limits no product of sizes overflows 63 bits.
inline constexpr std::int64_t most_embd = 1 << 16, most_past = 1 << 10,
                              most_hash_embed_rows = std::int64_t{1} << 31;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_EMBEDDING_LIMITS_HPP_

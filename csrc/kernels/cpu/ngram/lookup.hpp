// Probabilities from the counts: interpolated modified Kneser–Ney smoothing.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_LOOKUP_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_LOOKUP_HPP_

#include "kernels/cpu/ngram/table.hpp"

namespace nanochat::kernels::ngram {

// The tokens before a target: text[0 … length − 1] without BOS, after BOS if begins is true.
struct Context {
  const std::int64_t* text;
  std::int64_t length;
  bool begins;
};

struct Lookup {
  Context context;
  std::uint32_t target;
  double* result;  // of the least order
};

// Lookups that wait for memory together.
inline constexpr int most_lookups = 16;

// Writes −log p(target) of at most most_lookups for the orders least_order, least_order + 1 …
// most_order, `stride` elements apart.
void losses(const View& table, const Lookup* lookups, int count, int least_order, int most_order,
            std::int64_t stride) noexcept;

// Writes the probabilities of all tokens.
void distribution(const View& table, const Context& context, int order, double* result) noexcept;

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_LOOKUP_HPP_

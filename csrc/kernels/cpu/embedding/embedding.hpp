// One call of the embedding or its derivative, and the functions of one instruction set. Follows
// the rule of simd/vector.hpp: no functions are defined here.
#ifndef NANOCHAT_KERNELS_CPU_EMBEDDING_EMBEDDING_HPP_
#define NANOCHAT_KERNELS_CPU_EMBEDDING_EMBEDDING_HPP_

#include <cstdint>

#include "kernels/nck.h"

namespace nanochat::kernels {

struct Embed {
  nck_embeddings embeddings;
  const std::int64_t* tokens;  // (rows, columns)
  std::int64_t rows, columns;
  const std::int64_t* starts;  // the first column that each token looks back to, or null
  const void* input;           // the table, or the gradient of the sums
  void* output;                // the sums, or the table's gradient
};

struct EmbedTable {
  // NCK_FLOAT32 and NCK_FLOAT64 only. Tokens first … last − 1.
  void (*forward[2])(const Embed&, std::int64_t first, std::int64_t last) noexcept;
  // Columns first … last − 1 of the table.
  void (*backward[2])(const Embed&, std::int64_t first, std::int64_t last) noexcept;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_EMBEDDING_EMBEDDING_HPP_

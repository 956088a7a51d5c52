// nck_embed and its derivative: arguments checked, tokens or columns shared out.
#include "kernels/cpu/embedding/embedding.hpp"

#include <algorithm>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/embedding/limits.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// Numbers that make a chunk worth a thread's while, and columns that no two threads share: a line
// of the cache is 64 bytes.
constexpr std::int64_t chunk_numbers = 16384, line_columns = 16;

void check_embed(const Embed& call, std::int32_t threads) {
  const nck_embeddings& of = call.embeddings;
  check_range("vocab", of.vocab, 1, most_vocab);
  check_range("width", of.width, 1, most_embd);
  check_range("past_embeds", of.past_embeds, 0, most_past);
  check_range("ngram_rows", of.ngram_rows, 0, most_ngram_rows);
  if (of.ngram_rows > 0) check_range("ngram_longest", of.ngram_longest, 2, most_past);
  if (of.dtype != NCK_FLOAT32 && of.dtype != NCK_FLOAT64) {
    throw Failure(NCK_ARGUMENT, "dtype must be NCK_FLOAT32 or NCK_FLOAT64, got %d", of.dtype);
  }
  check_range("rows", call.rows, 0, most_vocab);
  check_range("columns", call.columns, 0, most_vocab);
  check_threads(threads);
  const std::int64_t count = call.rows * call.columns;
  if (count == 0) return;
  check_pointer(call.tokens, "tokens");
  for (std::int64_t i = 0; i < count; ++i) {
    const auto row = static_cast<long long>(i / call.columns);
    const std::int64_t column = i % call.columns;
    if (call.tokens[i] < 0 || call.tokens[i] >= of.vocab) {
      throw Failure(NCK_ARGUMENT, "token %lld of row %lld must be in [0, %lld), got %lld",
                    static_cast<long long>(column), row, static_cast<long long>(of.vocab),
                    static_cast<long long>(call.tokens[i]));
    }
    if (call.starts != nullptr && (call.starts[i] < 0 || call.starts[i] > column)) {
      throw Failure(NCK_ARGUMENT, "start of token %lld of row %lld must be in [0, %lld], got %lld",
                    static_cast<long long>(column), row, static_cast<long long>(column),
                    static_cast<long long>(call.starts[i]));
    }
  }
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_embed(const nck_embeddings* embeddings, const void* table,
                                  const std::int64_t* tokens, std::int64_t rows,
                                  std::int64_t columns, const std::int64_t* starts, void* sums,
                                  std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(embeddings, "embeddings");
    const Embed call{*embeddings, tokens, rows, columns, starts, table, sums};
    check_embed(call, threads);
    if (rows * columns == 0) return;
    check_pointer(table, "table");
    check_pointer(sums, "sums");
    const auto kernel = tables().embed->forward[embeddings->dtype];
    const std::int64_t chunk = std::max<std::int64_t>(chunk_numbers / embeddings->width, 1);
    parallel_for(rows * columns, chunk, threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

extern "C" std::int32_t nck_embed_backward(const nck_embeddings* embeddings,
                                           const std::int64_t* tokens, std::int64_t rows,
                                           std::int64_t columns, const std::int64_t* starts,
                                           const void* gradient, void* table_gradient,
                                           std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(embeddings, "embeddings");
    const Embed call{*embeddings, tokens, rows, columns, starts, gradient, table_gradient};
    check_embed(call, threads);
    if (rows * columns == 0) return;
    check_pointer(gradient, "gradient");
    check_pointer(table_gradient, "table_gradient");
    const auto kernel = tables().embed->backward[embeddings->dtype];
    const std::int64_t width = embeddings->width;
    // Every thread reads all tokens: a share of the columns that is small is not worth it.
    const std::int64_t shares = rows * columns * width / chunk_numbers + 1;
    const std::int64_t share = width / std::min<std::int64_t>(shares, threads) + 1;
    const std::int64_t chunk = (share + line_columns - 1) / line_columns * line_columns;
    parallel_for(width, chunk, threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

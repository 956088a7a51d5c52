// nck_embed and nck_embed_backward: check the arguments and share tokens or columns among threads.
#include "kernels/cpu/embedding/embedding.hpp"

#include <algorithm>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/embedding/limits.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// The fewest values for which a thread is worth its start, and the columns of a 64-byte cache line,
// which no two threads share.
constexpr std::int64_t chunk_elements = 16384, line_columns = 16;

void check_embed(const Embed& call, std::int32_t threads) {
  const nck_embeddings& sizes = call.embeddings;
  check_range("vocab", sizes.vocab, 1, most_vocab);
  check_range("hidden_size", sizes.hidden_size, 1, most_embd);
  check_range("prev_token_tables", sizes.prev_token_tables, 0, most_past);
  check_range("hash_embed_rows", sizes.hash_embed_rows, 0, most_hash_embed_rows);
  if (sizes.hash_embed_rows > 0)
    check_range("hash_embed_longest", sizes.hash_embed_longest, 2, most_past);
  if (sizes.dtype != NCK_FLOAT32 && sizes.dtype != NCK_FLOAT64) {
    throw Failure(NCK_ARGUMENT, "dtype must be NCK_FLOAT32 or NCK_FLOAT64, got %d", sizes.dtype);
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
    if (call.tokens[i] < 0 || call.tokens[i] >= sizes.vocab) {
      throw Failure(NCK_ARGUMENT, "token %lld of row %lld must be in [0, %lld), got %lld",
                    static_cast<long long>(column), row, static_cast<long long>(sizes.vocab),
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
    const std::int64_t chunk = std::max<std::int64_t>(chunk_elements / embeddings->hidden_size, 1);
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
    const std::int64_t hidden_size = embeddings->hidden_size;
    // Every thread reads all tokens, so a small share of the columns is not worth a thread.
    const std::int64_t shares = rows * columns * hidden_size / chunk_elements + 1;
    const std::int64_t share = hidden_size / std::min<std::int64_t>(shares, threads) + 1;
    const std::int64_t chunk = (share + line_columns - 1) / line_columns * line_columns;
    parallel_for(hidden_size, chunk, threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

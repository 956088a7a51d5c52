// nck_write_rows: several tokens of some rows in one call. Between two calls, the threads would go
// to sleep, and the caller would take longer than a token of a small model.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/nck.h"
#include "kernels/status.hpp"

namespace nanochat::kernels {
namespace {

struct RowsToWrite {
  const std::int64_t* rows;
  std::int64_t count;
  const std::byte* logits;  // of the decoder
  std::int64_t vocab;
  std::int32_t dtype;
  const nck_mixture* mixture;  // or NULL
  double temperature;
  std::int64_t top_k;
  double top_p;
  std::int32_t threads;

  void append(std::int64_t* contexts, const std::int64_t* newest) const noexcept {
    if (mixture == nullptr || mixture->context_length == 0) return;
    for (std::int64_t i = 0; i < count; ++i) {
      std::int64_t* const first = contexts + rows[i] * mixture->context_stride;
      std::int64_t* const last = first + mixture->context_length - 1;
      std::copy(first + 1, last + 1, first);
      *last = newest[i];
    }
  }

  std::int32_t draw(const std::uint64_t* random, std::int64_t* tokens) const {
    if (mixture != nullptr) {
      return nck_sample_mixture(mixture, rows, count, random, temperature, top_k, top_p, tokens,
                                threads);
    }
    for (std::int64_t first = 0; first < count;) {  // rows next to each other are drawn together
      std::int64_t last = first + 1;
      while (last < count && rows[last] == rows[last - 1] + 1) ++last;
      const std::int32_t status = nck_sample(
          logits + rows[first] * vocab * element_bytes(dtype), last - first, vocab, vocab, dtype,
          random + first, nullptr, nullptr, temperature, top_k, top_p, tokens + first, threads);
      if (status != NCK_OK) return status;
      first = last;
    }
    return NCK_OK;
  }
};

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_write_rows(nck_decoder* decoder, const std::int64_t* rows,
                                       std::int64_t count, const std::int64_t* newest, void* logits,
                                       std::int64_t vocab, std::int32_t dtype,
                                       const nck_mixture* mixture, std::int64_t* contexts,
                                       const std::uint64_t* random, double temperature,
                                       std::int64_t top_k, double top_p, std::int64_t first_end,
                                       std::int64_t steps, std::int64_t* tokens, std::int64_t* done,
                                       std::int32_t threads, std::int32_t draw_threads) {
  using namespace nanochat::kernels;
  const std::int32_t status = guarded([&] {
    check_pointer(decoder, "decoder");
    check_pointer(rows, "rows");
    check_pointer(newest, "newest");
    check_pointer(logits, "logits");
    check_pointer(random, "random");
    check_pointer(tokens, "tokens");
    check_pointer(done, "done");
    check_range("steps", steps, 1, std::int64_t{1} << 20U);
    check_range("vocab", vocab, 1, most_vocab);
    element_bytes(dtype);
    if (mixture != nullptr && contexts != mixture->contexts) {
      throw Failure(NCK_ARGUMENT, "contexts must be those of the mixture");
    }
    *done = 0;
  });
  if (status != NCK_OK) return status;
  const RowsToWrite texts{rows,        count, static_cast<const std::byte*>(logits),
                          vocab,       dtype, mixture,
                          temperature, top_k, top_p,
                          draw_threads};
  for (std::int64_t step = 0; step < steps; ++step) {
    std::int64_t* const drawn = tokens + step * count;
    if (const auto read =
            nck_decode_rows(decoder, rows, count, newest, 1, nullptr, logits, threads);
        read != NCK_OK) {
      return read;
    }
    texts.append(contexts, newest);
    if (const auto chosen = texts.draw(random + step * count, drawn); chosen != NCK_OK) {
      return chosen;
    }
    *done = step + 1;
    newest = drawn;
    if (std::any_of(drawn, drawn + count,
                    [&](std::int64_t token) { return token == 0 || token >= first_end; })) {
      break;
    }
  }
  return NCK_OK;
}

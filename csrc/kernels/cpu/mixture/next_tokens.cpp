// nck_mixed_logits, nck_sample_mixture: check the arguments and share the texts among threads. A
// text's next token takes three steps, whose functions are those of other kernels: the counts'
// distribution, the mixture, the draw.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <new>

#include "kernels/checks.hpp"
#include "kernels/cpu/mixture/mixture.hpp"
#include "kernels/cpu/ngram/handle.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"
#include "kernels/cpu/sample/call.hpp"

namespace nanochat::kernels {
namespace {

constexpr std::int64_t chunk_logits = 8192;

std::int64_t rows_per_chunk(std::int64_t rows, std::int64_t vocab, int threads) {
  const std::int64_t most = std::clamp<std::int64_t>(chunk_logits / vocab, 1, sample_rows);
  return std::clamp<std::int64_t>(rows / (2 * std::int64_t{threads}), 1, most);
}

// The context of a text; without tokens there may be no array of contexts.
const std::int64_t* context_tokens(const nck_mixture& mixture, std::int64_t row) noexcept {
  return mixture.context_length == 0 ? nullptr : mixture.contexts + row * mixture.context_stride;
}

class Texts {
 public:
  explicit Texts(const nck_mixture& mixture) : mixture_(mixture), table_(mixture.ngrams->view) {
    kernel_ = tables().mixture->log_probabilities[mixture.dtype];
  }

  std::int64_t vocab() const noexcept { return table_.vocab; }

  void log_probabilities(std::int64_t row, double* result) const noexcept {
    const ngram::Context context =
        ngram::context_of(context_tokens(mixture_, row), mixture_.context_length, table_.order - 1);
    ngram::distribution(table_, context, table_.order, result);
    const std::int64_t bytes = mixture_.dtype == NCK_FLOAT64 ? 8 : 4;
    kernel_(static_cast<const std::byte*>(mixture_.logits) + row * mixture_.row_stride * bytes,
            vocab(), Share{mixture_.share_scale, mixture_.share_offset}, result);
  }

 private:
  const nck_mixture& mixture_;
  const ngram::View& table_;
  void (*kernel_)(const void*, std::int64_t, const Share&, double*) noexcept;
};

void check_mixture(const nck_mixture* mixture) {
  check_pointer(mixture, "mixture");
  check_pointer(mixture->ngrams, "ngrams");
  if (mixture->dtype != NCK_FLOAT32 && mixture->dtype != NCK_FLOAT64) {
    throw Failure(NCK_ARGUMENT, "dtype must be NCK_FLOAT32 or NCK_FLOAT64, got %d", mixture->dtype);
  }
  const std::int64_t vocab = mixture->ngrams->view.vocab;
  check_matrix("logits", mixture->logits, mixture->rows, vocab + 1, mixture->row_stride,
               mixture->dtype);
  check_range("context_length", mixture->context_length, 0, ngram::max_targets);
  check_range("context_stride", mixture->context_stride, mixture->context_length,
              std::int64_t{1} << 31U);
  if (!std::isfinite(mixture->share_scale)) {
    throw Failure(NCK_ARGUMENT, "share_scale must be finite, got %g", mixture->share_scale);
  }
  if (!std::isfinite(mixture->share_offset)) {
    throw Failure(NCK_ARGUMENT, "share_offset must be finite, got %g", mixture->share_offset);
  }
  if (mixture->rows > 0 && mixture->context_length > 0) {
    check_pointer(mixture->contexts, "contexts");
  }
  for (std::int64_t row = 0; row < mixture->rows; ++row) {
    ngram::check_tokens(context_tokens(*mixture, row), mixture->context_length, 0, vocab);
  }
}

void check_chosen(const std::int64_t* chosen, std::int64_t count, std::int64_t rows) {
  check_range("count", count, 0, chosen == nullptr ? rows : ngram::max_targets);
  if (chosen == nullptr) return;
  for (std::int64_t i = 0; i < count; ++i) {
    if (chosen[i] >= 0 && chosen[i] < rows) continue;
    throw Failure(NCK_ARGUMENT, "row %lld of chosen must be in [0, %lld), got %lld",
                  static_cast<long long>(i), static_cast<long long>(rows),
                  static_cast<long long>(chosen[i]));
  }
}

void draw(const Texts& texts, const std::int64_t* chosen, std::int64_t count,
          const std::uint64_t* random, const Sample& options, int threads) {
  const auto kernel = tables().sample->rows[NCK_FLOAT64];
  const std::int64_t vocab = texts.vocab(), chunk = rows_per_chunk(count, vocab, threads);
  const std::size_t for_draw = (sample_scratch(vocab) + 63) / 64 * 64;
  const std::size_t for_rows = static_cast<std::size_t>(chunk * vocab) * sizeof(double);
  std::atomic<bool> has_memory{true};
  parallel_for(count, chunk, threads, [&](std::int64_t first, std::int64_t last) {
    auto* const space = static_cast<std::byte*>(scratch(for_draw + for_rows));
    if (space == nullptr) {
      has_memory = false;
      return;
    }
    auto* const rows = reinterpret_cast<double*>(space + for_draw);
    for (std::int64_t i = first; i < last; ++i) {
      texts.log_probabilities(chosen == nullptr ? i : chosen[i], rows + (i - first) * vocab);
    }
    Sample call = options;
    call.logits = rows;
    call.tokens = options.tokens + first;
    kernel(call, 0, last - first, random + first, space);
  });
  if (!has_memory) throw std::bad_alloc();
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" {

std::int32_t nck_mixed_logits(const nck_mixture* mixture, double* log_probabilities,
                              std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_mixture(mixture);
    check_threads(threads);
    if (mixture->rows == 0) return;
    check_pointer(log_probabilities, "log_probabilities");
    const Texts texts(*mixture);
    const std::int64_t vocab = texts.vocab();
    parallel_for(mixture->rows, rows_per_chunk(mixture->rows, vocab, threads), threads,
                 [&](std::int64_t first, std::int64_t last) {
                   for (std::int64_t i = first; i < last; ++i) {
                     texts.log_probabilities(i, log_probabilities + i * vocab);
                   }
                 });
  });
}

std::int32_t nck_sample_mixture(const nck_mixture* mixture, const std::int64_t* chosen,
                                std::int64_t count, const std::uint64_t* random, double temperature,
                                std::int64_t top_k, double top_p, std::int64_t* tokens,
                                std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_mixture(mixture);
    check_threads(threads);
    check_chosen(chosen, count, mixture->rows);
    const Texts texts(*mixture);
    Sample options = checked_sample(texts.vocab(), temperature, top_k, top_p);
    if (count == 0) return;
    check_pointer(random, "random");
    check_pointer(tokens, "tokens");
    options.tokens = tokens;
    draw(texts, chosen, count, random, options, threads);
    refuse_rows_without_token(tokens, count);
  });
}

}  // extern "C"

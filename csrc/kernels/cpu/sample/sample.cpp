// nck_sample: checks the arguments, makes the random integers and shares the rows among threads.
// The computation of a row is in rows.cpp.
#include "kernels/cpu/sample/sample.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <new>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"
#include "kernels/cpu/sample/call.hpp"
#include "kernels/draw_arithmetic.hpp"
#include "kernels/philox.hpp"

namespace nanochat::kernels {
namespace {

// The rows per chunk: enough elements to be worth a thread's start, few enough to balance the
// threads, and several rows, because a row prefetches the next one.
std::int64_t rows_per_chunk(std::int64_t rows, std::int64_t vocab, int threads) {
  const std::int64_t least = 16384 / vocab, most = 262144 / vocab;
  return std::clamp<std::int64_t>(std::min(most, rows / (4 * std::int64_t{threads})),
                                  std::clamp<std::int64_t>(least, 1, sample_rows), sample_rows);
}

void check_options(std::int64_t vocab, double temperature, std::int64_t top_k, double top_p) {
  if (vocab > max_vocab) {
    throw Failure(NCK_ARGUMENT, "vocabulary must be at most %lld tokens, got %lld",
                  static_cast<long long>(max_vocab), static_cast<long long>(vocab));
  }
  if (!std::isfinite(temperature) || temperature < 0) {
    throw Failure(NCK_ARGUMENT, "temperature must be finite and >= 0, got %g", temperature);
  }
  if (top_k < 0) {
    throw Failure(NCK_ARGUMENT, "top_k must be at least 0, got %lld",
                  static_cast<long long>(top_k));
  }
  if (!(top_p > 0 && top_p <= 1)) {
    throw Failure(NCK_ARGUMENT, "top_p must be above 0 and at most 1, got %g", top_p);
  }
}

// The source of the rows' random integers.
struct Randomness {
  const std::uint64_t* given;  // or null
  const std::int64_t* state;   // {seed, item of the first row, index}
  const std::int64_t* items;   // or null

  void check() const {
    if (given != nullptr) return;
    check_pointer(state, "state");
    if (state[0] < 0 || state[0] > std::int64_t{0xFFFFFFFF}) {
      throw Failure(NCK_ARGUMENT, "seed must be in [0, 2^32), got %lld",
                    static_cast<long long>(state[0]));
    }
    if (state[2] < 0) {
      throw Failure(NCK_ARGUMENT, "index must be at least 0, got %lld",
                    static_cast<long long>(state[2]));
    }
  }

  std::uint64_t of(std::int64_t row) const noexcept {
    if (given != nullptr) return given[row];
    const std::uint64_t item =
        items != nullptr ? static_cast<std::uint64_t>(items[row])
                         : static_cast<std::uint64_t>(state[1]) + static_cast<std::uint64_t>(row);
    return random_u64(static_cast<std::uint64_t>(state[0]), sampling_stream, item,
                      static_cast<std::uint64_t>(state[2]));
  }
};

void run(const Sample& call, std::int64_t rows, std::int32_t dtype, const Randomness& randomness,
         int threads) {
  const auto kernel = tables().sample->rows[dtype];
  std::atomic<bool> has_memory{true};
  parallel_for(rows, rows_per_chunk(rows, call.vocab, threads), threads,
               [&](std::int64_t first, std::int64_t last) {
                 void* const space = scratch(sample_scratch(call.vocab));
                 if (space == nullptr) {
                   has_memory = false;
                   return;
                 }
                 std::uint64_t random[sample_rows];
                 for (std::int64_t i = first; i < last; ++i) random[i - first] = randomness.of(i);
                 kernel(call, first, last, random, space);
               });
  if (!has_memory) throw std::bad_alloc();
}

}  // namespace

Sample checked_sample(std::int64_t vocab, double temperature, std::int64_t top_k, double top_p) {
  check_options(vocab, temperature, top_k, top_p);
  const std::int64_t kept = kept_at(temperature, top_k);
  return {
      .logits = nullptr,
      .vocab = vocab,
      .row_stride = vocab,
      .scale = inverse_temperature(temperature),
      .top_k = kept < vocab ? kept : 0,
      .share = share_of(top_p),
      .tokens = nullptr,
  };
}

std::size_t sample_scratch(std::int64_t vocab) noexcept {
  return static_cast<std::size_t>(sample_bytes * (vocab + sample_pad));
}

void refuse_rows_without_token(const std::int64_t* tokens, std::int64_t rows) {
  const auto* const bad = std::find_if(tokens, tokens + rows, [](auto token) { return token < 0; });
  if (bad == tokens + rows) return;
  throw Failure(
      NCK_LOGITS,
      *bad == token_of_nan ? "logits of row %lld hold nan" : "logits of row %lld are all -inf",
      static_cast<long long>(bad - tokens));
}

}  // namespace nanochat::kernels

extern "C" std::int32_t nck_sample(const void* logits, std::int64_t rows, std::int64_t vocab,
                                   std::int64_t row_stride, std::int32_t dtype,
                                   const std::uint64_t* random, const std::int64_t* state,
                                   const std::int64_t* items, double temperature,
                                   std::int64_t top_k, double top_p, std::int64_t* tokens,
                                   std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("logits", logits, rows, vocab, row_stride, dtype);
    Sample call = checked_sample(vocab, temperature, top_k, top_p);
    check_threads(threads);
    if (rows == 0) return;
    check_pointer(tokens, "tokens");
    const Randomness randomness{random, state, items};
    randomness.check();
    call.logits = logits;
    call.row_stride = row_stride;
    call.tokens = tokens;
    run(call, rows, dtype, randomness, threads);
    refuse_rows_without_token(tokens, rows);
  });
}

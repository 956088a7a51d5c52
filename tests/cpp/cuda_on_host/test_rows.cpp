// The CUDA kernels that scale rows and draw tokens, run by the CPU and compared with the CPU's: bit
// by bit, and token by token.
#include <array>

#include "twins.hpp"

namespace {

using namespace twins;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::string text_of(const Layout& layout, std::uint64_t seed) {
  char line[200];
  static_cast<void>(std::snprintf(
      line, sizeof line, "dtype %d, rows %lld, vocab %lld, extra %lld, offset %lld, seed %llu",
      layout.dtype, static_cast<long long>(layout.rows), static_cast<long long>(layout.vocab),
      static_cast<long long>(layout.extra), static_cast<long long>(layout.offset),
      static_cast<unsigned long long>(seed)));
  return line;
}

void scale(const Layout& layout, bool is_in_place, std::uint64_t seed) {
  Random random(seed);
  const std::int64_t rows = layout.rows, vocab = layout.vocab;
  Matrix matrix("matrix", layout);
  matrix.fill([&](auto, auto) { return random.number(-4, 4); });
  Layout apart = layout;
  apart.extra = random.below(5);
  apart.offset = random.below(9);
  Matrix other("result", apart);
  Matrix& result = is_in_place ? matrix : other;
  Array<float> factors("factors", rows, 1.0f);
  const std::int64_t step = random.below(2);
  for (std::int64_t row = 0; row < rows; ++row) {
    if (!random.one_in(4)) factors.set(row, random.number(-2, 2));
  }
  CHECK_CASE(nck_cuda_scale_rows(matrix.on_device(), rows, vocab, layout.stride(), layout.dtype,
                                 factors.on_device(), step, result.on_device(),
                                 result.layout().stride(), nullptr) == NCK_OK,
             text_of(layout, seed));
  CHECK_CASE(nck_scale_rows(matrix.on_host(), rows, vocab, layout.stride(), layout.dtype,
                            factors.on_host(), step, result.on_host(), result.layout().stride(),
                            1) == NCK_OK,
             text_of(layout, seed));
  CHECK_CASE(has_no_faults(), text_of(layout, seed));
  CHECK_CASE(result.has_equal_bits(), text_of(layout, seed));
}

TEST_CASE(scaled_rows_have_the_bits_of_the_cpu) {
  Random random(6);
  host_gpu::take_launches();
  for (const std::int32_t dtype : dtypes) {
    for (const bool is_in_place : {false, true}) {
      for (int i = 0; i < scaled(30); ++i) {
        const std::int64_t vocab = 1 + random.below(random.one_in(2) ? 40 : 2500);
        scale({dtype, 1 + random.below(20), vocab, random.below(5), random.below(9)}, is_in_place,
              random.bits());
      }
    }
  }
  CHECK(host_gpu::take_launches().size() == static_cast<std::size_t>(scaled(180)));
}

enum class Contents { ordinary, equal_values, minus_infinities, infinities, nans, nothing };
constexpr int all_contents = 6;

float logit(Random& random, Contents contents, std::int64_t vocab) {
  const float value = random.number(-4, 4);
  switch (contents) {
    case Contents::equal_values:
      return std::round(value);
    case Contents::minus_infinities:
      return random.one_in(3) ? -infinity : value;
    case Contents::infinities:
      return random.one_in(vocab) ? infinity : value;
    case Contents::nans:
      return random.one_in(2 * vocab) ? std::numeric_limits<float>::quiet_NaN() : value;
    case Contents::nothing:
      return -infinity;
    default:
      return value;
  }
}

void draw(const Layout& layout, Contents contents, std::uint64_t seed) {
  Random random(seed);
  const std::int64_t rows = layout.rows, vocab = layout.vocab;
  Matrix logits("logits", layout);
  logits.fill([&](auto, auto) { return logit(random, contents, vocab); });
  Array<std::uint64_t> numbers("random numbers", rows, 0);
  Array<std::int64_t> items("items", rows, 0), tokens("tokens", rows, -9), state("state", 3, 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    numbers.set(row, random.bits());
    items.set(row, random.below(1 << 20));
  }
  for (std::int64_t i = 0; i < 3; ++i) state.set(i, random.below(1 << 20));
  const bool has_numbers = random.one_in(2), has_items = random.one_in(2);
  const double temperature = random.one_in(5) ? 0 : random.one_in(2) ? 1 : random.between(0.2, 3);
  const std::int64_t top_k = random.one_in(3) ? 0 : 1 + random.below(vocab + 2);
  const double top_p = random.one_in(2) ? 1 : random.between(1e-3, 1);
  CHECK_CASE(nck_cuda_sample(logits.on_device(), rows, vocab, layout.stride(), layout.dtype,
                             has_numbers ? numbers.on_device() : nullptr, state.on_device(),
                             has_items ? items.on_device() : nullptr, temperature, top_k, top_p,
                             tokens.on_device(), nullptr, nullptr) == NCK_OK,
             text_of(layout, seed));
  const std::int32_t status = nck_sample(logits.on_host(), rows, vocab, layout.stride(),
                                         layout.dtype, has_numbers ? numbers.on_host() : nullptr,
                                         state.on_host(), has_items ? items.on_host() : nullptr,
                                         temperature, top_k, top_p, tokens.on_host(), 1);
  CHECK(status == NCK_OK || status == NCK_LOGITS);
  CHECK_CASE(has_no_faults(), text_of(layout, seed));
  for (std::int64_t row = 0; row < rows; ++row) {
    CHECK_CASE(tokens.on_device()[row] == tokens.on_host()[row], text_of(layout, seed));
  }
}

TEST_CASE(drawn_tokens_are_those_of_the_cpu) {
  Random random(7);
  host_gpu::take_launches();
  // Blocks have 128, 512 or 1024 threads.
  for (const std::int64_t most : {40, 2048, 8192, 11000}) {
    for (const std::int32_t dtype : dtypes) {
      for (int contents = 0; contents < all_contents; ++contents) {
        for (int i = 0; i < scaled(1); ++i) {
          const std::int64_t vocab = most == 40 ? 1 + random.below(40) : most - random.below(900);
          const std::int64_t rows = most > 2048 ? 1 : 1 + random.below(3);
          draw({dtype, rows, vocab, random.below(5), random.below(9)},
               static_cast<Contents>(contents), random.bits());
        }
      }
    }
  }
  CHECK(host_gpu::take_launches().size() == static_cast<std::size_t>(scaled(4 * 3 * 6)));
}

}  // namespace

// The draw over a row: weights by one instruction set's weigh_row, all else in integers.
#include "scalar/draw.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <numeric>

#include "scalar/draw_arithmetic.hpp"
#include "scalar/simd/simd.hpp"

namespace nanochat {

#if NCLAB_SIMD_X86
namespace avx512 {
float weigh_row(const float* logits, std::size_t vocab, float scale, float* weights);
}
namespace avx2 {
float weigh_row(const float* logits, std::size_t vocab, float scale, float* weights);
}
#endif
namespace portable {
float weigh_row(const float* logits, std::size_t vocab, float scale, float* weights);
}

namespace {

constexpr std::uint64_t whole_share = std::uint64_t{1} << 32U;

}  // namespace

WeighRow weigh_row_named(const char* simd) noexcept {
#if NCLAB_SIMD_X86
  if (std::strcmp(simd, "avx512") == 0) return &avx512::weigh_row;
  if (std::strcmp(simd, "avx2") == 0) return &avx2::weigh_row;
#endif
  static_cast<void>(simd);
  return &portable::weigh_row;
}

float inverse_temperature(double temperature) noexcept {
  constexpr double largest = std::numeric_limits<float>::max();
  return static_cast<float>(std::min(1.0 / temperature, largest));
}

DrawSettings draw_settings(double temperature, std::size_t top_k, double top_p) noexcept {
  return {inverse_temperature(temperature), top_k, static_cast<std::uint64_t>(top_p * 0x1p32)};
}

Drawer::Drawer(std::size_t vocab)
    : weigh_row_(weigh_row_named(simd::tables().fast32.name)), weights_(vocab), sums_(vocab) {
  assert(vocab >= 1 && vocab <= max_vocab);
}

std::int64_t Drawer::draw(const double* logits, std::uint64_t random,
                          const DrawSettings& settings) {
  rounded_.resize(weights_.size());
  for (std::size_t i = 0; i < rounded_.size(); ++i) rounded_[i] = static_cast<float>(logits[i]);
  return draw(rounded_.data(), random, settings);
}

std::int64_t Drawer::draw(const float* logits, std::uint64_t random, const DrawSettings& settings) {
  const std::size_t vocab = weights_.size();
  const float largest = weigh_row_(logits, vocab, settings.scale, weights_.data());
  if (largest != largest) return holds_nan;
  if (largest == -std::numeric_limits<float>::infinity()) return all_minus_infinity;
  const bool some = settings.top_k > 0 && settings.top_k < vocab;
  if (some || settings.share < whole_share) leave_out(logits, settings);
  return token_at(random);
}

// Weighs nothing what top-k and top-p do not keep.
void Drawer::leave_out(const float* logits, const DrawSettings& settings) {
  const std::size_t vocab = weights_.size();
  order_.resize(vocab);
  std::iota(order_.begin(), order_.end(), std::uint32_t{0});
  const auto before = [logits](std::uint32_t a, std::uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const auto at = [this](std::size_t count) {
    return order_.begin() + static_cast<std::ptrdiff_t>(count);
  };
  std::size_t kept = settings.top_k > 0 ? std::min(settings.top_k, vocab) : vocab;
  if (kept < vocab) std::nth_element(order_.begin(), at(kept), order_.end(), before);
  if (settings.share < whole_share) {
    std::sort(order_.begin(), at(kept), before);
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < kept; ++i) total += integer_weight(weights_[order_[i]]);
    const std::uint64_t needed = part_of(settings.share, total);
    std::uint64_t sum = integer_weight(weights_[order_[0]]);
    std::size_t shortest = 1;
    while (sum < needed) sum += integer_weight(weights_[order_[shortest++]]);
    kept = shortest;
  }
  for (std::size_t i = kept; i < vocab; ++i) weights_[order_[i]] = 0.0f;
}

// The first token at which the running sum is above the share that `random` is of the total.
std::int64_t Drawer::token_at(std::uint64_t random) {
  const std::size_t vocab = weights_.size();
  const float* weights = weights_.data();
  std::uint64_t* sums = sums_.data();
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < vocab; ++i) {
    total += integer_weight(weights[i]);
    sums[i] = total;
  }
  const std::uint64_t target = multiply_high(random, total);
  // Counted in pieces: a branch at a random place costs more than the rest of a piece.
  constexpr std::size_t piece = 64;
  std::size_t begin = 0;
  while (begin + piece < vocab && sums[begin + piece - 1] <= target) begin += piece;
  const std::size_t end = std::min(begin + piece, vocab);
  std::size_t token = begin;
  for (std::size_t i = begin; i < end; ++i) token += sums[i] <= target ? 1 : 0;
  return static_cast<std::int64_t>(token);
}

}  // namespace nanochat

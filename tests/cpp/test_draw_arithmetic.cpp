// The arithmetic of a draw, compared with double precision, long multiplication and the bits that
// nanochat/sampling/draw.py pins; and Philox, compared with the vectors of its authors.
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/draw_arithmetic.hpp"
#include "kernels/philox.hpp"
#include "testing.hpp"

namespace kernels = nanochat::kernels;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::uint64_t last_word = std::numeric_limits<std::uint64_t>::max();

}  // namespace

TEST_CASE(exponential_is_within_1_2_units_in_the_last_place) {
  const auto first = std::bit_cast<std::uint32_t>(0x1p-30f);
  const auto last = std::bit_cast<std::uint32_t>(87.0f);
  for (std::uint32_t bits = first; bits <= last; bits += 10007) {
    const float z = -std::bit_cast<float>(bits);
    const double wanted = std::exp(static_cast<double>(z));
    const double unit = std::ldexp(1.0, std::ilogb(wanted) - 23);
    CHECK(std::fabs(static_cast<double>(kernels::exp32(z)) - wanted) <= 1.2 * unit);
  }
}

TEST_CASE(exponential_is_one_at_zero_and_zero_below_minus_87) {
  for (const float z : {0.0f, -0.0f, -1e-45f, -0x1p-31f}) CHECK(kernels::exp32(z) == 1.0f);
  CHECK(kernels::exp32(-87.0f) > 0.0f);
  CHECK(kernels::exp32(std::nextafterf(-87.0f, -100.0f)) == 0.0f);
  CHECK(kernels::exp32(-infinity) == 0.0f);
}

// FNV-1a of every 1009th float32 of [2⁻³⁰, 87], negated; draw.py's exp32 has the same sum.
TEST_CASE(exponential_has_the_bits_of_the_specification) {
  const auto first = std::bit_cast<std::uint32_t>(0x1p-30f);
  const auto last = std::bit_cast<std::uint32_t>(87.0f);
  std::uint64_t hash = 0xCBF29CE484222325;
  for (std::uint32_t bits = first; bits <= last; bits += 1009) {
    hash ^= std::bit_cast<std::uint32_t>(kernels::exp32(-std::bit_cast<float>(bits)));
    hash *= 0x100000001B3;
  }
  CHECK(hash == 0x0D76258C8C1865F3);
}

TEST_CASE(weights_are_the_exponential_in_units_of_2_to_the_minus_40_rounded_down) {
  for (const float z : {0.0f, -0.5f, -1.0f, -13.3f, -27.9f, -86.0f, -90.0f}) {
    const auto wanted = std::floor(std::ldexp(static_cast<double>(kernels::exp32(z)), 40));
    CHECK(kernels::integer_weight(kernels::float_weight(3.0f + z, 3.0f, 1.0f)) ==
          static_cast<std::uint64_t>(wanted));
  }
  CHECK(kernels::integer_weight(kernels::float_weight(-infinity, 3.0f, 0.0f)) == 0);
}

TEST_CASE(high_products_equal_long_multiplication) {
  // (2³² + 1)² = 2⁶⁴ + 2³³ + 1 and (2⁶⁴ − 1)² = 2¹²⁸ − 2⁶⁵ + 1.
  CHECK(kernels::multiply_high(0x100000001, 0x100000001) == 1);
  CHECK(kernels::multiply_high(last_word, last_word) == last_word - 1);
  CHECK(kernels::multiply_high(last_word, 1) == 0);
  CHECK(kernels::multiply_high(std::uint64_t{1} << 63U, 6) == 3);
  // Digit by digit in base 2, which needs no more than 64 bits.
  std::uint64_t a = 0x9E3779B97F4A7C15, b = 0xD1B54A32D192ED03;
  for (int i = 0; i < 200; ++i) {
    std::uint64_t high = 0, low = 0;
    for (int bit = 63; bit >= 0; --bit) {
      high = high << 1U | low >> 63U;
      low <<= 1;
      if ((b >> bit & 1) != 0) {
        low += a;
        high += low < a ? 1 : 0;
      }
    }
    CHECK(kernels::multiply_high(a, b) == high);
    a = a * 6364136223846793005U + 1442695040888963407U;
    b ^= a >> 17U;
  }
}

TEST_CASE(parts_are_rounded_up) {
  constexpr std::uint64_t half = std::uint64_t{1} << 31U, whole = std::uint64_t{1} << 32U;
  CHECK(kernels::part_of(half, 7) == 4);
  CHECK(kernels::part_of(half, 8) == 4);
  CHECK(kernels::part_of(1, 1) == 1);
  CHECK(kernels::part_of(0, 99) == 0);
  CHECK(kernels::part_of(whole - 1, std::uint64_t{1} << 60U) ==
        (std::uint64_t{1} << 60U) - (std::uint64_t{1} << 28U));
}

// Random123's vectors for Philox4x32-10.
TEST_CASE(philox_has_the_words_of_random123) {
  CHECK(kernels::random_u64(0, 0, 0, 0) == 0x6627e8d5e169c58dU);
  CHECK(kernels::random_u64(0, 0, 0, 1) == 0xbc57ac4c9b00dbd8U);
}

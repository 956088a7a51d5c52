// The draw against slow integer arithmetic and the bits that nanochat/training/draw.py pins.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "scalar/draw.hpp"
#include "scalar/draw_arithmetic.hpp"
#include "scalar/simd/simd.hpp"
#include "testing.hpp"

using nanochat::draw_settings;
using nanochat::Drawer;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::uint64_t last_word = std::numeric_limits<std::uint64_t>::max();

std::int64_t draw(const std::vector<float>& row, std::uint64_t random, double temperature = 1.0,
                  std::size_t top_k = 0, double top_p = 1.0) {
  return Drawer(row.size()).draw(row.data(), random, draw_settings(temperature, top_k, top_p));
}

// Which tokens any random word can draw.
std::vector<std::int64_t> kept(const std::vector<float>& row, double temperature, std::size_t top_k,
                               double top_p) {
  std::vector<std::int64_t> tokens;
  for (std::uint64_t k = 0; k <= 256; ++k) {
    tokens.push_back(draw(row, k * (last_word / 256), temperature, top_k, top_p));
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

using Tokens = std::vector<std::int64_t>;

}  // namespace

TEST_CASE(exponential_is_within_1_2_units_in_the_last_place) {
  const auto first = std::bit_cast<std::uint32_t>(0x1p-30f);
  const auto last = std::bit_cast<std::uint32_t>(87.0f);
  for (std::uint32_t bits = first; bits <= last; bits += 10007) {
    const float z = -std::bit_cast<float>(bits);
    const double wanted = std::exp(static_cast<double>(z));
    const double unit = std::ldexp(1.0, std::ilogb(wanted) - 23);
    CHECK(std::fabs(static_cast<double>(nanochat::exp32(z)) - wanted) <= 1.2 * unit);
  }
}

TEST_CASE(exponential_is_one_at_zero_and_zero_below_minus_87) {
  for (const float z : {0.0f, -0.0f, -1e-45f, -0x1p-31f}) CHECK(nanochat::exp32(z) == 1.0f);
  CHECK(nanochat::exp32(-87.0f) > 0.0f);
  CHECK(nanochat::exp32(std::nextafterf(-87.0f, -100.0f)) == 0.0f);
  CHECK(nanochat::exp32(-infinity) == 0.0f);
}

// FNV-1a of every 1009th float32 of [2⁻³⁰, 87], negated; the same sum over draw.py's exp32.
TEST_CASE(exponential_has_the_bits_of_the_specification) {
  const auto first = std::bit_cast<std::uint32_t>(0x1p-30f);
  const auto last = std::bit_cast<std::uint32_t>(87.0f);
  std::uint64_t hash = 0xCBF29CE484222325;
  for (std::uint32_t bits = first; bits <= last; bits += 1009) {
    hash ^= std::bit_cast<std::uint32_t>(nanochat::exp32(-std::bit_cast<float>(bits)));
    hash *= 0x100000001B3;
  }
  CHECK(hash == 0x0D76258C8C1865F3);
}

TEST_CASE(weights_are_the_exponential_in_units_of_2_to_the_minus_40_rounded_down) {
  for (const float z : {0.0f, -0.5f, -1.0f, -13.3f, -27.9f, -86.0f, -90.0f}) {
    const auto wanted = std::floor(std::ldexp(static_cast<double>(nanochat::exp32(z)), 40));
    CHECK(nanochat::integer_weight(nanochat::float_weight(3.0f + z, 3.0f, 1.0f)) ==
          static_cast<std::uint64_t>(wanted));
  }
  CHECK(nanochat::integer_weight(nanochat::float_weight(-infinity, 3.0f, 0.0f)) == 0);
}

// Rows of every length up to several vectors, with ties, infinities and exponents of all sizes.
TEST_CASE(every_instruction_set_weighs_a_row_as_one_token_after_another) {
  for (const char* name : {"avx512", "avx2", "portable"}) {
    if (nanochat::simd::tables_named(name) == nullptr) continue;
    const nanochat::WeighRow weigh = nanochat::weigh_row_named(name);
    std::uint32_t state = 1;
    for (std::size_t vocab = 1; vocab <= 70; ++vocab) {
      std::vector<float> row(vocab), weights(vocab);
      for (float& logit : row) {
        state = state * 1664525U + 1013904223U;
        logit = std::ldexp(static_cast<float>(state >> 20U) - 2048.0f,
                           static_cast<int>(state >> 8U & 15U) - 14);
        if ((state >> 4U & 15U) == 0) logit = -infinity;
      }
      row[vocab / 2] = 0.5f;
      const float largest = *std::max_element(row.begin(), row.end());
      for (const float scale : {0.0f, 0.01f, 1.0f, 3.7f, std::numeric_limits<float>::max()}) {
        CHECK(weigh(row.data(), vocab, scale, weights.data()) == largest);
        for (std::size_t i = 0; i < vocab; ++i) {
          const float wanted = nanochat::float_weight(row[i], largest, scale);
          CHECK(std::bit_cast<std::uint32_t>(weights[i]) == std::bit_cast<std::uint32_t>(wanted));
        }
      }
      row[vocab - 1] = infinity;
      CHECK(weigh(row.data(), vocab, 1.0f, weights.data()) == infinity);
      CHECK(weights[vocab - 1] == 0x1p40f);
      CHECK(std::count(weights.begin(), weights.end(), 0.0f) ==
            static_cast<std::ptrdiff_t>(vocab) - 1);
      row[0] = std::numeric_limits<float>::quiet_NaN();
      CHECK(std::isnan(weigh(row.data(), vocab, 1.0f, weights.data())));
    }
  }
}

TEST_CASE(high_products_equal_long_multiplication) {
  // (2³² + 1)² = 2⁶⁴ + 2³³ + 1 and (2⁶⁴ − 1)² = 2¹²⁸ − 2⁶⁵ + 1.
  CHECK(nanochat::multiply_high(0x100000001, 0x100000001) == 1);
  CHECK(nanochat::multiply_high(last_word, last_word) == last_word - 1);
  CHECK(nanochat::multiply_high(last_word, 1) == 0);
  CHECK(nanochat::multiply_high(std::uint64_t{1} << 63U, 6) == 3);
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
    CHECK(nanochat::multiply_high(a, b) == high);
    a = a * 6364136223846793005U + 1442695040888963407U;
    b ^= a >> 17U;
  }
}

TEST_CASE(parts_are_rounded_up) {
  constexpr std::uint64_t half = std::uint64_t{1} << 31U, whole = std::uint64_t{1} << 32U;
  CHECK(nanochat::part_of(half, 7) == 4);
  CHECK(nanochat::part_of(half, 8) == 4);
  CHECK(nanochat::part_of(1, 1) == 1);
  CHECK(nanochat::part_of(0, 99) == 0);
  CHECK(nanochat::part_of(whole - 1, std::uint64_t{1} << 60U) ==
        (std::uint64_t{1} << 60U) - (std::uint64_t{1} << 28U));
}

TEST_CASE(equal_logits_share_the_words_equally) {
  const std::vector<float> row(4, 0.0f);
  constexpr std::uint64_t quarter = std::uint64_t{1} << 62U;
  for (std::uint64_t i = 0; i < 4; ++i) {
    CHECK(draw(row, i * quarter) == static_cast<std::int64_t>(i));
    CHECK(draw(row, i * quarter + (quarter - 1)) == static_cast<std::int64_t>(i));
  }
}

TEST_CASE(long_rows_draw_at_the_running_sum) {
  const std::vector<float> row(1000, -2.5f);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    // ⌈i · 2⁶⁴ / 1000⌉ is the first word of token i.
    const std::uint64_t first = i * (last_word / 1000) + (i * (last_word % 1000) + i + 999) / 1000;
    CHECK(draw(row, first) == static_cast<std::int64_t>(i));
    if (i > 0) CHECK(draw(row, first - 1) == static_cast<std::int64_t>(i) - 1);
  }
}

TEST_CASE(a_maximum_of_plus_infinity_takes_all) {
  const std::vector<float> row{infinity, 5.0f, infinity, -infinity};
  CHECK((kept(row, 1.0, 0, 1.0) == Tokens{0, 2}));
  CHECK((kept(row, 1e300, 0, 1.0) == Tokens{0, 2}));
  CHECK((kept(row, 5e-324, 1, 1.0) == Tokens{0}));
}

TEST_CASE(minus_infinity_is_never_drawn) {
  const std::vector<float> row{-infinity, 0.0f, -infinity, 0.0f};
  CHECK((kept(row, 1.0, 0, 1.0) == Tokens{1, 3}));
  CHECK((kept(row, 1e300, 3, 1.0) == Tokens{1, 3}));
}

TEST_CASE(top_k_and_top_p_prefer_the_lower_index_in_a_tie) {
  CHECK((kept({1.0f, 2.0f, 1.0f, 1.0f}, 1.0, 2, 1.0) == Tokens{0, 1}));
  CHECK((kept({0.0f, -0.0f, 0.0f}, 1.0, 2, 1.0) == Tokens{0, 1}));
  CHECK((kept({1.0f, 1.0f, 1.0f, 1.0f}, 1.0, 0, 0.5) == Tokens{0, 1}));
  CHECK((kept({1.0f, 1.0f, 1.0f, 1.0f}, 1.0, 0, 0.500001) == Tokens{0, 1, 2}));
  CHECK((kept({0.0f, 3.0f, 1.0f}, 1.0, 0, 1e-300) == Tokens{1}));
}

TEST_CASE(rows_without_a_token_say_why) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(draw({0.0f, nan, infinity}, 0) == Drawer::holds_nan);
  CHECK(draw({-infinity, -nan}, 0) == Drawer::holds_nan);
  CHECK(draw({-infinity, -infinity}, 0) == Drawer::all_minus_infinity);
}

TEST_CASE(a_drawer_keeps_nothing_from_row_to_row) {
  const std::vector<double> row{0.25, -1.0, 2.0, 1.9}, other{9.0, -infinity, 9.0, 0.0};
  const auto some = draw_settings(0.7, 2, 0.9), all = draw_settings(0.7, 0, 1.0);
  Drawer reused(4);
  for (std::uint64_t k = 0; k < 64; ++k) {
    const std::uint64_t random = k * (last_word / 64);
    CHECK(reused.draw(row.data(), random, some) == Drawer(4).draw(row.data(), random, some));
    CHECK(reused.draw(other.data(), random, all) == Drawer(4).draw(other.data(), random, all));
  }
}

TEST_CASE(doubles_beyond_float_are_infinite) {
  const std::vector<double> row{1e300, 0.0, 1e200};
  CHECK(Drawer(3).draw(row.data(), 0, draw_settings(1.0, 0, 1.0)) == 0);
  CHECK(Drawer(3).draw(row.data(), last_word, draw_settings(1.0, 0, 1.0)) == 2);
}

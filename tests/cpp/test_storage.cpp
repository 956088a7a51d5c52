// bfloat16 and float16 compared with their definitions, through scale_rows of every instruction
// set: each of the 65536 bit patterns as input, and floats of every kind as result.
#include <random>

#include "kernel_testing.hpp"
#include "kernels/cpu/scale_rows/scale_rows.hpp"

namespace {

using namespace kernel_testing;
using nanochat::kernels::ScaleRows;

struct Half {
  int dtype;
  Format format;
};
constexpr Half halves[] = {{NCK_BFLOAT16, bfloat16}, {NCK_FLOAT16, float16}};

// Returns the patterns times each factor, one row per factor.
std::vector<std::uint16_t> scaled(const Tables& tables, int dtype,
                                  const std::vector<std::uint16_t>& row,
                                  const std::vector<float>& factors) {
  const auto vocab = static_cast<std::int64_t>(row.size());
  const auto rows = static_cast<std::int64_t>(factors.size());
  std::vector<std::uint16_t> result(row.size() * factors.size(), 0x7fff);
  // Every row reads the same memory: the stride is 0.
  const ScaleRows call{row.data(), vocab, 0, factors.data(), 1, result.data(), vocab};
  tables.scale_rows->rows[dtype](call, 0, rows);
  return result;
}

std::vector<std::uint16_t> patterns() {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  return all;
}

// Returns whether the bits are equal or both NaN. A set with bfloat16 instructions flushes values
// below 2⁻¹²⁶.
bool same(Format format, std::uint16_t got, std::uint16_t wanted) {
  if (got == wanted) return true;
  if (std::isnan(widen(format, wanted))) return std::isnan(widen(format, got));
  const bool is_small = std::fabs(widen(format, wanted)) <= 0x1p-126;
  return is_small && format.exponent_bits == 8 && got == (wanted & 0x8000U);
}

TEST_CASE(the_oracle_narrows_what_it_widens) {
  for (const Half& half : halves) {
    for (const std::uint16_t bits : patterns()) {
      const double value = widen(half.format, bits);
      if (!std::isnan(value)) CHECK(narrow(half.format, value) == bits);
    }
  }
  CHECK(narrow(float16, 65519.99) == 0x7bff && narrow(float16, 65520) == 0x7c00);
  CHECK(narrow(float16, 0x1p-25) == 0 && narrow(float16, 0x1.001p-25) == 1);
  CHECK(narrow(bfloat16, 1 + 0x1p-8) == 0x3f80 && narrow(bfloat16, 1 + 0x1.8p-7) == 0x3f82);
}

TEST_CASE(every_half_number_survives_widening_and_narrowing) {
  for_each_set([](const char*, const Tables& tables) {
    for (const Half& half : halves) {
      const auto all = patterns();
      const auto result = scaled(tables, half.dtype, all, {1.0F});
      for (std::size_t i = 0; i < all.size(); ++i) CHECK(same(half.format, result[i], all[i]));
    }
  });
}

TEST_CASE(products_of_every_half_number_are_rounded_to_nearest_even) {
  // A product is first rounded to float, then to the 16-bit type; this test does the same.
  const std::vector<float> factors = {
      1.5F,      -1.25F,      1 + 0x1p-9F, 1 - 0x1p-12F, 1 + 0x1p-23F, 0x1p-14F,   0x1.8p-20F,
      0x1p-130F, 0x1.fffp10F, 0x1p100F,    0x1.0204p-1F, -0.0F,        0x1.4p-24F, 0x1.55555p3F};
  for_each_set([&](const char*, const Tables& tables) {
    for (const Half& half : halves) {
      const auto all = patterns();
      const auto result = scaled(tables, half.dtype, all, factors);
      for (std::size_t f = 0; f < factors.size(); ++f) {
        for (std::size_t i = 0; i < all.size(); ++i) {
          const float product = static_cast<float>(widen(half.format, all[i])) * factors[f];
          CHECK(same(half.format, result[f * all.size() + i], narrow(half.format, product)));
        }
      }
    }
  });
}

// A factor of 1 sends any float through the rounding.
TEST_CASE(floats_of_every_kind_are_rounded_to_nearest_even) {
  std::vector<float> numbers;
  for (const Half& half : halves) {
    for (std::uint32_t i = 0; i < 0x8000; i += 3) {
      // The middle of two adjacent values, and the floats on both sides of it.
      const double low = widen(half.format, static_cast<std::uint16_t>(i));
      const double high = widen(half.format, static_cast<std::uint16_t>(i + 1));
      const auto middle = static_cast<float>((low + high) / 2);
      for (const float each : {std::nextafterf(middle, 0.0F), middle,
                               std::nextafterf(middle, std::numeric_limits<float>::infinity())}) {
        numbers.push_back(i % 2 == 0 ? each : -each);
      }
    }
  }
  std::mt19937 random(7);
  for (int i = 0; i < 100000; ++i) {
    numbers.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  }
  const std::vector<std::uint16_t> one_bfloat16(1, narrow(bfloat16, 1)),
      one_float16(1, narrow(float16, 1));
  for_each_set([&](const char*, const Tables& tables) {
    for (const Half& half : halves) {
      const auto& one = half.dtype == NCK_BFLOAT16 ? one_bfloat16 : one_float16;
      const auto result = scaled(tables, half.dtype, one, numbers);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        CHECK(same(half.format, result[i], narrow(half.format, numbers[i])));
      }
    }
  });
}

TEST_CASE(whole_vectors_and_tails_round_alike) {
  std::mt19937 random(8);
  for_each_set([&](const char*, const Tables& tables) {
    for (const Half& half : halves) {
      for (std::size_t vocab = 1; vocab < 70; ++vocab) {
        std::vector<std::uint16_t> row(vocab);
        for (auto& each : row) each = static_cast<std::uint16_t>(random());
        const auto result = scaled(tables, half.dtype, row, {1.7F});
        for (std::size_t i = 0; i < vocab; ++i) {
          const float product = static_cast<float>(widen(half.format, row[i])) * 1.7F;
          CHECK(same(half.format, result[i], narrow(half.format, product)));
        }
      }
    }
  });
}

}  // namespace

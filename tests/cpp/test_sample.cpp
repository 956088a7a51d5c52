// nck_sample compared with a slow draw by sorting, for every instruction set, dtype and row size.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cpu/runtime/tables.hpp"
#include "kernels/cpu/sample/sample.hpp"
#include "kernels/draw_arithmetic.hpp"
#include "kernels/nck.h"
#include "kernels/philox.hpp"
#include "simd/instruction_set.hpp"
#include "testing.hpp"

namespace kernels = nanochat::kernels;
using kernels::token_of_all_minus_infinity;
using kernels::token_of_nan;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::uint64_t last_word = std::numeric_limits<std::uint64_t>::max();

struct Settings {
  double temperature = 1.0;
  std::int64_t top_k = 0;
  double top_p = 1.0;
};

// The specification: one token after another, in sorted order.
std::int64_t slow_draw(const std::vector<float>& row, std::uint64_t random, const Settings& how) {
  const float largest = *std::max_element(row.begin(), row.end());
  const float scale = kernels::inverse_temperature(how.temperature);
  std::vector<std::uint64_t> weights;
  for (const float x : row) {
    const std::uint64_t infinite = x == infinity ? std::uint64_t{1} << 40U : 0;
    weights.push_back(largest == infinity
                          ? infinite
                          : kernels::integer_weight(kernels::float_weight(x, largest, scale)));
  }
  std::vector<std::size_t> order(row.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  const std::int64_t most = how.temperature == 0 ? 1 : how.top_k;
  if (most > 0) order.resize(std::min(row.size(), static_cast<std::size_t>(most)));
  const auto sum = [&](std::size_t count) {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < count; ++i) total += weights[order[i]];
    return total;
  };
  const std::uint64_t needed = kernels::part_of(kernels::share_of(how.top_p), sum(order.size()));
  std::size_t kept = 1;
  for (std::uint64_t reached = weights[order[0]]; how.top_p < 1 && reached < needed; ++kept) {
    reached += weights[order[kept]];
  }
  if (how.top_p < 1) order.resize(kept);
  const std::uint64_t target = kernels::multiply_high(random, sum(order.size()));
  std::sort(order.begin(), order.end());
  std::uint64_t running = 0;
  for (const std::size_t token : order) {
    running += weights[token];
    if (running > target) return static_cast<std::int64_t>(token);
  }
  return -3;
}

template <class S>
std::int64_t draw_with(const kernels::Tables& tables, const std::vector<S>& row, std::int32_t dtype,
                       std::uint64_t random, const Settings& how) {
  const auto vocab = static_cast<std::int64_t>(row.size());
  std::int64_t token = -4;
  const std::int64_t most = kernels::kept_at(how.temperature, how.top_k);
  const kernels::Sample call{row.data(),
                             vocab,
                             vocab,
                             kernels::inverse_temperature(how.temperature),
                             most < vocab ? most : 0,
                             kernels::share_of(how.top_p),
                             &token};
  const auto bytes =
      static_cast<std::size_t>(kernels::sample_bytes * (vocab + kernels::sample_pad));
  std::vector<std::byte> memory(bytes + 64);
  void* aligned = memory.data();
  std::size_t room = memory.size();
  CHECK(std::align(64, bytes, aligned, room) != nullptr);
  tables.sample->rows[dtype](call, 0, 1, &random, aligned);
  return token;
}

// Calls body(tables) for each instruction set that runs on this processor.
template <class Body>
void for_each_set(const Body& body) {
  for (const char* name : nanochat::simd::instruction_sets) {
    if (const kernels::Tables* each = kernels::tables_named(name)) body(*each);
  }
}

struct Random {
  std::uint64_t state;
  std::uint64_t word() {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return state ^ state >> 29U;
  }
  std::uint64_t below(std::uint64_t n) { return (word() >> 20U) % n; }
};

// Logits rounded to a few values, which makes ties, or not rounded; some are -infinity.
std::vector<float> random_row(Random& random, std::size_t vocab) {
  std::vector<float> row(vocab);
  const double steps = std::ldexp(1.0, static_cast<int>(random.below(20)) - 2);
  const double spread = std::ldexp(1.0, static_cast<int>(random.below(6)) - 1);
  for (float& x : row) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(random.below(1000)) / 500.0 - 1;
    x = static_cast<float>(std::round(sum * spread * steps) / steps);
    if (random.below(16) == 0) x = -infinity;
  }
  row[random.below(vocab)] = 0.5f;
  return row;
}

Settings random_settings(Random& random, std::size_t vocab) {
  Settings how;
  how.temperature = std::ldexp(1.0, static_cast<int>(random.below(5)) - 3);
  if (random.below(8) == 0) how.temperature = 0;
  if (random.below(2) == 0) how.top_k = static_cast<std::int64_t>(1 + random.below(vocab));
  if (random.below(4) == 0) how.top_k = static_cast<std::int64_t>(1 + random.below(60));
  if (random.below(2) == 0) how.top_p = static_cast<double>(1 + random.below(1000)) / 1000.0;
  return how;
}

std::int64_t draw(const std::vector<float>& row, std::uint64_t random, double temperature = 1.0,
                  std::int64_t top_k = 0, double top_p = 1.0) {
  return draw_with(kernels::tables(), row, NCK_FLOAT32, random, {temperature, top_k, top_p});
}

// Returns the tokens that some random integer draws.
std::vector<std::int64_t> kept(const std::vector<float>& row, double temperature,
                               std::int64_t top_k, double top_p) {
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
    // ⌈i · 2⁶⁴ / 1000⌉ is the first random integer that draws token i.
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

TEST_CASE(every_instruction_set_draws_what_a_sort_draws) {
  for_each_set([](const kernels::Tables& tables) {
    Random random{7};
    for (std::size_t vocab = 1; vocab <= 320; vocab += vocab < 80 ? 1 : 37) {
      for (int i = 0; i < 12; ++i) {
        const std::vector<float> row = random_row(random, vocab);
        const Settings how = random_settings(random, vocab);
        const std::uint64_t word = random.word();
        CHECK(draw_with(tables, row, NCK_FLOAT32, word, how) == slow_draw(row, word, how));
      }
    }
  });
}

TEST_CASE(long_rows_are_pruned_without_changing_a_token) {
  for_each_set([](const kernels::Tables& tables) {
    Random random{11};
    for (const std::size_t vocab : {1023U, 4096U, 5000U, 16411U}) {
      for (int i = 0; i < 12; ++i) {
        std::vector<float> row = random_row(random, vocab);
        // In some rows one token has nearly all the weight, so a sample of the row misses it.
        if (i % 3 == 0) row[random.below(vocab)] = 40.0f;
        if (i % 4 == 0) std::sort(row.begin(), row.end());
        Settings how = random_settings(random, vocab);
        if (i % 2 == 0) how.top_k = i == 0 ? 50 : 0;
        const std::uint64_t word = random.word();
        CHECK(draw_with(tables, row, NCK_FLOAT32, word, how) == slow_draw(row, word, how));
      }
    }
  });
}

TEST_CASE(rows_that_are_all_one_logit_are_tied_by_index) {
  for_each_set([](const kernels::Tables& tables) {
    for (const std::size_t vocab : {7U, 64U, 5001U}) {
      for (const float x : {-3.5f, 0.0f, infinity}) {
        std::vector<float> row(vocab, x);
        for (std::size_t i = 0; i < vocab && x == 0; i += 2) row[i] = -0.0f;
        for (const Settings how : {Settings{1, 0, 1}, Settings{1, 5, 1}, Settings{1, 0, 0.3}}) {
          for (const std::uint64_t word : {std::uint64_t{0}, last_word / 3, last_word}) {
            CHECK(draw_with(tables, row, NCK_FLOAT32, word, how) == slow_draw(row, word, how));
          }
        }
      }
    }
  });
}

TEST_CASE(other_dtypes_draw_like_their_floats) {
  for_each_set([](const kernels::Tables& tables) {
    Random random{3};
    for (std::size_t vocab = 1; vocab <= 90; ++vocab) {
      const std::vector<float> any = random_row(random, vocab);
      std::vector<float> row;
      std::vector<std::uint16_t> brain, half;
      for (const float x : any) {
        brain.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16U));
        row.push_back(std::bit_cast<float>(std::uint32_t{brain.back()} << 16U));
      }
      const Settings how = random_settings(random, vocab);
      const std::uint64_t word = random.word();
      const std::int64_t wanted = slow_draw(row, word, how);
      CHECK(draw_with(tables, brain, NCK_BFLOAT16, word, how) == wanted);
      CHECK(draw_with(tables, std::vector<double>(row.begin(), row.end()), NCK_FLOAT64, word,
                      how) == wanted);
      // Every float16 from 1 to 2, then as many from -2 to -1.
      std::vector<float> narrow;
      for (std::size_t i = 0; i < vocab; ++i) {
        const std::uint64_t bits = random.below(1024), sign = random.below(2);
        half.push_back(static_cast<std::uint16_t>(0x3C00U + bits + (sign << 15U)));
        narrow.push_back((1.0f + static_cast<float>(bits) / 1024.0f) * (sign != 0 ? -1.0f : 1.0f));
      }
      CHECK(draw_with(tables, half, NCK_FLOAT16, word, how) == slow_draw(narrow, word, how));
    }
  });
}

TEST_CASE(any_number_of_threads_draws_the_same_tokens_from_strided_rows) {
  constexpr std::int64_t rows = 37, vocab = 1500, stride = 1507;
  Random random{5};
  std::vector<float> logits(rows * stride, std::numeric_limits<float>::quiet_NaN());
  std::vector<std::uint64_t> words;
  Tokens wanted;
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::vector<float> row = random_row(random, vocab);
    std::copy(row.begin(), row.end(), logits.begin() + i * stride);
    words.push_back(random.word());
    wanted.push_back(slow_draw(row, words.back(), {0.7, 40, 0.9}));
  }
  for (const std::int32_t threads : {1, 2, 4, 64, 1 << 30}) {
    Tokens tokens(rows, -9);
    CHECK(nck_sample(logits.data(), rows, vocab, stride, NCK_FLOAT32, words.data(), nullptr,
                     nullptr, 0.7, 40, 0.9, tokens.data(), threads) == NCK_OK);
    CHECK(tokens == wanted);
  }
}

TEST_CASE(a_state_gives_each_row_an_integer_of_its_item) {
  const std::vector<float> logits(5 * 1000, 0.0f);
  const std::int64_t state[] = {1337, 7, 12}, items[] = {3, -1, 3, std::int64_t{1} << 40U, 0};
  for (const std::int64_t* const chosen : {static_cast<const std::int64_t*>(nullptr), items}) {
    Tokens tokens(5), wanted(5);
    std::vector<std::uint64_t> words;
    for (std::int64_t i = 0; i < 5; ++i) {
      const std::int64_t item = chosen == nullptr ? 7 + i : chosen[i];
      words.push_back(kernels::random_u64(1337, 3, static_cast<std::uint64_t>(item), 12));
    }
    CHECK(nck_sample(logits.data(), 5, 1000, 1000, NCK_FLOAT32, nullptr, state, chosen, 1, 0, 1,
                     tokens.data(), 1) == NCK_OK);
    CHECK(nck_sample(logits.data(), 5, 1000, 1000, NCK_FLOAT32, words.data(), nullptr, nullptr, 1,
                     0, 1, wanted.data(), 1) == NCK_OK);
    CHECK(tokens == wanted);
  }
}

TEST_CASE(rows_without_a_token_report_the_reason) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(draw({0.0f, nan, infinity}, 0) == token_of_nan);
  CHECK(draw({-infinity, -nan}, 0) == token_of_nan);
  CHECK(draw({-infinity, -infinity}, 0) == token_of_all_minus_infinity);
  for_each_set([&](const kernels::Tables& tables) {
    for (std::size_t vocab = 1; vocab < 300; ++vocab) {
      for (const float bad : {nan, -nan}) {
        std::vector<float> row(vocab, 1.0f);
        row[vocab * 7 / 8] = bad;
        CHECK(draw_with(tables, row, NCK_FLOAT32, 0, {}) == token_of_nan);
      }
    }
  });
  const float rows[] = {0, 0, -infinity, -infinity, nan, 0};
  const std::uint64_t words[] = {0, 0, 0};
  Tokens tokens(3, -9);
  CHECK(nck_sample(rows, 3, 2, 2, NCK_FLOAT32, words, nullptr, nullptr, 1, 0, 1, tokens.data(),
                   2) == NCK_LOGITS);
  CHECK(std::string(nck_last_error()) == "logits of row 1 are all -inf");
  CHECK((tokens == Tokens{0, -2, -1}));
}

TEST_CASE(temperature_0_takes_the_first_of_the_largest_logits) {
  const float rows[] = {1, 3, 2, 3, -infinity, infinity, 0, infinity, -0.0f, 0, -1, 0};
  const std::uint64_t random[] = {last_word, last_word, last_word};
  for (const std::int64_t top_k : {0, 1, 3}) {
    for (const double top_p : {1.0, 0.4}) {
      Tokens tokens(3, -9);
      CHECK(nck_sample(rows, 3, 4, 4, NCK_FLOAT32, random, nullptr, nullptr, 0, top_k, top_p,
                       tokens.data(), 1) == NCK_OK);
      CHECK((tokens == Tokens{1, 1, 0}));
    }
  }
}

TEST_CASE(arguments_out_of_range_are_refused_with_a_message) {
  const float row[] = {0, 1};
  const std::uint64_t words[] = {0};
  std::int64_t token = 0;
  const auto refusal = [&](std::int64_t vocab, double temperature, std::int64_t top_k, double top_p,
                           const std::uint64_t* random, const std::int64_t* state) {
    CHECK(nck_sample(row, 1, vocab, vocab, NCK_FLOAT32, random, state, nullptr, temperature, top_k,
                     top_p, &token, 1) == NCK_ARGUMENT);
    return std::string(nck_last_error());
  };
  CHECK(refusal(2, -1, 0, 1, words, nullptr) == "temperature must be finite and >= 0, got -1");
  CHECK(refusal(2, 1, -1, 1, words, nullptr) == "top_k must be at least 0, got -1");
  CHECK(refusal(2, 1, 0, 0, words, nullptr) == "top_p must be above 0 and at most 1, got 0");
  CHECK(refusal(1048577, 1, 0, 1, words, nullptr) ==
        "vocabulary must be at most 1048576 tokens, got 1048577");
  CHECK(refusal(2, 1, 0, 1, nullptr, nullptr) == "state must not be NULL");
  const std::int64_t seeds[] = {-1, 0, 0}, indices[] = {0, 0, -2};
  CHECK(refusal(2, 1, 0, 1, nullptr, seeds) == "seed must be in [0, 2^32), got -1");
  CHECK(refusal(2, 1, 0, 1, nullptr, indices) == "index must be at least 0, got -2");
}

TEST_CASE(doubles_beyond_float_are_infinite) {
  const std::vector<double> row{1e300, 0.0, 1e200};
  CHECK(draw_with(kernels::tables(), row, NCK_FLOAT64, 0, {}) == 0);
  CHECK(draw_with(kernels::tables(), row, NCK_FLOAT64, last_word, {}) == 2);
}

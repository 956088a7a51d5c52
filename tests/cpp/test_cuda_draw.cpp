// The GPU's draw by a team of one thread with the pieces and bins of a block, compared with a sort;
// and its random integers.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/draw_selection.hpp"
#include "kernels/philox.hpp"
#include "testing.hpp"

namespace {

using namespace nanochat;
using namespace nanochat::kernels;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> random_row(std::size_t vocab, unsigned seed, float spread) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> row(vocab);
  for (float& each : row) each = normal(engine);
  return row;
}

class OneThread {
 public:
  template <class Read, class Visit>
  void each(std::int32_t count, const Read& read, const Visit& visit) {
    for (std::int32_t i = count - 1; i >= 0; --i) visit(i, read(i));  // any order is allowed
  }
  template <class Read>
  std::int32_t largest(std::int32_t count, const Read& read) {
    std::int32_t best = order_of_minus_infinity;
    for (std::int32_t i = 0; i < count; ++i) best = std::max(best, read(i));
    return best;
  }
  template <class Read, class Value>
  std::uint64_t parts(std::int32_t begin, std::int32_t end, std::int32_t size, const Read& read,
                      const Value& value) {
    for (std::int32_t piece = 0; piece < draw_pieces; ++piece) {
      std::uint64_t& sum = pieces_[piece] = 0;
      const std::int32_t first = begin + piece * size, last = std::min(first + size, end);
      for (std::int32_t i = first; i < last; ++i) sum += value(i, read(i));
    }
    return std::accumulate(pieces_, pieces_ + draw_pieces, std::uint64_t{0});
  }
  Found locate(std::uint64_t target) const {
    Found found{0, 0};
    while (found.before + pieces_[found.index] <= target) {
      found.before += pieces_[found.index++];
      CHECK(found.index < draw_pieces);
    }
    return found;
  }
  void clear_bins() {
    low_.assign(draw_bins, 0);
    high_.assign(draw_bins, 0);
  }
  void add_to_bin(std::uint32_t bin, std::uint64_t value) {
    add_split(&low_[bin], &high_[bin], value, [](std::uint32_t* word, std::uint32_t amount) {
      const std::uint32_t old = *word;
      *word += amount;
      return old;
    });
  }
  std::uint64_t bin(std::int32_t i) const {
    const auto at = static_cast<std::size_t>(i);
    return std::uint64_t{high_[at]} << 32U | low_[at];
  }

 private:
  std::uint64_t pieces_[draw_pieces] = {};
  std::vector<std::uint32_t> low_, high_;
};

// The steps of draw.py.
std::int64_t sorted_draw(const std::vector<float>& row, std::uint64_t random, double temperature,
                         std::size_t top_k, double top_p) {
  const float largest = *std::max_element(row.begin(), row.end());
  const DrawOptions options = draw_options(temperature, 0, top_p);
  std::vector<std::uint64_t> weights(row.size());
  for (std::size_t i = 0; i < row.size(); ++i) {
    const float z = row[i] == largest ? 0.0f : (row[i] - largest) * options.scale;
    const bool is_nothing = row[i] == -infinity || (largest == infinity && row[i] != infinity);
    weights[i] = is_nothing ? 0 : integer_weight(exp32(z) * 0x1p40f);
  }
  std::vector<std::size_t> order(row.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  std::size_t kept = top_k == 0 ? row.size() : std::min(top_k, row.size());
  if (temperature == 0) kept = 1;
  if (top_p < 1) {
    std::uint64_t total = 0, sum = weights[order[0]];
    for (std::size_t i = 0; i < kept; ++i) total += weights[order[i]];
    const std::uint64_t needed = part_of(options.share, total);
    std::size_t shortest = 1;
    while (sum < needed) sum += weights[order[shortest++]];
    kept = shortest;
  }
  for (std::size_t i = kept; i < row.size(); ++i) weights[order[i]] = 0;
  const std::uint64_t total = std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
  const std::uint64_t target = multiply_high(random, total);
  std::uint64_t sum = 0;
  std::size_t token = 0;
  while ((sum += weights[token]) <= target) ++token;
  return static_cast<std::int64_t>(token);
}

std::int64_t team_draw(const std::vector<float>& row, std::uint64_t random, double temperature,
                       std::size_t top_k, double top_p) {
  OneThread team;
  return draw_token(
      team, static_cast<std::int32_t>(row.size()),
      [&](std::int32_t i) { return row[static_cast<std::size_t>(i)]; }, random,
      draw_options(temperature, static_cast<std::int64_t>(top_k), top_p));
}

void check_draws(const std::vector<float>& row, unsigned seed) {
  std::mt19937_64 engine(seed);
  for (const double temperature : {1.0, 0.1, 3.0, 0.0, 1e-300, 1e300}) {
    for (const std::size_t top_k : {0, 1, 2, 10, 64, 1000}) {
      for (const double top_p : {1.0, 0.9, 0.5, 1e-3, 1e-12}) {
        for (int repeat = 0; repeat < 8; ++repeat) {
          const std::uint64_t random = repeat == 0 ? 0 : repeat == 1 ? ~std::uint64_t{0} : engine();
          CHECK(team_draw(row, random, temperature, top_k, top_p) ==
                sorted_draw(row, random, temperature, top_k, top_p));
        }
      }
    }
  }
}

TEST_CASE(cuda_draws_equal_those_of_a_sort) {
  for (const std::size_t vocab : {1, 2, 31, 32, 33, 65, 1024, 1025, 5001}) {
    check_draws(random_row(vocab, static_cast<unsigned>(vocab) + 7, 2.5f), 11);
  }
}

TEST_CASE(cuda_draws_break_ties_by_the_lower_index) {
  std::vector<float> row = random_row(300, 4, 2.0f);
  for (float& each : row) each = std::round(each);  // gives both −0 and 0
  check_draws(row, 12);
  check_draws(std::vector<float>(100, 0.5f), 13);
  std::vector<float> zeros(70, 0.0f);
  for (std::size_t i = 0; i < zeros.size(); i += 3) zeros[i] = -0.0f;
  check_draws(zeros, 14);
}

TEST_CASE(cuda_draws_handle_infinities) {
  std::vector<float> row = random_row(200, 6, 2.0f);
  for (std::size_t i = 0; i < row.size(); i += 2) row[i] = -infinity;
  check_draws(row, 15);
  row[33] = row[99] = infinity;
  check_draws(row, 16);
  row[150] = std::numeric_limits<float>::quiet_NaN();
  CHECK(team_draw(row, 1, 1.0, 0, 1.0) == nanochat::kernels::token_of_nan);
  CHECK(team_draw(std::vector<float>(5, -infinity), 1, 1.0, 0, 1.0) ==
        nanochat::kernels::token_of_all_minus_infinity);
}

TEST_CASE(philox_gives_the_numbers_of_random123) {
  // The kat_vectors of Random123: philox4x32 10.
  const PhiloxWords zeros = philox4x32({{0, 0, 0, 0}}, 0, 0);
  CHECK(zeros.word[0] == 0x6627e8d5U && zeros.word[1] == 0xe169c58dU);
  CHECK(zeros.word[2] == 0xbc57ac4cU && zeros.word[3] == 0x9b00dbd8U);
  const std::uint32_t f = 0xFFFFFFFFU;
  const PhiloxWords ones = philox4x32({{f, f, f, f}}, f, f);
  CHECK(ones.word[0] == 0x408f276dU && ones.word[1] == 0x41c83b0eU);
  CHECK(ones.word[2] == 0xa20bc7c6U && ones.word[3] == 0x6d5451fdU);
  CHECK(random_u64(0, 0, 0, 0) == 0x6627e8d5e169c58dU);
  CHECK(random_u64(0, 0, 0, 1) == 0xbc57ac4c9b00dbd8U);
}

}  // namespace

// The arithmetic of the GPU's cross-entropy, run on the CPU by lanes that take turns, compared with
// float64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/row_arithmetic.hpp"
#include "testing.hpp"

namespace {

using namespace nanochat;
using namespace nanochat::kernels;

constexpr float infinity = float_infinity;

struct Options {
  double smoothing = 0, z_loss = 0, softcap = 0;
  std::vector<float> class_weights = {};
  float token_weight = 1, upstream = 1, scale = 1;
};

struct Outcome {
  double loss = 0, log_sum = 0;
  bool is_correct = false;
  std::vector<double> gradient = {};
};

// ── The cross-entropy in the order of a block of threads ──

constexpr int elements = 8;

struct LaneSums {
  RowSum sum = empty_sum();
  float deviations = 0;
};

struct Emulated {
  const std::vector<float>& logits;
  std::int32_t target;
  const Options& options;
  int lanes, phase;
  LossTerms terms =
      loss_terms(options.smoothing, options.z_loss, options.softcap,
                 static_cast<std::int64_t>(logits.size()), !options.class_weights.empty());

  std::int32_t vocab() const { return static_cast<std::int32_t>(logits.size()); }
  std::int32_t slots() const { return (phase + vocab() + elements - 1) / elements; }
  const float* class_weights() const {
    return options.class_weights.empty() ? nullptr : options.class_weights.data();
  }

  float z_target() const {
    const float logit = logits[static_cast<std::size_t>(target)];
    return terms.softcap > 0 ? capped(logit, terms.softcap, terms.inverse_cap) : logit;
  }

  template <bool is_plain>
  std::int32_t load(std::int32_t slot, float (&z)[elements]) const {
    const std::int32_t index = slot * elements - phase;
    for (int i = 0; i < elements; ++i) {
      const bool inside = index + i >= 0 && index + i < vocab();
      z[i] = inside ? logits[static_cast<std::size_t>(index + i)] : 0.0f;
    }
    cap_elements<is_plain>(z, index, vocab(), terms);
    return index;
  }

  template <bool is_plain>
  LaneSums sums() const {
    std::vector<LaneSums> lane(static_cast<std::size_t>(lanes));
    for (std::int32_t slot = 0; slot < slots(); ++slot) {
      LaneSums& own = lane[static_cast<std::size_t>(slot % lanes)];
      float z[elements];
      const std::int32_t index = load<is_plain>(slot, z);
      own.sum = with_elements<false>(own.sum, z, index, vocab());
      if (terms.smooth > 0) {
        own.deviations += deviations_of(z, index, vocab(), z_target(), class_weights());
      }
    }
    return over_lanes(lane);
  }

  LaneSums over_lanes(std::vector<LaneSums> lane) const {
    for (std::size_t other = lane.size() / 2; other > 0; other /= 2) {
      std::vector<LaneSums> next = lane;
      for (std::size_t i = 0; i < lane.size(); ++i) {
        const LaneSums& far = lane[i ^ other];
        next[i] = {merged<false>(lane[i].sum, far.sum), lane[i].deviations + far.deviations};
      }
      lane = next;
    }
    for (const LaneSums& each : lane) {
      CHECK(testing::same_bits(each.sum.rest, lane[0].sum.rest) ||
            (each.sum.rest != each.sum.rest && lane[0].sum.rest != lane[0].sum.rest));
      CHECK(each.sum.first == lane[0].sum.first);
    }
    return lane[0];
  }

  template <bool is_plain>
  Outcome run() const {
    const LaneSums all = sums<is_plain>();
    const float class_sum =
        options.class_weights.empty()
            ? static_cast<float>(vocab())
            : std::accumulate(options.class_weights.begin(), options.class_weights.end(), 0.0f);
    const RowWeights weights{value_or_one(class_weights(), target), options.token_weight,
                             options.token_weight * options.upstream * options.scale, class_sum};
    const RowOutcome row = finish_row(terms, weights, all.sum, z_target(), all.deviations);
    Outcome outcome{row.loss, row.log_sum, all.sum.first == target, {}};
    outcome.gradient.resize(logits.size(), 12345.0);
    for (std::int32_t slot = 0; slot < slots(); ++slot) {
      float z[elements];
      const std::int32_t index = load<is_plain>(slot, z);
      differentiate_elements<false, is_plain>(z, index, vocab(), target, row.slopes, terms,
                                              class_weights());
      for (int i = 0; i < elements; ++i) {
        const bool inside = index + i >= 0 && index + i < vocab();
        if (inside) outcome.gradient[static_cast<std::size_t>(index + i)] = double{z[i]};
      }
    }
    return outcome;
  }
};

Outcome emulated(const std::vector<float>& logits, std::int32_t target, const Options& options,
                 int lanes, int phase) {
  const Emulated block{logits, target, options, lanes, phase};
  const bool is_plain = options.smoothing <= 0 && options.softcap <= 0;
  return is_plain ? block.run<true>() : block.run<false>();
}

// ── The same in float64, from the formula in abi.h ──

double class_weight(const Options& options, std::size_t j) {
  return options.class_weights.empty() ? 1.0 : double{options.class_weights[j]};
}

Outcome reference(const std::vector<float>& logits, std::int32_t target, const Options& options) {
  const std::size_t vocab = logits.size(), t = static_cast<std::size_t>(target);
  std::vector<double> z(logits.begin(), logits.end());
  if (options.softcap > 0) {
    for (double& each : z) each = options.softcap * std::tanh(each / options.softcap);
  }
  const double largest = *std::max_element(z.begin(), z.end());
  double below = 0, equal = 0;
  for (const double each : z) {
    (each == largest ? equal : below) += std::exp(each - largest);
  }
  const double sum = below + equal, rest = std::log1p(below + (equal - 1));
  const double log_sum = largest + rest, distance = (largest - z[t]) + rest;
  const double own = (1 - options.smoothing) * class_weight(options, t);
  const double smooth = options.smoothing / static_cast<double>(vocab);
  double loss = own * distance + options.z_loss * log_sum * log_sum;
  double share = own + 2 * options.z_loss * log_sum;
  for (std::size_t j = 0; options.smoothing > 0 && j < vocab; ++j) {
    loss += smooth * class_weight(options, j) * ((z[t] - z[j]) + distance);
    share += smooth * class_weight(options, j);
  }
  Outcome outcome{loss * double{options.token_weight},
                  log_sum,
                  std::max_element(z.begin(), z.end()) - z.begin() == target,
                  {}};
  const double weight =
      double{options.token_weight} * double{options.upstream} * double{options.scale};
  for (std::size_t j = 0; j < vocab; ++j) {
    double g = share * std::exp(z[j] - largest) / sum - smooth * class_weight(options, j);
    // p − 1 as −(the others' share): near p = 1 the difference loses all digits.
    if (j == t && z[t] == largest) {
      g = (share - own) / sum - own * (below + (equal - 1)) / sum -
          smooth * class_weight(options, j);
    } else if (j == t) {
      g -= own;
    }
    if (options.softcap > 0) g *= 1 - z[j] / options.softcap * (z[j] / options.softcap);
    outcome.gradient.push_back(weight * g);
  }
  return outcome;
}

bool is_near(double a, double b, double relative, double absolute) {
  return a == b || std::fabs(a - b) <= relative * std::fabs(b) + absolute;
}

// slack: a factor on the tolerance, for inputs whose rounding the result amplifies.
void check_row(const std::vector<float>& logits, std::int32_t target, const Options& options,
               double slack = 1) {
  const Outcome want = reference(logits, target, options);
  // Under smoothing the reference itself is a difference of numbers near 1.
  const double noise = options.smoothing > 0 ? 1e-15 : 0;
  double largest = 0;
  for (const double g : want.gradient) largest = std::max(largest, std::fabs(g));
  for (const int lanes : {1, 4, 32, 256}) {
    for (const int phase : {0, 1, 7}) {
      const Outcome got = emulated(logits, target, options, lanes, phase);
      CHECK(is_near(got.loss, want.loss, 2e-6 * slack, 1e-9 * slack));
      CHECK(is_near(got.log_sum, want.log_sum, 1e-6, 1e-6));
      CHECK(got.is_correct == want.is_correct);
      for (std::size_t j = 0; j < logits.size(); ++j) {
        CHECK(is_near(got.gradient[j], want.gradient[j], 1e-5 * slack,
                      1e-7 * largest * slack + noise));
      }
    }
  }
}

std::vector<float> random_row(std::size_t vocab, unsigned seed, float spread) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> row(vocab);
  for (float& each : row) each = normal(engine);
  return row;
}

std::vector<float> random_weights(std::size_t vocab) {
  std::vector<float> weights = random_row(vocab, 99, 1.0f);
  for (float& each : weights) each = std::fabs(each) + 0.1f;
  return weights;
}

constexpr std::size_t vocabularies[] = {1, 2, 7, 8, 65, 333, 1024, 5001};

TEST_CASE(cuda_rows_equal_float64_for_every_option) {
  for (const std::size_t vocab : vocabularies) {
    const std::vector<float> row = random_row(vocab, static_cast<unsigned>(vocab), 3.0f);
    for (const std::size_t at : {std::size_t{0}, vocab / 2, vocab - 1}) {
      const auto target = static_cast<std::int32_t>(at);
      check_row(row, target, {});
      check_row(row, target, {.class_weights = random_weights(vocab)});
      check_row(row, target, {.token_weight = 0.25f, .upstream = -3.0f, .scale = 1e-3f});
      check_row(row, target, {.z_loss = 1e-3});
      check_row(row, target, {.smoothing = 0.1}, 4);
      check_row(row, target, {.softcap = 5.0}, 8);
      check_row(row, target,
                {.smoothing = 0.2,
                 .z_loss = 1e-2,
                 .softcap = 15.0,
                 .class_weights = random_weights(vocab),
                 .token_weight = 2.0f},
                8);
    }
  }
}

TEST_CASE(cuda_rows_keep_the_digits_of_a_likely_target) {
  std::vector<float> row(1000, 0.0f);
  row[17] = std::log(999.0f * 999.0f);  // p = 0.999
  check_row(row, 17, {});
  row[17] = 40.0f;
  check_row(row, 17, {});
  check_row(row, 16, {});
}

TEST_CASE(cuda_rows_are_accurate_under_a_large_offset) {
  std::vector<float> row = random_row(777, 5, 2.0f);
  for (float& each : row) each += 1e4f;
  check_row(row, 300, {});
  check_row(row, 300, {.smoothing = 0.1}, 4);
}

TEST_CASE(cuda_rows_count_the_first_of_equal_logits_as_the_largest) {
  const std::vector<float> equal(100, 2.5f);
  CHECK(emulated(equal, 0, {}, 32, 3).is_correct);
  CHECK(!emulated(equal, 1, {}, 32, 3).is_correct);
  check_row(equal, 0, {});
  check_row(equal, 99, {});
}

void check_nan(const std::vector<float>& row, std::int32_t target, const Options& options) {
  for (const int lanes : {1, 32}) {
    const Outcome got = emulated(row, target, options, lanes, 3);
    CHECK(std::isnan(got.loss) && std::isnan(got.log_sum));
    for (const double g : got.gradient) CHECK(std::isnan(g));
  }
}

TEST_CASE(cuda_rows_without_a_distribution_are_nan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::size_t at : {std::size_t{0}, std::size_t{40}, std::size_t{64}}) {
    for (const float bad : {nan, infinity}) {
      std::vector<float> row = random_row(65, 1, 1.0f);
      row[at] = bad;
      check_nan(row, 40, {});
      check_nan(row, 40, {.smoothing = 0.1, .z_loss = 0.1});
    }
  }
  check_nan(std::vector<float>(65, -infinity), 2, {});
  check_nan(std::vector<float>(65, nan), 2, {});
  check_nan(std::vector<float>(1, -infinity), 0, {});
}

TEST_CASE(cuda_rows_with_masked_logits_are_finite_elsewhere) {
  std::vector<float> row = random_row(65, 2, 1.0f);
  for (std::size_t j = 0; j < 40; ++j) row[j] = -infinity;
  check_row(row, 50, {});
  const Outcome impossible = emulated(row, 3, {}, 32, 1);
  CHECK(impossible.loss == std::numeric_limits<double>::infinity());
  CHECK(impossible.gradient[3] == -1.0);
  for (const double g : impossible.gradient) CHECK(std::isfinite(g));
}

TEST_CASE(cuda_rows_tell_tokens_from_ignored_and_stray_targets) {
  CHECK(row_kind(-100, 65, -100) == RowKind::ignored);
  CHECK(row_kind(3, 65, 3) == RowKind::ignored);
  CHECK(row_kind(64, 65, -100) == RowKind::token);
  CHECK(row_kind(65, 65, -100) == RowKind::stray);
  CHECK(row_kind(-1, 65, -100) == RowKind::stray);
}

}  // namespace

// Optimizer steps against the textbook formulas, one parameter at a time.
#include <cmath>
#include <vector>

#include "scalar/optimizer.hpp"
#include "testing.hpp"

using nanochat::Precision;
using testing::same_bits;

TEST_CASE(first_adamw_step_moves_by_lr_against_the_sign_of_the_gradient) {
  std::vector<double> value{1.0, 1.0}, grad{3.0, -0.01}, m(2), v(2);
  nanochat::adamw_step(value.data(), grad.data(), m.data(), v.data(), 2,
                       {0.1, 0.9, 0.999, 0.0, 0.0, 1, 1.0}, Precision::float64);
  CHECK(std::fabs(value[0] - 0.9) < 1e-12 && std::fabs(value[1] - 1.1) < 1e-12);
}

TEST_CASE(sgd_buffer_starts_with_the_gradient_and_then_decays) {
  std::vector<double> value{1.0}, grad{0.5}, buffer{99.0};
  nanochat::sgd_step(value.data(), grad.data(), buffer.data(), 1, {0.1, 0.9, 0.0, true, 1.0},
                     Precision::float64);
  CHECK(buffer[0] == 0.5 && same_bits(value[0], 1.0 - 0.1 * 0.5));
  nanochat::sgd_step(value.data(), grad.data(), buffer.data(), 1, {0.1, 0.9, 0.0, false, 1.0},
                     Precision::float64);
  CHECK(buffer[0] == 0.9 * 0.5 + 0.5);
}

TEST_CASE(weight_decay_is_decoupled_from_the_gradient) {
  std::vector<double> value{2.0}, grad{0.0}, m(1), v(1), buffer(1);
  nanochat::adamw_step(value.data(), grad.data(), m.data(), v.data(), 1,
                       {0.1, 0.9, 0.999, 1e-8, 0.5, 1, 1.0}, Precision::float64);
  CHECK(same_bits(value[0], 2.0 * (1.0 - 0.1 * 0.5)));
  value[0] = 2.0;
  nanochat::sgd_step(value.data(), grad.data(), buffer.data(), 1, {0.1, 0.0, 0.5, true, 1.0},
                     Precision::float64);
  CHECK(same_bits(value[0], 2.0 * (1.0 - 0.1 * 0.5)));
}

TEST_CASE(float32_stores_numbers_that_float_can_hold) {
  std::vector<double> value{0.1f}, grad{0.3f}, m(1), v(1);
  nanochat::adamw_step(value.data(), grad.data(), m.data(), v.data(), 1,
                       {0.01, 0.9, 0.999, 1e-8, 0.1, 1, 1.0}, Precision::float32);
  for (const double x : {value[0], m[0], v[0]}) {
    CHECK(same_bits(x, static_cast<double>(static_cast<float>(x))));
  }
}

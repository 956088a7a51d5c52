// Optimizer kernels against ../../csrc/scalar/optimizer.cpp: bit-identical or small errors.
#include "scalar/optimizer.hpp"
#include "simd_testing.hpp"

using nanochat::AdamWSettings;
using nanochat::Precision;
using nanochat::simd::Adam;
using nanochat::simd::Sgd;
using nanochat::simd::Tables;
using simd_testing::for_each_table;
using simd_testing::Number;
using simd_testing::same;

namespace {

Adam adam_of(const AdamWSettings& s) {
  const auto step = static_cast<double>(s.step);
  return {s.lr,
          s.beta1,
          s.beta2,
          s.eps,
          s.weight_decay,
          1.0 - nanochat::libm::pow(s.beta1, step),
          1.0 - nanochat::libm::pow(s.beta2, step),
          s.grad_scale};
}

// Parameters with gradients over 60 orders of magnitude, and special numbers.
template <class T>
struct State {
  std::vector<T> value, grad, m, v;

  State(std::size_t n, std::mt19937_64& random, double orders) {
    std::uniform_real_distribution<double> unit(-1.0, 1.0);
    const auto spread = [&] { return unit(random) * std::pow(10.0, orders / 2 * unit(random)); };
    for (std::size_t i = 0; i < n; ++i) {
      value.push_back(static_cast<T>(unit(random)));
      grad.push_back(static_cast<T>(spread()));
      m.push_back(static_cast<T>(unit(random) * spread()));
      const double root = spread();
      v.push_back(static_cast<T>(root * root));
      if (i % 97 == 0) grad[i] = m[i] = v[i] = T{0};
      if (i % 97 == 1) grad[i] = T(0.125);
    }
  }
};

template <class T>
std::vector<double> doubles(const std::vector<T>& x) {
  return {x.begin(), x.end()};
}

}  // namespace

TEST_CASE(simd_exact_adamw_has_the_bits_of_the_scalar_step) {
  for (const Tables* tables : simd_testing::available()) {
    std::mt19937_64 random(11);
    for (const double orders : {2.0, 60.0, 200.0, 310.0}) {
      for (const std::size_t n : {1, 2, 7, 8, 9, 31, 4192, 20001}) {
        State<double> fast(n, random, orders);
        if (orders > 300 && n > 40) {
          fast.grad[20] = std::numeric_limits<double>::infinity();
          fast.grad[21] = std::numeric_limits<double>::quiet_NaN();
          fast.grad[22] = 5e-324;
          fast.v[23] = 5e-324;
          fast.v[24] = -1.0;
          fast.grad[25] = 1e200;
        }
        State<double> slow = fast;
        for (long long step = 1; step <= 3; ++step) {
          const AdamWSettings s{
              0.01, 0.85, 0.99, 1e-8, step == 2 ? 0.1 : 0.0, step, step == 3 ? 0.37 : 1.0};
          tables->exact.adamw(fast.value.data(), fast.grad.data(), fast.m.data(), fast.v.data(), n,
                              adam_of(s));
          nanochat::adamw_step(slow.value.data(), slow.grad.data(), slow.m.data(), slow.v.data(), n,
                               s, Precision::float64);
          for (std::size_t i = 0; i < n; ++i) {
            CHECK(same(fast.value[i], slow.value[i]));
            CHECK(same(fast.m[i], slow.m[i]) && same(fast.v[i], slow.v[i]));
          }
        }
      }
    }
  }
}

TEST_CASE(simd_fast_adamw_is_close_to_the_scalar_step) {
  for_each_table([](const auto& s) {
    using T = Number<decltype(s)>;
    const double bound = sizeof(T) == 8 ? 1e-15 : 1e-6;
    std::mt19937_64 random(12);
    for (const std::size_t n : {1, 5, 16, 39, 4192}) {
      State<T> fast(n, random, sizeof(T) == 8 ? 60.0 : 12.0);
      auto value = doubles(fast.value), grad = doubles(fast.grad), m = doubles(fast.m),
           v = doubles(fast.v);
      const auto before = value;
      const AdamWSettings settings{0.01, 0.85, 0.99, 1e-8, 0.1, 5, 0.5};
      s.table.adamw(fast.value.data(), fast.grad.data(), fast.m.data(), fast.v.data(), n,
                    adam_of(settings));
      nanochat::adamw_step(value.data(), grad.data(), m.data(), v.data(), n, settings,
                           Precision::float64);
      for (std::size_t i = 0; i < n; ++i) {
        const auto near = [bound](T x, double y, double scale) {
          return std::fabs(static_cast<double>(x) - y) <= bound * scale;
        };
        const double update = std::fabs(value[i] - before[i]);
        CHECK(near(fast.value[i], value[i], std::fabs(before[i]) + update));
        CHECK(near(fast.v[i], v[i], v[i]));
        // The mean may cancel: its error is relative to its terms.
        CHECK(near(fast.m[i], m[i], std::fabs(m[i]) + std::fabs(grad[i])));
      }
    }
  });
}

TEST_CASE(simd_adamw_moves_nothing_without_gradient) {
  for_each_table([](const auto& s) {
    using T = Number<decltype(s)>;
    std::vector<T> value(21, T(0.7)), grad(21), m(21), v(21);
    s.table.adamw(value.data(), grad.data(), m.data(), v.data(), 20,
                  adam_of({0.01, 0.9, 0.99, 1e-8, 0.0, 1, 1.0}));
    for (const T x : value) CHECK(x == T(0.7));
  });
}

TEST_CASE(simd_optimizers_write_n_numbers) {
  std::mt19937_64 random(13);
  for_each_table([&](const auto& s) {
    using T = Number<decltype(s)>;
    for (std::int32_t n = 1; n <= 40; ++n) {
      simd_testing::Rows<T> state(4, n, random, 16);
      for (std::int32_t i = 0; i < n; ++i) state(3, i) = std::fabs(state(3, i));
      s.table.adamw(state.row(0), state.row(1), state.row(2), state.row(3),
                    static_cast<std::size_t>(n), adam_of({0.01, 0.9, 0.99, 1e-8, 0.0, 1, 1.0}));
      CHECK(state.guards_stand());
      s.table.sgd(state.row(0), state.row(1), state.row(2), static_cast<std::size_t>(n),
                  Sgd{0.1, 0.9, 0.01, false, 1.0});
      CHECK(state.guards_stand());
      for (std::int32_t i = 0; i < n; ++i) CHECK(!std::isnan(state(0, i)));
    }
  });
}

TEST_CASE(simd_sgd_follows_the_scalar_step) {
  std::mt19937_64 random(14);
  for_each_table([&](const auto& s) {
    using T = Number<decltype(s)>;
    const double bound = sizeof(T) == 8 ? 1e-15 : 1e-6;
    State<T> fast(1001, random, 4.0);
    auto value = doubles(fast.value), grad = doubles(fast.grad), buffer = doubles(fast.m);
    for (const bool first : {true, false}) {
      s.table.sgd(fast.value.data(), fast.grad.data(), fast.m.data(), 1001,
                  Sgd{0.1, 0.9, 0.01, first, 0.5});
      nanochat::sgd_step(value.data(), grad.data(), buffer.data(), 1001,
                         {0.1, 0.9, 0.01, first, 0.5}, Precision::float64);
      for (std::size_t i = 0; i < 1001; ++i) {
        if (s.exact) {
          CHECK(static_cast<double>(fast.value[i]) == value[i]);
          CHECK(static_cast<double>(fast.m[i]) == buffer[i]);
        }
        const double scale = std::fabs(value[i]) + std::fabs(grad[i]) + std::fabs(buffer[i]);
        CHECK(std::fabs(static_cast<double>(fast.value[i]) - value[i]) <= bound * (1.0 + scale));
        CHECK(std::fabs(static_cast<double>(fast.m[i]) - buffer[i]) <= bound * (1.0 + scale));
      }
    }
  });
}

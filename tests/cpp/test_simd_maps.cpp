// Functions of one number: bit-identical to libm in the exact table, bounded error in fast tables.
#include "scalar/libm.hpp"
#include "simd_testing.hpp"

using nanochat::simd::Map;
using simd_testing::for_each_table;
using simd_testing::Number;
using simd_testing::same;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// Errors in units in the last place of T, against long double; infinities and nan must agree.
template <class T>
double units(T x, long double truth) {
  if (std::isnan(truth)) return std::isnan(x) ? 0.0 : inf;
  const T rounded = static_cast<T>(truth);
  if (std::isinf(rounded) || std::isinf(x)) {
    const T largest = std::numeric_limits<T>::max();
    return x == rounded || (x == largest && std::isinf(rounded)) ? 0.0 : inf;
  }
  const T unit =
      std::nextafter(std::fabs(rounded), std::numeric_limits<T>::infinity()) - std::fabs(rounded);
  return static_cast<double>(
      std::fabs((static_cast<long double>(x) - truth) / static_cast<long double>(unit)));
}

template <class T>
std::vector<T> arguments(Map op, std::mt19937_64& random) {
  std::vector<T> all{T(0),
                     T(-0.0),
                     T(1),
                     T(-1),
                     T(inf),
                     T(-inf),
                     T(nan),
                     std::numeric_limits<T>::min(),
                     std::numeric_limits<T>::denorm_min(),
                     std::numeric_limits<T>::max(),
                     std::numeric_limits<T>::lowest()};
  std::uniform_real_distribution<double> unit(-1.0, 1.0);
  for (int i = 0; i < 5000; ++i) {
    const double x = unit(random);
    all.push_back(static_cast<T>(x));
    all.push_back(static_cast<T>(x * 20.0));
    all.push_back(static_cast<T>(x * 760.0));
    all.push_back(static_cast<T>(1.0 + x * std::exp2(20.0 * unit(random) - 20.0)));
    all.push_back(static_cast<T>(x * std::exp2(120.0 * unit(random))));
    all.push_back(static_cast<T>(x * std::exp2(1000.0 * unit(random))));
  }
  if (op == Map::power || op == Map::power_local) {
    for (T& x : all) x = std::fabs(x);
  }
  return all;
}

long double truth(Map op, long double x, double c) {
  switch (op) {
    case Map::exp:
      return std::exp(x);
    case Map::log:
      return std::log(x);
    case Map::tanh:
      return std::tanh(x);
    case Map::relu:
      return x > 0 || std::isnan(x) ? x : 0;
    case Map::step:
      return x > 0 ? 1 : 0;
    case Map::inverse:
      return 1 / x;
    case Map::power:
      return std::pow(x, static_cast<long double>(c));
    case Map::power_local:
      if (c == 0.0) return 0;
      return static_cast<long double>(c) * std::pow(x, static_cast<long double>(c - 1.0));
    case Map::one_minus_square:
      return 1 - x * x;
    case Map::add_constant:
      return x + static_cast<long double>(c);
  }
  return 0;
}

double exactly(Map op, double x, double c) {
  namespace libm = nanochat::libm;
  switch (op) {
    case Map::exp:
      return libm::exp(x);
    case Map::log:
      return libm::log(x);
    case Map::tanh:
      return libm::tanh(x);
    case Map::power:
      return libm::pow(x, c);
    case Map::power_local:
      return c == 0.0 ? 0.0 : c * libm::pow(x, c - 1.0);
    case Map::one_minus_square:
      return 1.0 - x * x;
    case Map::relu:
      return x > 0.0 || std::isnan(x) ? x : 0.0;
    case Map::step:
      return x > 0.0 ? 1.0 : 0.0;
    case Map::inverse:
      return 1.0 / x;
    case Map::add_constant:
      return x + c;
  }
  return 0.0;
}

template <class S>
void check_map(const S& s, Map op, double c, double most_units) {
  using T = Number<S>;
  std::mt19937_64 random(7);
  const std::vector<T> x = arguments<T>(op, random);
  std::vector<T> y(x.size());
  s.table.map(op, y.data(), x.data(), x.size(), c);
  double worst = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if constexpr (std::is_same_v<T, double>) {
      if (s.exact) {
        CHECK(same(y[i], exactly(op, x[i], c)));
        continue;
      }
    }
    if (std::isnan(x[i]) && op != Map::step) {
      const double exponent = op == Map::power_local ? c - 1.0 : c;
      const bool power = op == Map::power || op == Map::power_local;
      const bool zero = op == Map::power_local && c == 0.0 && y[i] == 0;
      CHECK(std::isnan(y[i]) || zero || (power && exponent == 0.0));
      continue;
    }
    const long double right = truth(op, static_cast<long double>(x[i]), c);
    const double error = units(y[i], right);
    if (error > worst) worst = error;
    if (!(error <= most_units)) {
      std::fprintf(stderr, "%s, %zu bytes: op %d, c %g, x %a: got %a, not %a (%g units)\n",
                   s.table.name, sizeof(T), static_cast<int>(op), c, static_cast<double>(x[i]),
                   static_cast<double>(y[i]), static_cast<double>(right), error);
    }
    CHECK(error <= most_units);
  }
  if (std::getenv("NCLAB_TEST_PRINT") != nullptr) {
    std::printf("%s %zu bytes exact %d op %d c %g: %.3f units\n", s.table.name, sizeof(T), s.exact,
                static_cast<int>(op), c, worst);
  }
}

}  // namespace

TEST_CASE(simd_functions_are_libms_or_close) {
  for_each_table([](const auto& s) {
    const double bound = sizeof(Number<decltype(s)>) == 8 ? 2.0 : 4.0;
    for (const Map op : {Map::exp, Map::log, Map::tanh}) check_map(s, op, 0.0, bound);
  });
}

TEST_CASE(simd_powers_are_libms_or_close) {
  for_each_table([](const auto& s) {
    const double bound = sizeof(Number<decltype(s)>) == 8 ? 2.0 : 4.0;
    for (const double c : {-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 0.3}) {
      check_map(s, Map::power, c, bound);
      check_map(s, Map::power_local, c, bound);
    }
  });
}

TEST_CASE(simd_simple_maps_round_once) {
  for_each_table([](const auto& s) {
    for (const Map op : {Map::relu, Map::step, Map::inverse}) check_map(s, op, 0.0, 0.5);
    check_map(s, Map::add_constant, 0.25, 0.5);
  });
}

TEST_CASE(simd_one_minus_square_is_exact_or_fused) {
  for_each_table([](const auto& s) {
    using T = Number<decltype(s)>;
    for (const T x : {T(0), T(0.3), T(-0.999), T(1), T(7)}) {
      T y = 9;
      s.table.map(Map::one_minus_square, &y, &x, 1, 0.0);
      CHECK(same(y, s.multiply_add(-x, x, T{1})));
    }
  });
}

TEST_CASE(simd_map_writes_n_numbers_and_works_in_place) {
  std::mt19937_64 random(8);
  for_each_table([&](const auto& s) {
    using T = Number<decltype(s)>;
    for (std::int32_t n = 1; n <= 40; ++n) {
      for (const Map op :
           {Map::exp, Map::log, Map::tanh, Map::relu, Map::step, Map::inverse, Map::power,
            Map::power_local, Map::one_minus_square, Map::add_constant}) {
        simd_testing::Rows<T> src(1, n, random, 16);
        simd_testing::Rows<T> dst(1, n, random, 16);
        s.table.map(op, dst.row(0), src.row(0), static_cast<std::size_t>(n), 0.5);
        CHECK(dst.guards_stand());
        s.table.map(op, src.row(0), src.row(0), static_cast<std::size_t>(n), 0.5);
        CHECK(simd_testing::equal(src, dst));
      }
    }
  });
}

// Functions of one number over arrays.
#include "scalar/simd/kernels.hpp"
#include "simd/math.hpp"

extern "C" {
double exp(double) noexcept;
double log(double) noexcept;
double tanh(double) noexcept;
double pow(double, double) noexcept;
}

namespace nanochat::simd::NCLAB_SIMD {
namespace {

// A volatile pointer: compilers would turn pow(x, 2.0) into x*x, which rounds differently.
double (*volatile const pow_function)(double, double) = &::pow;

template <class T, class F>
inline void each_vector(T* dst, const T* src, std::size_t n, F f) noexcept {
  using V = Whole<T>;
  constexpr std::size_t lanes = width<T>;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) store(dst + i, f(load<V>(src + i)));
  if (i == n) return;
  const int rest = static_cast<int>(n - i);
  store_first(dst + i, f(load_first<V>(src + i, rest)), rest);
}

template <class T, class F>
inline void each_number(T* dst, const T* src, std::size_t n, F f) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    dst[i] = static_cast<T>(f(static_cast<double>(src[i])));
  }
}

// scale * pow(x, exponent), one number at a time. Equal neighbors share a call: a softmax divides
// all of its terms by the same total.
template <class T>
void libm_power(T* dst, const T* src, std::size_t n, double exponent, double scale) noexcept {
  auto* const power = pow_function;
  double base = 1.0;  // pow(1, anything) is 1
  double result = 1.0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto x = static_cast<double>(src[i]);
    if (!(x == base) || x == 0.0) {  // equal zeros may differ in sign
      base = x;
      result = power(x, exponent);
    }
    dst[i] = static_cast<T>(scale * result);
  }
}

// scale * x**exponent. The exponents that models use need only products, divisions and roots.
template <class T>
void fast_power(T* dst, const T* src, std::size_t n, double exponent, double scale) noexcept {
  using V = Whole<T>;
  const auto s = static_cast<T>(scale);
  if (exponent == -2.0) {
    each_vector(dst, src, n, [s](V x) { return s / x / x; });
  } else if (exponent == -1.5) {
    each_vector(dst, src, n, [s](V x) { return s / x / square_root(x + T{0}); });
  } else if (exponent == -1.0) {
    each_vector(dst, src, n, [s](V x) { return s / x; });
  } else if (exponent == -0.5) {  // + 0: pow takes -0 for 0
    each_vector(dst, src, n, [s](V x) { return s / square_root(x + T{0}); });
  } else if (exponent == 0.0) {
    each_vector(dst, src, n, [s](V) { return broadcast<V>(s); });
  } else if (exponent == 0.5) {
    each_vector(dst, src, n, [s](V x) { return s * square_root(x + T{0}); });
  } else if (exponent == 1.0) {
    each_vector(dst, src, n, [s](V x) { return s * x; });
  } else if (exponent == 2.0) {
    each_vector(dst, src, n, [s](V x) { return s * (x * x); });
  } else if (exponent == 3.0) {
    each_vector(dst, src, n, [s](V x) { return s * (x * x * x); });
  } else {
    libm_power(dst, src, n, exponent, scale);
  }
}

template <class N>
inline void power_of(typename N::T* dst, const typename N::T* src, std::size_t n, double exponent,
                     double scale) noexcept {
  if constexpr (N::fused) {
    fast_power(dst, src, n, exponent, scale);
  } else {
    libm_power(dst, src, n, exponent, scale);
  }
}

}  // namespace

template <class N>
void map(Map op, typename N::T* dst, const typename N::T* src, std::size_t n, double c) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  switch (op) {
    case Map::exp:
      if constexpr (N::fused) return each_vector(dst, src, n, [](V x) { return vector_exp(x); });
      return each_number(dst, src, n, [](double x) { return ::exp(x); });
    case Map::log:
      if constexpr (N::fused) return each_vector(dst, src, n, [](V x) { return vector_log(x); });
      return each_number(dst, src, n, [](double x) { return ::log(x); });
    case Map::tanh:
      if constexpr (N::fused) return each_vector(dst, src, n, [](V x) { return vector_tanh(x); });
      return each_number(dst, src, n, [](double x) { return ::tanh(x); });
    case Map::relu:
      return each_vector(dst, src, n, [](V x) { return x <= T{0} ? V{} : x; });
    case Map::step:
      return each_vector(dst, src, n, [](V x) { return x > T{0} ? broadcast<V>(T{1}) : V{}; });
    case Map::inverse:
      return each_vector(dst, src, n, [](V x) { return T{1} / x; });
    case Map::power:
      return power_of<N>(dst, src, n, c, 1.0);
    case Map::power_local:
      // x ** 0 is 1 everywhere, also at 0, where 0 * 0 ** -1 would be nan.
      if (c == 0.0) return each_vector(dst, src, n, [](V) { return V{}; });
      return power_of<N>(dst, src, n, c - 1.0, c);
    case Map::one_minus_square:
      return each_vector(dst, src, n, [](V x) {
        if constexpr (N::fused) return fused_multiply_add(-x, x, broadcast<V>(T{1}));
        return T{1} - x * x;
      });
    case Map::add_constant:
      return each_vector(dst, src, n, [c](V x) { return x + static_cast<T>(c); });
  }
}

template void map<Exact>(Map, double*, const double*, std::size_t, double) noexcept;
template void map<Fast64>(Map, double*, const double*, std::size_t, double) noexcept;
template void map<Fast32>(Map, float*, const float*, std::size_t, double) noexcept;

}  // namespace nanochat::simd::NCLAB_SIMD

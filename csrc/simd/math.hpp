// exp, log and tanh of whole vectors, without branches. Follows the rule of vector.hpp.
// The polynomials interpolate their functions at Chebyshev nodes of the reduced range. The error of
// each is given relative to the result.
#ifndef NANOCHAT_SIMD_MATH_HPP_
#define NANOCHAT_SIMD_MATH_HPP_

#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

template <class T>
struct Constants;

template <>
struct Constants<double> {
  static constexpr int mantissa = 52;
  static constexpr std::int64_t bias = 1023;
  static constexpr double rounder = 0x1.8p52;  // adding it leaves an integer in the low bits
  // ln 2 in two parts; the first has enough zeros for n * ln2_high to be exact.
  static constexpr double ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;
  static constexpr double log2_e = 0x1.71547652b82fep+0;
  static constexpr double exp_most = 710.0, exp_least = -746.0, exp_normal = -708.0;
  static constexpr std::uint64_t root_half = 0x3fe6a09e667f3bcd;  // bits of sqrt(1/2)
  static constexpr double least_normal = 0x1p-1022, infinity = __builtin_inf();
  static constexpr double lift = 0x1p54, lift_log2 = 54.0;
  static constexpr double tanh_most = 22.0;
  // (exp(r) - 1 - r) / r**2 for |r| < ln(2) / 2: 1.3e-17.
  static constexpr double exp_terms[] = {
      0x1.0000000000000p-1,  0x1.5555555555556p-3,  0x1.5555555553d63p-5,  0x1.11111111109b3p-7,
      0x1.6c16c1788bd90p-10, 0x1.a01a01a7c41d5p-13, 0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19,
      0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26};
  // (2**f - 1) / f for |f| <= 1/2: 2.0e-17.
  static constexpr double exp2_terms[] = {
      0x1.62e42fefa39efp-1,  0x1.ebfbdff82c598p-3,  0x1.c6b08d704a0c2p-5,  0x1.3b2ab6fba1ddap-7,
      0x1.5d87fe78a5276p-10, 0x1.430913096fd9fp-13, 0x1.ffcbfc670dcd4p-17, 0x1.62bfd47773353p-20,
      0x1.b524fae627834p-24, 0x1.e6063f7217bc6p-28, 0x1.e9d3fe3952179p-32};
  // (log((1 + s) / (1 - s)) / s - 2) / s**2 in s**2 for |s| < 0.172: 9.6e-18.
  static constexpr double log_terms[] = {
      0x1.5555555555558p-1, 0x1.9999999995204p-2, 0x1.2492492e09d4dp-2, 0x1.c71c62c639fdep-3,
      0x1.7462bd8f7796ep-3, 0x1.39fd392179a95p-3, 0x1.2b6688a387e03p-3};
  // (tanh(x) / x - 1) / x**2 in x**2 for x**2 < 1/8: 2.1e-18.
  static constexpr double tanh_terms[] = {
      -0x1.5555555555555p-2,  0x1.1111111111043p-3,  -0x1.ba1ba1b9f0b45p-5,
      0x1.664f4867201eap-6,   -0x1.226e2c71c42adp-7, 0x1.d6d0917c1ec41p-9,
      -0x1.7d4a1d9890753p-10, 0x1.2fb4b5e82e0ccp-11, -0x1.90f1e96daedaap-13};
};

template <>
struct Constants<float> {
  static constexpr int mantissa = 23;
  static constexpr std::int32_t bias = 127;
  static constexpr float rounder = 0x1.8p23F;
  static constexpr float ln2_high = 0x1.62e4p-1F, ln2_low = 0x1.7f7d1cp-20F;
  static constexpr float log2_e = 0x1.715476p+0F;
  static constexpr float exp_most = 89.0F, exp_least = -104.0F, exp_normal = -87.0F;
  static constexpr std::uint32_t root_half = 0x3f3504f3;
  static constexpr float least_normal = 0x1p-126F, infinity = __builtin_inff();
  static constexpr float lift = 0x1p25F, lift_log2 = 25.0F;
  static constexpr float tanh_most = 10.0F;
  // 8.1e-9
  static constexpr float exp_terms[] = {0x1.000000p-1F, 0x1.5554dcp-3F, 0x1.55551ap-5F,
                                        0x1.120b6ep-7F, 0x1.6d110ap-10F};
  // 9.2e-9
  static constexpr float exp2_terms[] = {0x1.62e430p-1F, 0x1.ebfbe0p-3F,  0x1.c6af6cp-5F,
                                         0x1.3b2a54p-7F, 0x1.5f0890p-10F, 0x1.44138ap-13F};
  // 5.2e-9
  static constexpr float log_terms[] = {0x1.55555cp-1F, 0x1.997c12p-2F, 0x1.2eeb80p-2F};
  // 2.4e-9
  static constexpr float tanh_terms[] = {-0x1.555554p-2F, 0x1.110f02p-3F, -0x1.b8cfa0p-5F,
                                         0x1.44642cp-6F};
};

template <class V, int count>
inline V polynomial(V x, const Element<V> (&terms)[count]) noexcept {
  V sum = broadcast<V>(terms[count - 1]);
#pragma GCC unroll 16
  for (int i = count - 2; i >= 0; --i) sum = fused_multiply_add(sum, x, broadcast<V>(terms[i]));
  return sum;
}

// x = n * ln 2 + r with |r| <= ln(2) / 2.
template <class V>
struct Reduced {
  Integers<V> n;
  V r_minus;  // exp(r) - 1
};

template <class V>
inline Reduced<V> reduced_exp(V x) noexcept {
  using C = Constants<Element<V>>;
  const V rounder = broadcast<V>(C::rounder);
  const V shifted = fused_multiply_add(x, broadcast<V>(C::log2_e), rounder);
  const V n = shifted - rounder;
  const V high = fused_multiply_add(n, broadcast<V>(-C::ln2_high), x);
  const V r = fused_multiply_add(n, broadcast<V>(-C::ln2_low), high);
  return {(Integers<V>)((Unsigned<V>)shifted - (Unsigned<V>)rounder),
          fused_multiply_add(r * r, polynomial(r, C::exp_terms), r)};
}

// 2**n for an n within the exponents of normal numbers.
template <class V>
inline V power_of_two(Integers<V> n) noexcept {
  using C = Constants<Element<V>>;
  return (V)((Unsigned<V>)(n + C::bias) << C::mantissa);
}

template <class V>
inline V vector_exp(V x) noexcept {
  using C = Constants<Element<V>>;
  V bounded = x > C::exp_most ? broadcast<V>(C::exp_most) : x;  // NaN stays NaN
  bounded = bounded < C::exp_least ? broadcast<V>(C::exp_least) : bounded;
  const Reduced<V> e = reduced_exp(bounded);
  // In two steps: 2**n alone may be outside the range of normal numbers.
  const Integers<V> half = e.n >> 1;
  return (e.r_minus + Element<V>{1}) * power_of_two<V>(half) * power_of_two<V>(e.n - half);
}

#if NCLAB_SIMD_BYTES == 64
// x * 2**n for an integer n, rounded once if the result is subnormal.
inline Vector<float, 16> scaled(Vector<float, 16> x, Vector<float, 16> n) noexcept {
  return (Vector<float, 16>)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)n);
}
inline Vector<double, 8> scaled(Vector<double, 8> x, Vector<double, 8> n) noexcept {
  return (Vector<double, 8>)_mm512_maskz_scalef_pd(0xff, (__m512d)x, (__m512d)n);
}
#endif

// exp of x <= 0 as 2**(x * log2(e)); NaN stays NaN. The error is one unit in the last place plus a
// fifth of a unit per unit of x, because log2(e) is rounded. Without AVX-512's scaling the result
// is 0 below exp_normal, where it would be subnormal.
template <class V>
inline V exp_of_nonpositive(V x) noexcept {
  using C = Constants<Element<V>>;
  const V bounded = larger(broadcast<V>(C::exp_least), x);  // NaN stays NaN
  const V log2_e = broadcast<V>(C::log2_e), rounder = broadcast<V>(C::rounder);
  const V shifted = fused_multiply_add(bounded, log2_e, rounder);
  const V n = shifted - rounder;
  const V f = fused_multiply_add(bounded, log2_e, -n);
  const V power = fused_multiply_add(f, polynomial(f, C::exp2_terms), broadcast<V>(1));
#if NCLAB_SIMD_BYTES == 64
  return scaled(power, n);
#else
  const auto exponent = (Integers<V>)((Unsigned<V>)shifted - (Unsigned<V>)rounder);
  return x < C::exp_normal ? V{} : power * power_of_two<V>(exponent);
#endif
}

template <class V>
inline V vector_log(V x) noexcept {
  using T = Element<V>;
  using I = Integers<V>;
  using C = Constants<T>;
  // Subnormal numbers are scaled up first.
  const auto denormal = x < C::least_normal;
  const V scaled = denormal ? x * C::lift : x;
  using U = Unsigned<V>;
  const I exponent = (I)((U)scaled - C::root_half) >> C::mantissa;
  const V m = (V)((U)scaled - ((U)exponent << C::mantissa));  // in [sqrt(1/2), sqrt(2))
  const V rounder = broadcast<V>(C::rounder);
  V e = (V)(exponent + (I)rounder) - rounder;
  e = denormal ? e - C::lift_log2 : e;
  // log(1 + f) = f - f**2 / 2 + s * (f**2 / 2 + R), s = f / (2 + f). f is exact, and the rounded
  // terms are small compared with it.
  const V f = m - T{1};
  const V s = f / (m + T{1});
  const V z = s * s;
  const V half_square = f * f * T(0.5);
  const V rest = fused_multiply_add(z, polynomial(z, C::log_terms), half_square);
  const V low = fused_multiply_add(s, rest, e * C::ln2_low);
  const V result = fused_multiply_add(e, broadcast<V>(C::ln2_high), f - (half_square - low));
  const V infinite = broadcast<V>(C::infinity);
  V special = x > T{0} ? x : infinite - infinite;  // NaN below 0; inf and NaN stay
  special = x == T{0} ? -infinite : special;
  special = x != x ? x : special;
  const auto ordinary = (x > T{0}) & (x < C::infinity);
  return ordinary ? result : special;
}

template <class V>
inline V vector_tanh(V x) noexcept {
  using T = Element<V>;
  using I = Integers<V>;
  using C = Constants<T>;
  const I sign = (I)x & (I)broadcast<V>(T(-0.0));
  const V size = (V)((I)x ^ sign);
  const V square = size * size;
  const V small = fused_multiply_add(size * square, polynomial(square, C::tanh_terms), size);
  // (exp(2x) - 1) / (exp(2x) + 1). Beyond tanh_most, tanh is 1. NaN stays NaN.
  const V y = size > C::tanh_most ? broadcast<V>(T{2} * C::tanh_most) : T{2} * size;
  const Reduced<V> e = reduced_exp(y);
  const V scale = power_of_two<V>(e.n);
  const V t = fused_multiply_add(scale, e.r_minus, scale - T{1});
  const V large = t / (t + T{2});
  return (V)((I)(square < T(0.125) ? small : large) | sign);
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SIMD_MATH_HPP_

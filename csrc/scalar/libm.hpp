// The C library's pow, exp, log and tanh, with the bits of CPython.
// Compilers rewrite pow(x, 2.0) to x*x and pow(x, -1.0) to 1/x, which round differently from pow. A
// volatile function pointer keeps the call.
#ifndef NANOCHAT_SCALAR_LIBM_HPP_
#define NANOCHAT_SCALAR_LIBM_HPP_

#include <bit>
#include <cmath>
#include <cstdint>

namespace nanochat::libm {

using Binary = double (*)(double, double);

inline Binary volatile pow_function = static_cast<Binary>(&std::pow);

inline double pow(double base, double exponent) { return pow_function(base, exponent); }

// Caches the last call. A softmax divides each of its terms by the same total, and microgpt.py
// computes a power per division; the same arguments give the same bits.
class PowMemo {
 public:
  double operator()(double base, double exponent) {
    // Bits, not values: pow(0.0, -1.0) and pow(-0.0, -1.0) differ.
    const auto key = std::bit_cast<std::uint64_t>(base);
    if (key != base_ || exponent != exponent_) {
      base_ = key;
      exponent_ = exponent;
      power_ = pow(base, exponent);
    }
    return power_;
  }

 private:
  std::uint64_t base_ = 0;
  double exponent_ = 0.0;
  double power_ = 1.0;
};

inline double exp(double x) { return std::exp(x); }
inline double log(double x) { return std::log(x); }
inline double tanh(double x) { return std::tanh(x); }

}  // namespace nanochat::libm

#endif  // NANOCHAT_SCALAR_LIBM_HPP_

// Conversions between 16-bit formats and double, written from the definition of the formats.
#ifndef NANOCHAT_TESTS_FLOAT_FORMATS_HPP_
#define NANOCHAT_TESTS_FLOAT_FORMATS_HPP_

#include <cmath>
#include <cstdint>
#include <limits>

namespace kernel_testing {

// A format of sign, exponent and fraction: float16 is {5, 10}, bfloat16 {8, 7}.
struct Format {
  int exponent_bits, fraction_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int infinity() const { return ((1 << exponent_bits) - 1) << fraction_bits; }
};
inline constexpr Format bfloat16{8, 7}, float16{5, 10};

// Returns the value of the bits, from the definition of the format.
inline double widen(Format format, std::uint16_t bits) {
  const int exponent = (bits & format.infinity()) >> format.fraction_bits;
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  double size;
  if (exponent == (1 << format.exponent_bits) - 1) {
    size = fraction == 0 ? std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    size = std::ldexp(fraction, 1 - format.bias() - format.fraction_bits);
  } else {
    size = std::ldexp(fraction + (1 << format.fraction_bits),
                      exponent - format.bias() - format.fraction_bits);
  }
  return (bits >> 15U) != 0 ? -size : size;
}

// Returns the bits of the value nearest to `value`, ties to even. NaN gives some NaN.
inline std::uint16_t narrow(Format format, double value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | format.infinity() | 1);
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | format.infinity());
  if (value == 0) return static_cast<std::uint16_t>(sign);
  const double size = std::fabs(value);
  // The distance of adjacent values at this size; it is constant below the normal numbers.
  int exponent = 0;
  std::frexp(size, &exponent);
  const int least = 1 - format.bias();
  const int place = (exponent - 1 < least ? least : exponent - 1) - format.fraction_bits;
  // Bits of non-negative numbers are ordered as the numbers are, across powers of two too.
  const double steps = std::nearbyint(std::ldexp(size, -place));
  const int lowest = (place + format.fraction_bits - least) << format.fraction_bits;
  const int bits = lowest + static_cast<int>(steps);
  return static_cast<std::uint16_t>(sign | (bits < format.infinity() ? bits : format.infinity()));
}

}  // namespace kernel_testing

#endif  // NANOCHAT_TESTS_FLOAT_FORMATS_HPP_

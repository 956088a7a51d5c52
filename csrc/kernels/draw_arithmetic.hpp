// The arithmetic of the token draw, bit-identical to nanochat/sampling/draw.py.
// Contract: float32 logits and float32 operations, each rounded once. Compile without contraction
// or fast-math, with the default rounding mode and subnormals. After the exponential everything is
// an integer, so neither the vector width nor the order of summation can change a token. Weights
// are at most 2⁴⁰ and rows have at most 2²⁰ tokens, so sums stay below 2⁶¹.
// The functions are static and call nothing of the standard library, because files compiled for
// different instruction sets include them.
#ifndef NANOCHAT_KERNELS_DRAW_ARITHMETIC_HPP_
#define NANOCHAT_KERNELS_DRAW_ARITHMETIC_HPP_

#include <cstdint>

#include "kernels/host_device.hpp"

namespace nanochat::kernels {

inline constexpr std::int64_t max_vocab = std::int64_t{1} << 20U;
// The results for a row that holds NaN, or nothing above −∞.
inline constexpr std::int64_t token_of_nan = -1, token_of_all_minus_infinity = -2;

inline constexpr float smallest_exponent = -87.0f;  // its exp is still a normal float

// 1 / temperature as a float, at most the largest finite one. temperature: finite and >= 0.
NCK_HOST_DEVICE static inline float inverse_temperature(double temperature) noexcept {
  constexpr double largest = 0x1.fffffep127;
  const double inverse = temperature > 0 ? 1.0 / temperature : largest;
  return static_cast<float>(inverse < largest ? inverse : largest);
}

// Temperature 0 keeps the first of the largest logits only.
NCK_HOST_DEVICE static inline std::int64_t kept_at(double temperature,
                                                   std::int64_t top_k) noexcept {
  return temperature > 0 ? top_k : 1;
}

// ⌊top_p·2³²⌋; 2³² keeps all tokens.
inline constexpr std::uint64_t whole_share = std::uint64_t{1} << 32U;
NCK_HOST_DEVICE static inline std::uint64_t share_of(double top_p) noexcept {
  return static_cast<std::uint64_t>(top_p * 0x1p32);
}

// exp of z in [−87, 0], times 2^shift: exactly 1 at 0 and never above 1. V: a float or a vector of
// floats; U: the integer type of its bits. The polynomial is Cephes' expf (Moshier), minimax on
// [−ln2/2, ln2/2].
template <class V, class U = std::uint32_t>
NCK_HOST_DEVICE static inline V exp_in_range(V z, std::uint32_t shift = 0) noexcept {
  constexpr float to_integer = 12582912.0f;  // 1.5 · 2²³: a sum with it is an integer, ties to even
  constexpr float ln2_high = 0.693359375f;   // ten bits: its product with n is exact
  constexpr float ln2_low = -2.12194440e-4f;  // ln 2 − ln2_high
  const V shifted = z * 1.44269504088896341f + to_integer;
  const V n = shifted - to_integer;
  const V r = (z - n * ln2_high) - n * ln2_low;
  V power = r * 1.9875691500e-4f + 1.3981999507e-3f;
  power = power * r + 8.3334519073e-3f;
  power = power * r + 4.1665795894e-2f;
  power = power * r + 1.6666665459e-1f;
  power = power * r + 5.0000001201e-1f;
  power = power * r + 1.0f;
  power = power * r + 1.0f;
  // The low bits of `shifted` are n ≥ −126, so 2ⁿ is normal and the product exact.
  return power * __builtin_bit_cast(V, (__builtin_bit_cast(U, shifted) + (127U + shift)) << 23U);
}

// The exponential of the specification, of z ≤ 0: 0 below −87.
NCK_HOST_DEVICE static inline float exp32(float z) noexcept {
  return z < smallest_exponent ? 0.0f : exp_in_range(z);
}

// A token's unnormalized probability times 2⁴⁰, for a finite largest logit. scale: from
// inverse_temperature. Vectors have no branches: z below −87 counts as −87, and so does −∞, whose
// product with a scale of 0 is NaN. Either way the integer weight is 0.
NCK_HOST_DEVICE static inline float float_weight(float logit, float largest, float scale) noexcept {
  const float z = (logit - largest) * scale;
  return exp_in_range(z > smallest_exponent ? z : smallest_exponent, 40U);
}

// Rounds down.
NCK_HOST_DEVICE static inline std::uint64_t integer_weight(float weight) noexcept {
  // The signed type takes one instruction on every processor.
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(weight));
}

// ⌊a·b / 2⁶⁴⌋.
NCK_HOST_DEVICE static inline std::uint64_t multiply_high(std::uint64_t a,
                                                          std::uint64_t b) noexcept {
  constexpr std::uint64_t low = 0xFFFFFFFF;
  const std::uint64_t a0 = a & low, a1 = a >> 32U, b0 = b & low, b1 = b >> 32U;
  const std::uint64_t middle = a1 * b0 + (a0 * b0 >> 32U);
  return a1 * b1 + (middle >> 32U) + ((a0 * b1 + (middle & low)) >> 32U);
}

// ⌈share·total / 2³²⌉ for share ≤ 2³² and total < 2⁶¹.
NCK_HOST_DEVICE static inline std::uint64_t part_of(std::uint64_t share,
                                                    std::uint64_t total) noexcept {
  constexpr std::uint64_t low = 0xFFFFFFFF;
  const std::uint64_t below = share * (total & low);
  return share * (total >> 32U) + (below >> 32U) + ((below & low) != 0 ? 1 : 0);
}

// Integers in the order of floats, and back. The maximum of integers is a vector operation without
// fast-math.
NCK_HOST_DEVICE static inline std::uint32_t flipped_if_negative(std::uint32_t bits) noexcept {
  return bits ^ ((0U - (bits >> 31U)) >> 1U);
}
NCK_HOST_DEVICE static inline std::int32_t order_of(float x) noexcept {
  return static_cast<std::int32_t>(flipped_if_negative(__builtin_bit_cast(std::uint32_t, x)));
}
NCK_HOST_DEVICE static inline float float_of(std::int32_t order) noexcept {
  return __builtin_bit_cast(float, flipped_if_negative(static_cast<std::uint32_t>(order)));
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_DRAW_ARITHMETIC_HPP_

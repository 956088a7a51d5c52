// The token draw: one row of logits and one 64-bit random integer become a token, with the bits of
// nanochat/training/draw.py, which is the specification. Knows no engine and no source of random
// integers.
//
// Contract: float32 logits and float32 arithmetic, each operation rounded once (compile without
// contraction or fast-math, with the default rounding mode, subnormals kept); after the exponential
// everything is an integer, so no vector width and no order of summation can change a token.
// Weights are at most 2⁴⁰ and a row at most 2²⁰ tokens, so that sums stay below 2⁶¹. The plain
// functions are the arithmetic of one token; Drawer runs them over a row.
#ifndef NANOCHAT_SCALAR_DRAW_HPP_
#define NANOCHAT_SCALAR_DRAW_HPP_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace nanochat {

inline constexpr std::size_t max_vocab = std::size_t{1} << 20U;

inline constexpr float smallest_exponent = -87.0f;  // exp of it is still a normal float

// exp of z in [−87, 0]: exactly 1 at 0, never above 1. The polynomial is Cephes' expf (Moshier),
// minimax on [−ln2/2, ln2/2].
inline float exp_in_range(float z) noexcept {
  constexpr float to_integer = 12582912.0f;   // 1.5 · 2²³: a sum with it has no fraction, ties even
  constexpr float ln2_high = 0.693359375f;    // ten bits, so that its product with n is exact
  constexpr float ln2_low = -2.12194440e-4f;  // ln 2 − ln2_high
  const float n = (z * 1.44269504088896341f + to_integer) - to_integer;
  const float r = (z - n * ln2_high) - n * ln2_low;
  float power = 1.9875691500e-4f;
  power = power * r + 1.3981999507e-3f;
  power = power * r + 8.3334519073e-3f;
  power = power * r + 4.1665795894e-2f;
  power = power * r + 1.6666665459e-1f;
  power = power * r + 5.0000001201e-1f;
  power = power * r + 1.0f;
  power = power * r + 1.0f;
  // n ≥ −126, so that 2ⁿ is normal and the product exact.
  return power * std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127)
                                      << 23U);
}

// The specification's exponential, of z ≤ 0: 0 below −87.
inline float exp32(float z) noexcept { return z < smallest_exponent ? 0.0f : exp_in_range(z); }

// A token's unnormalised probability times 2⁴⁰, for a finite largest logit; `scale` is
// inverse_temperature's. What is below −87 counts as −87 here, and so does −∞, whose product with a
// scale of 0 is NaN: either way the integer weight is 0, and vectors have no branches.
inline float float_weight(float logit, float largest, float scale) noexcept {
  const float z = (logit - largest) * scale;
  return exp_in_range(z > smallest_exponent ? z : smallest_exponent) * 0x1p40f;
}

// Rounded down.
inline std::uint64_t integer_weight(float weight) noexcept {
  // By way of the signed type: one instruction everywhere.
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(weight));
}

// ⌊a·b / 2⁶⁴⌋.
inline std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) noexcept {
  constexpr std::uint64_t low = 0xFFFFFFFF;
  const std::uint64_t a0 = a & low, a1 = a >> 32U, b0 = b & low, b1 = b >> 32U;
  const std::uint64_t middle = a1 * b0 + (a0 * b0 >> 32U);
  return a1 * b1 + (middle >> 32U) + ((a0 * b1 + (middle & low)) >> 32U);
}

// ⌈share·total / 2³²⌉ for share ≤ 2³² and total < 2⁶¹.
inline std::uint64_t part_of(std::uint64_t share, std::uint64_t total) noexcept {
  constexpr std::uint64_t low = 0xFFFFFFFF;
  const std::uint64_t below = share * (total & low);
  return share * (total >> 32U) + (below >> 32U) + ((below & low) != 0 ? 1 : 0);
}

// 1 / temperature as a float, at most the largest finite one; temperature finite and > 0.
float inverse_temperature(double temperature) noexcept;

struct DrawSettings {
  float scale = 1.0f;                             // inverse_temperature
  std::size_t top_k = 0;                          // 0: all
  std::uint64_t share = std::uint64_t{1} << 32U;  // ⌊top_p·2³²⌋; 2³²: all
};

// temperature finite and > 0, top_p in (0, 1].
DrawSettings draw_settings(double temperature, std::size_t top_k, double top_p) noexcept;

// Draws from rows of one length, one after another; keeps only its working space from row to row.
class Drawer {
 public:
  // What draw() returns instead of a token.
  static constexpr std::int64_t holds_nan = -1, all_minus_infinity = -2;

  explicit Drawer(std::size_t vocab);  // 1 … max_vocab

  // The row's token, or one of the two values above. Doubles are rounded to float first.
  std::int64_t draw(const float* logits, std::uint64_t random, const DrawSettings& settings);
  std::int64_t draw(const double* logits, std::uint64_t random, const DrawSettings& settings);

 private:
  void leave_out(const float* logits, const DrawSettings& settings);
  std::int64_t token_at(std::uint64_t random);

  std::vector<float> weights_;
  std::vector<std::uint64_t> sums_;  // of the weights up to each token
  std::vector<float> rounded_;
  std::vector<std::uint32_t> order_;
};

}  // namespace nanochat

#endif  // NANOCHAT_SCALAR_DRAW_HPP_

// The token draw: one row of logits and one 64-bit random integer become a token, with the bits of
// nanochat/training/draw.py, which is the specification. Knows no engine and no source of random
// integers. The arithmetic of one token is in draw_arithmetic.hpp, what is vectors in draw_row.cpp.
#ifndef NANOCHAT_SCALAR_DRAW_HPP_
#define NANOCHAT_SCALAR_DRAW_HPP_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanochat {

inline constexpr std::size_t max_vocab = std::size_t{1} << 20U;

// 1 / temperature as a float, at most the largest finite one; temperature finite and > 0.
float inverse_temperature(double temperature) noexcept;

struct DrawSettings {
  float scale = 1.0f;                             // inverse_temperature
  std::size_t top_k = 0;                          // 0: all
  std::uint64_t share = std::uint64_t{1} << 32U;  // ⌊top_p·2³²⌋; 2³²: all
};

// temperature finite and > 0, top_p in (0, 1].
DrawSettings draw_settings(double temperature, std::size_t top_k, double top_p) noexcept;

// Weights of a row's tokens, by float_weight; where the largest logit is +∞, 2⁴⁰ for those that are
// and 0 for the others. Returns the largest logit, or NaN if the row holds one; weights are written
// only above −∞.
using WeighRow = float (*)(const float* logits, std::size_t vocab, float scale, float* weights);

// The function of an instruction set, named as in simd.hpp; the portable one for any other name.
WeighRow weigh_row_named(const char* simd) noexcept;

// Draws from rows of one length, one after another; keeps only its working space from row to row.
class Drawer {
 public:
  // What draw() returns instead of a token.
  static constexpr std::int64_t holds_nan = -1, all_minus_infinity = -2;

  // vocab: 1 … max_vocab. With the instruction set that simd::tables() chose, and its errors.
  explicit Drawer(std::size_t vocab);

  // The row's token, or one of the two values above. Doubles are rounded to float first.
  std::int64_t draw(const float* logits, std::uint64_t random, const DrawSettings& settings);
  std::int64_t draw(const double* logits, std::uint64_t random, const DrawSettings& settings);

 private:
  void leave_out(const float* logits, const DrawSettings& settings);
  std::int64_t token_at(std::uint64_t random);

  WeighRow weigh_row_;
  std::vector<float> weights_;
  std::vector<std::uint64_t> sums_;  // of the weights up to each token
  std::vector<float> rounded_;
  std::vector<std::uint32_t> order_;
};

}  // namespace nanochat

#endif  // NANOCHAT_SCALAR_DRAW_HPP_

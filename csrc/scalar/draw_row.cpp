// The part of a draw that is vectors: the largest logit of a row and its weights. Compiled once for
// each instruction set, under the rule of simd/kernels.hpp: no function of another file.
#include <cstddef>
#include <limits>

#include "scalar/draw_arithmetic.hpp"

namespace nanochat::NCLAB_SIMD {

float weigh_row(const float* logits, std::size_t vocab, float scale, float* weights) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  std::int32_t order = order_of(-infinity), nans = 0;
  for (std::size_t i = 0; i < vocab; ++i) {
    const std::int32_t here = order_of(logits[i]);
    order = here > order ? here : order;
    nans += logits[i] != logits[i] ? 1 : 0;
  }
  if (nans != 0) return nan;
  const float largest = float_of(order);
  if (largest == -infinity) return largest;
  if (largest == infinity) {
    for (std::size_t i = 0; i < vocab; ++i) weights[i] = logits[i] == infinity ? 0x1p40f : 0.0f;
  } else {
    for (std::size_t i = 0; i < vocab; ++i) weights[i] = float_weight(logits[i], largest, scale);
  }
  return largest;
}

}  // namespace nanochat::NCLAB_SIMD

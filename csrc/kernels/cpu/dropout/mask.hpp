// Rows of elements with a dropout mask of one bit per element (abi.h). Follows the rule of
// simd/vector.hpp.
#ifndef NANOCHAT_KERNELS_CPU_DROPOUT_MASK_HPP_
#define NANOCHAT_KERNELS_CPU_DROPOUT_MASK_HPP_

#include "simd/vector.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// Returns the mask of row i, or null if there is no mask.
inline const std::uint8_t* row_of_mask(const std::uint8_t* mask, std::int64_t i,
                                       std::int64_t hidden_size) noexcept {
  return mask == nullptr ? nullptr : mask + i * ((hidden_size + 7) / 8);
}

// Returns the bits of the lanes from column `at` on, a multiple of the lanes, the first in bit 0.
// Reads only the bytes that the first `count` lanes need.
template <int lanes>
inline unsigned mask_bits(const std::uint8_t* row, std::int64_t at, int count) noexcept {
  static_assert(lanes <= 16);
  const std::uint8_t* const bytes = row + at / 8;
  if constexpr (lanes < 8) return static_cast<unsigned>(bytes[0]) >> static_cast<unsigned>(at % 8);
  unsigned bits = bytes[0];
  if (lanes == 16 && count > 8) bits |= static_cast<unsigned>(bytes[1]) << 8U;
  return bits;
}

// Returns v · scale in the lanes whose bit is set and 0 in the others.
template <class V>
inline V masked_product(V v, V scale, unsigned bits) noexcept {
#if NCLAB_SIMD_BYTES == 64
  if constexpr (sizeof(simd::NCLAB_SIMD::Element<V>) == 4) {
    return (V)_mm512_maskz_mul_ps(static_cast<__mmask16>(bits), (__m512)v, (__m512)scale);
  } else {
    return (V)_mm512_maskz_mul_pd(static_cast<__mmask8>(bits), (__m512d)v, (__m512d)scale);
  }
#else
  using I = simd::NCLAB_SIMD::Integers<V>;
  I lane_bits;
  for (int i = 0; i < simd::NCLAB_SIMD::Traits<V>::lanes; ++i) lane_bits[i] = 1 << i;
  const I kept = ((static_cast<int>(bits) - I{}) & lane_bits) == lane_bits;
  return (V)((I)(v * scale) & kept);
#endif
}

}  // namespace
}  // namespace nanochat::kernels::NCLAB_SIMD

#endif  // NANOCHAT_KERNELS_CPU_DROPOUT_MASK_HPP_

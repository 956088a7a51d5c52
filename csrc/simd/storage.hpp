// Rows of float, double, bfloat16 and float16 as vectors of float or double. Follows the rule of
// vector.hpp. Conversions to 16 bits round to nearest, ties to even; NaN stays NaN.
#ifndef NANOCHAT_SIMD_STORAGE_HPP_
#define NANOCHAT_SIMD_STORAGE_HPP_

#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// The type in which stored elements are computed and accumulated.
template <class S>
struct AccumTypeOf {
  using type = S;
};
template <>
struct AccumTypeOf<BFloat16> {
  using type = float;
};
template <>
struct AccumTypeOf<Float16> {
  using type = float;
};
template <class S>
using AccumType = typename AccumTypeOf<S>::type;

constexpr int float_lanes = width<float>;
using Floats = Whole<float>;
using Shorts = Vector<std::uint16_t, float_lanes>;
using Words = Vector<std::uint32_t, float_lanes>;

inline Shorts load_shorts(const void* from) noexcept {
  Shorts v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

inline Shorts load_first_shorts(const void* from, int count) noexcept {
#if NCLAB_SIMD_BYTES == 64
  return (Shorts)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << count) - 1U), from);
#else
  Shorts v{};
  const auto* shorts = static_cast<const char*>(from);
  for (int i = 0; i < float_lanes && i < count; ++i) {
    std::uint16_t element;
    __builtin_memcpy(&element, shorts + 2 * i, 2);
    v[i] = element;
  }
  return v;
#endif
}

inline void store_first_shorts(void* to, Shorts v, int count) noexcept {
#if NCLAB_SIMD_BYTES == 64
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1U << count) - 1U), (__m256i)v);
#else
  auto* shorts = static_cast<char*>(to);
  for (int i = 0; i < float_lanes && i < count; ++i) {
    const std::uint16_t element = v[i];
    __builtin_memcpy(shorts + 2 * i, &element, 2);
  }
#endif
}

inline Floats to_floats(BFloat16, Shorts v) noexcept {
#if NCLAB_SIMD_BYTES == 64
  constexpr Vector<std::uint16_t, 32> lanes = {0, 0,  0, 1,  0, 2,  0, 3,  0, 4, 0,
                                               5, 0,  6, 0,  7, 0,  8, 0,  9, 0, 10,
                                               0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  return (Floats)_mm512_maskz_permutexvar_epi16(0xaaaaaaaaU, (__m512i)lanes,
                                                _mm512_castsi256_si512((__m256i)v));
#endif
  return (Floats)(__builtin_convertvector(v, Words) << 16U);
}

inline Shorts from_floats(BFloat16, Floats v) noexcept {
#if defined(__AVX512BF16__)
  return (Shorts)_mm512_cvtneps_pbh((__m512)v);
#else
  const Words bits = (Words)v;
  const Words rounded = (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
  const Words quiet = (bits >> 16U) | 0x40U;
  return __builtin_convertvector(v == v ? rounded : quiet, Shorts);
#endif
}

inline Floats to_floats(Float16, Shorts v) noexcept {
#if NCLAB_SIMD_BYTES == 64
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, (__m256i)v);
#elif NCLAB_SIMD_BYTES == 32
  return (Floats)_mm256_cvtph_ps((__m128i)v);
#else
  const Words bits = __builtin_convertvector(v, Words);
  const Words magnitude = (bits & 0x7fffU) << 13U;
  // The product adjusts the exponent and normalizes subnormals; infinity and NaN are set
  // separately.
  const Floats finite = (Floats)magnitude * 0x1p112f;
  const Words special = magnitude | 0x7f800000U;
  const Words value = magnitude >= (0x7c00U << 13U) ? special : (Words)finite;
  return (Floats)(value | ((bits & 0x8000U) << 16U));
#endif
}

inline Shorts from_floats(Float16, Floats v) noexcept {
#if NCLAB_SIMD_BYTES == 64
  return (Shorts)_mm512_maskz_cvtps_ph(0xffff, (__m512)v,
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif NCLAB_SIMD_BYTES == 32
  return (Shorts)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Words bits = (Words)v;
  const Words sign = bits & 0x80000000U;
  const Words magnitude = bits ^ sign;
  // Adding 1/2 rounds a subnormal at its last bit, 2⁻²⁴.
  const Words subnormal = (Words)((Floats)magnitude + 0.5f) - 0x3f000000U;
  const Words normal =
      (magnitude + 0xc8000fffU + ((magnitude >> 13U) & 1U)) >> 13U;  // −112 in the exponent
  Words half = magnitude < 0x38800000U ? subnormal : normal;
  half = magnitude >= 0x477ff000U ? 0x7c00U - Words{} : half;  // from 65520 on
  half = magnitude > 0x7f800000U ? 0x7e00U - Words{} : half;   // NaN
  return __builtin_convertvector(half | (sign >> 16U), Shorts);
#endif
}

// Loads and stores of a row kernel: whole vectors, or the first `count` lanes of one.
template <class S>
struct Stored {
  using V = Whole<S>;
  static V load(const S* from) noexcept { return simd::NCLAB_SIMD::load<V>(from); }
  static V load_first(const S* from, int count) noexcept {
    return simd::NCLAB_SIMD::load_first<V>(from, count);
  }
  static void store(S* to, V v) noexcept { simd::NCLAB_SIMD::store<V>(to, v); }
  static void store_first(S* to, V v, int count) noexcept {
    simd::NCLAB_SIMD::store_first<V>(to, v, count);
  }
};

template <class S>
struct StoredShorts {
  using V = Floats;
  static V load(const S* from) noexcept { return to_floats(S{}, load_shorts(from)); }
  static V load_first(const S* from, int count) noexcept {
    return to_floats(S{}, load_first_shorts(from, count));
  }
  static void store(S* to, V v) noexcept {
    const Shorts stored = from_floats(S{}, v);
    __builtin_memcpy(to, &stored, sizeof stored);
  }
  static void store_first(S* to, V v, int count) noexcept {
    store_first_shorts(to, from_floats(S{}, v), count);
  }
};
template <>
struct Stored<BFloat16> : StoredShorts<BFloat16> {};
template <>
struct Stored<Float16> : StoredShorts<Float16> {};

// A store past the caches. `to` must be aligned to the size of the stored vector.
template <class S>
inline void store_streaming(S* to, Whole<AccumType<S>> v) noexcept {
  Stored<S>::store(to, v);
}
#if NCLAB_SIMD_BYTES == 64
template <>
inline void store_streaming<float>(float* to, Whole<float> v) noexcept {
  _mm512_stream_ps(to, (__m512)v);
}
template <>
inline void store_streaming<double>(double* to, Whole<double> v) noexcept {
  _mm512_stream_pd(to, (__m512d)v);
}
template <>
inline void store_streaming<BFloat16>(BFloat16* to, Whole<float> v) noexcept {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)from_floats(BFloat16{}, v));
}
template <>
inline void store_streaming<Float16>(Float16* to, Whole<float> v) noexcept {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)from_floats(Float16{}, v));
}
#elif NCLAB_SIMD_BYTES == 32
template <>
inline void store_streaming<float>(float* to, Whole<float> v) noexcept {
  _mm256_stream_ps(to, (__m256)v);
}
template <>
inline void store_streaming<double>(double* to, Whole<double> v) noexcept {
  _mm256_stream_pd(to, (__m256d)v);
}
template <>
inline void store_streaming<BFloat16>(BFloat16* to, Whole<float> v) noexcept {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)from_floats(BFloat16{}, v));
}
template <>
inline void store_streaming<Float16>(Float16* to, Whole<float> v) noexcept {
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)from_floats(Float16{}, v));
}
#endif

// Call it after streaming stores, before another thread may read the memory.
inline void end_streaming() noexcept {
#if NCLAB_SIMD_BYTES >= 32
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SIMD_STORAGE_HPP_

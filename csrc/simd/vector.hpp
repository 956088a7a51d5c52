// Vectors of one instruction set: loads and stores of a few lanes, fused multiply-add.
// The rule: a file that includes this one is compiled once per instruction set, with the set's
// compiler flags, its name in NCLAB_SIMD and its vector size in NCLAB_SIMD_BYTES. Such a file must
// not use functions that another file could share (standard library templates, inline functions of
// other headers). The linker keeps one copy of a shared function, possibly one that an older
// processor cannot run.
#ifndef NANOCHAT_SIMD_VECTOR_HPP_
#define NANOCHAT_SIMD_VECTOR_HPP_

#if NCLAB_SIMD_BYTES > 16
#include <immintrin.h>
#endif

#include <cstdint>

namespace nanochat::simd::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

template <class T, int n>
struct VectorOf {
  typedef T type __attribute__((vector_size(n * sizeof(T))));
};
template <class T, int n>
using Vector = typename VectorOf<T, n>::type;

template <class T>
constexpr int width = NCLAB_SIMD_BYTES / static_cast<int>(sizeof(T));
template <class T>
using Whole = Vector<T, width<T>>;
// A short tail takes half the time in a half vector if wide operations run as two halves.
template <class T>
constexpr int tail_width = NCLAB_SIMD_BYTES == 64 ? width<T> / 2 : width<T>;

template <class T>
struct BitsOf;
template <>
struct BitsOf<double> {
  using type = std::int64_t;
  using unsigned_type = std::uint64_t;
};
template <>
struct BitsOf<float> {
  using type = std::int32_t;
  using unsigned_type = std::uint32_t;
};
template <class T>
using Bits = typename BitsOf<T>::type;

template <class V>
struct Traits {
  using T = __typeof__(V{}[0] + V{}[0]);
  static constexpr int lanes = sizeof(V) / sizeof(T);
  using I = Vector<Bits<T>, lanes>;
  using U = Vector<typename BitsOf<T>::unsigned_type, lanes>;
};
template <class V>
using Element = typename Traits<V>::T;
template <class V>
using Integers = typename Traits<V>::I;
template <class V>
using Unsigned = typename Traits<V>::U;  // sums may wrap

template <class V>
inline V broadcast(Element<V> x) noexcept {
  return x - V{};
}

template <class V>
inline V load(const Element<V>* from) noexcept {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void store(Element<V>* to, V v) noexcept {
  __builtin_memcpy(to, &v, sizeof v);
}

// 0, 1, 2, …
template <class V>
inline Integers<V> lane_numbers() noexcept {
  Integers<V> lane;
#pragma GCC unroll 16
  for (int i = 0; i < Traits<V>::lanes; ++i) lane[i] = i;
  return lane;
}

// All bits of the first `count` lanes.
template <class V>
inline Integers<V> first_lanes(int count) noexcept {
  return lane_numbers<V>() < static_cast<Bits<Element<V>>>(count) - Integers<V>{};
}

// The first `count` lanes of `yes`, the other lanes of `no`.
template <class V>
inline V keep_first(V yes, V no, int count) noexcept {
  return first_lanes<V>(count) ? yes : no;
}

// Accesses only the first `count` lanes in memory; the other lanes of the vector are 0.
template <class V>
inline V load_first(const Element<V>* from, int count) noexcept {
  [[maybe_unused]] constexpr int bytes = sizeof(V);
  [[maybe_unused]] constexpr bool wide = sizeof(Element<V>) == 8;
#if NCLAB_SIMD_BYTES == 64
  const unsigned mask = (1U << static_cast<unsigned>(count)) - 1U;
  if constexpr (bytes == 64 && wide) {
    return (V)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from);
  } else if constexpr (bytes == 64) {
    return (V)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
  } else if constexpr (bytes == 32 && wide) {
    return (V)_mm256_maskz_loadu_pd(static_cast<__mmask8>(mask), from);
  } else if constexpr (bytes == 32) {
    return (V)_mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), from);
  }
#elif NCLAB_SIMD_BYTES == 32
  if constexpr (bytes == 32 && wide) {
    return (V)_mm256_maskload_pd(from, (__m256i)first_lanes<V>(count));
  } else if constexpr (bytes == 32) {
    return (V)_mm256_maskload_ps(from, (__m256i)first_lanes<V>(count));
  }
#endif
  V v{};
  for (int i = 0; i < Traits<V>::lanes && i < count; ++i) v[i] = from[i];
  return v;
}

template <class V>
inline void store_first(Element<V>* to, V v, int count) noexcept {
  [[maybe_unused]] constexpr int bytes = sizeof(V);
  [[maybe_unused]] constexpr bool wide = sizeof(Element<V>) == 8;
#if NCLAB_SIMD_BYTES == 64
  const unsigned mask = (1U << static_cast<unsigned>(count)) - 1U;
  if constexpr (bytes == 64 && wide) {
    return _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask), (__m512d)v);
  } else if constexpr (bytes == 64) {
    return _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), (__m512)v);
  } else if constexpr (bytes == 32 && wide) {
    return _mm256_mask_storeu_pd(to, static_cast<__mmask8>(mask), (__m256d)v);
  } else if constexpr (bytes == 32) {
    return _mm256_mask_storeu_ps(to, static_cast<__mmask8>(mask), (__m256)v);
  }
#elif NCLAB_SIMD_BYTES == 32
  if constexpr (bytes == 32 && wide) {
    return _mm256_maskstore_pd(to, (__m256i)first_lanes<V>(count), (__m256d)v);
  } else if constexpr (bytes == 32) {
    return _mm256_maskstore_ps(to, (__m256i)first_lanes<V>(count), (__m256)v);
  }
#endif
  for (int i = 0; i < Traits<V>::lanes && i < count; ++i) to[i] = v[i];
}

// a * b + c, rounded once if the instruction set supports it, otherwise twice.
template <class V>
inline V fused_multiply_add(V a, V b, V c) noexcept {
  [[maybe_unused]] constexpr int bytes = sizeof(V);
  [[maybe_unused]] constexpr bool wide = sizeof(Element<V>) == 8;
#if NCLAB_SIMD_BYTES == 64
  if constexpr (bytes == 64 && wide) {
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  } else if constexpr (bytes == 64) {
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
#endif
#if NCLAB_SIMD_BYTES >= 32
  if constexpr (bytes == 32 && wide) {
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  } else if constexpr (bytes == 32) {
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  }
#endif
  return a * b + c;
}

inline double fused_multiply_add(double a, double b, double c) noexcept {
#if NCLAB_SIMD_BYTES > 16
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

inline float fused_multiply_add(float a, float b, float c) noexcept {
#if NCLAB_SIMD_BYTES > 16
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// a * b + c in the numerics N, for vectors and single numbers.
template <class N, class V>
inline V multiply_add(V a, V b, V c) noexcept {
  if constexpr (N::fused) {
    return fused_multiply_add(a, b, c);
  } else {
    return a * b + c;
  }
}

template <class V>
inline V square_root(V x) noexcept {
  [[maybe_unused]] constexpr bool wide = sizeof(Element<V>) == 8;
#if NCLAB_SIMD_BYTES == 64
  // The masked form, with all lanes: GCC reports an uninitialized variable in the form without a
  // mask.
  if constexpr (sizeof(V) == 64 && wide) {
    return (V)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
  } else if constexpr (sizeof(V) == 64) {
    return (V)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
  }
#elif NCLAB_SIMD_BYTES == 32
  if constexpr (sizeof(V) == 32 && wide) {
    return (V)_mm256_sqrt_pd((__m256d)x);
  } else if constexpr (sizeof(V) == 32) {
    return (V)_mm256_sqrt_ps((__m256)x);
  }
#endif
  V root;
  for (int i = 0; i < Traits<V>::lanes; ++i) {
    root[i] = wide ? static_cast<Element<V>>(__builtin_sqrt(static_cast<double>(x[i])))
                   : static_cast<Element<V>>(__builtin_sqrtf(static_cast<float>(x[i])));
  }
  return root;
}

// The larger of each lane; `b` if either is NaN.
template <class V>
inline V larger(V a, V b) noexcept {
#if NCLAB_SIMD_BYTES == 64
  if constexpr (sizeof(Element<V>) == 4) {
    return (V)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
  } else {
    return (V)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
  }
#elif NCLAB_SIMD_BYTES == 32
  if constexpr (sizeof(Element<V>) == 4) {
    return (V)_mm256_max_ps((__m256)a, (__m256)b);
  } else {
    return (V)_mm256_max_pd((__m256d)a, (__m256d)b);
  }
#else
  return a > b ? a : b;
#endif
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SIMD_VECTOR_HPP_

// Optimizer steps, with the operations in the order of ../optimizer.cpp.
#if defined(__unix__) || defined(__APPLE__)
#include <limits.h>  // defines __GLIBC__ where the C library is glibc
#endif

#include "scalar/simd/kernels.hpp"
#include "simd/vector.hpp"

extern "C" double pow(double, double) noexcept;

namespace nanochat::simd::NCLAB_SIMD {
namespace {

double (*volatile const pow_function)(double, double) = &::pow;

// a * b - product exactly, for a product far from overflow and underflow.
template <class V>
inline V product_error(V a, V b, V product) noexcept {
#if NCLAB_SIMD_BYTES > 16
  return fused_multiply_add(a, b, -product);
#else
  // Veltkamp's split into halves whose products are exact, Dekker's sum of them.
  constexpr double splitter = 0x1p27 + 1.0;
  const V a_big = a * splitter;
  const V a_high = a_big - (a_big - a);
  const V a_low = a - a_high;
  const V b_big = b * splitter;
  const V b_high = b_big - (b_big - b);
  const V b_low = b - b_high;
  return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

// glibc's pow (2.28 and later) computes x**y with a relative error below 2**-67 |log(x**y)| plus
// 0.012 units in the last place before its only rounding, so its result is the correctly rounded
// one unless the exact x**y lies within 0.03 units of the middle between two numbers, for results
// between 2**-200 and 2**200. The exact remainder of a product or a root gives the distance:
// results near the middle are left to pow itself, as are results out of range and powers of two,
// below which the units are half as large. For zero, pow gives zero.
constexpr double in_doubt = 0.5 - 0.03;

template <class V>
inline V unit(V x) noexcept {  // of the last place; x is normal
  constexpr std::int64_t exponent = 0x7ff0000000000000;
  return (V)((Integers<V>)x & exponent) * 0x1p-52;
}

template <class V>
inline Integers<V> out_of_range(V x) noexcept {
  constexpr std::int64_t mantissa = 0x000fffffffffffff;
  return ~((x > 0x1p-200) & (x < 0x1p200) & (((Integers<V>)x & mantissa) != 0));
}

template <class V>
inline V magnitude(V x) noexcept {
  return (V)((Integers<V>)x & INT64_MAX);
}

#ifdef __GLIBC__
constexpr bool pow_is_known = true;
#else
constexpr bool pow_is_known = false;
#endif

// The lanes in which pow(x, 2.0) may differ from x * x.
template <class V>
inline Integers<V> square_in_doubt(V x, V square) noexcept {
  if constexpr (!pow_is_known) return ~Integers<V>{};
  const V error = magnitude(product_error(x, x, square));
  return (out_of_range(square) | ~(error < in_doubt * unit(square))) & (x != 0.0);
}

// The lanes in which pow(x, 0.5) may differ from the correctly rounded root.
template <class V>
inline Integers<V> root_in_doubt(V x, V root) noexcept {
  if constexpr (!pow_is_known) return ~Integers<V>{};
  // sqrt(x) - root is (x - root**2) / (2 root) but for a relative 2**-54.
  const V error = magnitude(product_error(root, root, x));
  return (out_of_range(root) | ~(error < 2.0 * in_doubt * unit(root) * root)) &
         ((Integers<V>)x != 0);
}

// Numbers per block. Calls of pow for lanes in doubt come after the vector loop, not inside it.
constexpr int block = 128;

struct Doubts {
  std::int32_t index[block + width<double>];  // whole vectors are written
  int count = 0;

  template <class V>
  void note(int first, Integers<V> doubtful) noexcept {
#if NCLAB_SIMD_BYTES == 64  // without a branch, which would be unpredictable
    const __mmask8 mask = _mm512_movepi64_mask((__m512i)doubtful);
    const __m256i at = (__m256i)(Vector<std::int32_t, 8>{0, 1, 2, 3, 4, 5, 6, 7} + first);
    _mm256_storeu_si256((__m256i*)(index + count), _mm256_maskz_compress_epi32(mask, at));
    count += __builtin_popcount(mask);
#else
#pragma GCC unroll 4
    for (int i = 0; i < Traits<V>::lanes; ++i) {
      index[count] = first + i;
      count -= static_cast<int>(doubtful[i]);  // -1 or 0
    }
#endif
  }

  void settle(double* result, const double* base, double exponent) const noexcept {
    auto* const power = pow_function;
    for (int i = 0; i < count; ++i) result[index[i]] = power(base[index[i]], exponent);
  }
};

// One block of at most `block` numbers. Unused lanes of the last vector hold 0.
inline void exact_block(double* value, const double* grad, double* m, double* v, int n,
                        const Adam& s, double decay) noexcept {
  using V = Whole<double>;
  constexpr int lanes = width<double>;
  double g[block], square[block], square_hat[block], root[block];
  const auto get = [n](const double* from, int i) {
    return i + lanes <= n ? load<V>(from + i) : load_first<V>(from + i, n - i);
  };
  const auto put = [n](double* to, int i, V x) {
    if (i + lanes <= n) return store(to + i, x);
    store_first(to + i, x, n - i);
  };
  Doubts squares, roots;
  for (int i = 0; i < n; i += lanes) {
    const V x = get(grad, i) * s.grad_scale;
    const V x2 = x * x;
    store(g + i, x);
    store(square + i, x2);
    squares.note<V>(i, square_in_doubt(x, x2));
  }
  squares.settle(square, g, 2.0);
  for (int i = 0; i < n; i += lanes) {
    const V x2 = s.beta2 * get(v, i) + (1.0 - s.beta2) * load<V>(square + i);
    put(v, i, x2);
    const V x2_hat = x2 / s.correction2;
    const V x_hat = square_root(x2_hat);
    store(square_hat + i, x2_hat);
    store(root + i, x_hat);
    roots.note<V>(i, root_in_doubt(x2_hat, x_hat));
  }
  roots.settle(root, square_hat, 0.5);
  for (int i = 0; i < n; i += lanes) {
    const V mean = s.beta1 * get(m, i) + (1.0 - s.beta1) * load<V>(g + i);
    const V mean_hat = mean / s.correction1;
    const V update = s.lr * mean_hat / (load<V>(root + i) + s.eps);
    put(value, i, get(value, i) * decay - update);
    put(m, i, mean);
  }
}

// Calls f(offset, lanes) for whole vectors, then once for the remaining lanes.
template <class T, class F>
inline void each_vector(std::size_t n, F f) noexcept {
  constexpr std::size_t lanes = width<T>;
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) f(i, static_cast<int>(lanes));
  if (i < n) f(i, static_cast<int>(n - i));
}

template <class V>
inline V fetch(const Element<V>* from, int count) noexcept {
  return count == Traits<V>::lanes ? load<V>(from) : load_first<V>(from, count);
}

template <class V>
inline void put(Element<V>* to, V v, int count) noexcept {
  if (count == Traits<V>::lanes) {
    store(to, v);
  } else {
    store_first(to, v, count);
  }
}

// A root within a unit in the last place. The divider takes the time of 16 products per root of 8
// numbers, and the step needs it for a division. A guess of 14 bits and two rounds of Goldschmidt's
// iteration do not use it.
template <class V>
inline V quick_root(V x) noexcept {
#if NCLAB_SIMD_BYTES == 64
  if constexpr (sizeof(V) == 64 && sizeof(Element<V>) == 8) {
    const V guess = (V)_mm512_maskz_rsqrt14_pd(0xff, (__m512d)x);
    V root = x * guess;
    V half = 0.5 * guess;
#pragma GCC unroll 2
    for (int round = 0; round < 2; ++round) {
      const V error = fused_multiply_add(-root, half, broadcast<V>(0.5));
      root = fused_multiply_add(root, error, root);
      half = fused_multiply_add(half, error, half);
    }
    // 0 and infinity are their own roots, but the guesses for them are infinity and 0.
    constexpr int zeros_and_infinity = 0x0e;
    const __mmask8 own = _mm512_fpclass_pd_mask((__m512d)x, zeros_and_infinity);
    return (V)_mm512_mask_mov_pd((__m512d)root, own, (__m512d)x);
  }
#endif
  return square_root(x);
}

}  // namespace

template <class N>
void adamw(typename N::T* value, const typename N::T* grad, typename N::T* m, typename N::T* v,
           std::size_t n, const Adam& s) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  const double decay = 1.0 - s.lr * s.weight_decay;
  if constexpr (!N::fused) {
    for (std::size_t i = 0; i < n; i += block) {
      const int count = n - i < block ? static_cast<int>(n - i) : block;
      exact_block(value + i, grad + i, m + i, v + i, count, s, decay);
    }
  } else {
    const V scale = broadcast<V>(static_cast<T>(s.grad_scale));
    const V beta1 = broadcast<V>(static_cast<T>(s.beta1));
    const V beta2 = broadcast<V>(static_cast<T>(s.beta2));
    const V fresh1 = broadcast<V>(static_cast<T>(1.0 - s.beta1));
    const V fresh2 = broadcast<V>(static_cast<T>(1.0 - s.beta2));
    const V inverse2 = broadcast<V>(static_cast<T>(1.0 / s.correction2));
    const V rate = broadcast<V>(static_cast<T>(-s.lr / s.correction1));
    const V keep = broadcast<V>(static_cast<T>(decay));
    const V eps = broadcast<V>(static_cast<T>(s.eps));
    each_vector<T>(n, [&](std::size_t i, int count) {
      const V g = fetch<V>(grad + i, count) * scale;
      const V mean = fused_multiply_add(beta1, fetch<V>(m + i, count), fresh1 * g);
      const V square = fused_multiply_add(beta2, fetch<V>(v + i, count), fresh2 * g * g);
      const V update = mean * rate / (quick_root(square * inverse2) + eps);
      put(value + i, fused_multiply_add(fetch<V>(value + i, count), keep, update), count);
      put(m + i, mean, count);
      put(v + i, square, count);
    });
  }
}

template <class N>
void sgd(typename N::T* value, const typename N::T* grad, typename N::T* buffer, std::size_t n,
         const Sgd& s) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  const V decay = broadcast<V>(static_cast<T>(1.0 - s.lr * s.weight_decay));
  const V rate = broadcast<V>(static_cast<T>(s.lr));
  const V momentum = broadcast<V>(static_cast<T>(s.momentum));
  const V scale = broadcast<V>(static_cast<T>(s.grad_scale));
  each_vector<T>(n, [&](std::size_t i, int count) {
    const V g = fetch<V>(grad + i, count) * scale;
    const V velocity = s.first ? g : multiply_add<N>(momentum, fetch<V>(buffer + i, count), g);
    put(value + i, fetch<V>(value + i, count) * decay - rate * velocity, count);
    put(buffer + i, velocity, count);
  });
}

template void adamw<Exact>(double*, const double*, double*, double*, std::size_t,
                           const Adam&) noexcept;
template void adamw<Fast64>(double*, const double*, double*, double*, std::size_t,
                            const Adam&) noexcept;
template void adamw<Fast32>(float*, const float*, float*, float*, std::size_t,
                            const Adam&) noexcept;
template void sgd<Exact>(double*, const double*, double*, std::size_t, const Sgd&) noexcept;
template void sgd<Fast64>(double*, const double*, double*, std::size_t, const Sgd&) noexcept;
template void sgd<Fast32>(float*, const float*, float*, std::size_t, const Sgd&) noexcept;

}  // namespace nanochat::simd::NCLAB_SIMD

// The vector kernels that replay a program, one table of functions for each instruction set, chosen
// when the process starts. Leaves out what to run and in which order (../program/).
//
// A row is a run of lanes in memory: one number of the model for each (document, position) pair.
// Rows that a kernel reads whole may be read up to the next multiple of `row_pad` elements; what
// stands there is never used. A kernel writes nothing beyond the lanes it was asked for.
//
// Two numerics. fast: fused multiply-adds, own exp, log, tanh and powers (error under 2 units in
// the last place in float64, 4 in float32). exact (float64 alone): each product and each sum
// rounded once, in the order of the terms, exp, log, tanh and pow from libm: the bits of CPython.
// Lanes are independent, so both give the same bits whatever the vector width, fused or not.
#ifndef NANOCHAT_SCALAR_SIMD_SIMD_HPP_
#define NANOCHAT_SCALAR_SIMD_SIMD_HPP_

#include <cstddef>
#include <cstdint>

namespace nanochat::simd {

inline constexpr std::size_t row_pad = 16;  // elements

// c[i][n] = Σ_k a[k][i * a_step] · b[k][n] for i < m, n < lanes; terms in the order of k, starting
// from 0, or from what c holds when `accumulate`. b's rows are read whole, c's rows are not.
template <class T>
struct Gemm {
  std::int32_t m, lanes, k;
  const T* const* a;  // k pointers to numbers that all lanes share
  std::ptrdiff_t a_step;
  const T* const* b;  // k pointers to rows
  T* c;
  std::ptrdiff_t c_step;  // elements between rows of c
  bool accumulate;
};

// One operand of a Term: `base + f * f_step + k * k_step` is the address of a row, or of one number
// for all lanes. A null base stands for the number 1.
template <class T>
struct Operand {
  const T* base;
  std::ptrdiff_t f_step, k_step;  // elements
  bool row;
};

template <class T>
struct Term {
  Operand<T> a, b;
  std::int32_t k;  // products in this term
};

// dst[f][n] = Σ_terms Σ_k a·b, terms and products in order, for f < features, n < lanes. A sum of a
// single product is the product itself; any other starts from 0, or from dst when `accumulate`.
template <class T>
struct Sum {
  T* dst;
  std::ptrdiff_t dst_step;
  std::int32_t features, lanes, terms;
  const Term<T>* term;
  bool accumulate;
};

// One destination of a sum whose operands stand at other positions (stages) than its own. Operand a
// of product k is row fa + k * dfa at stage ta + k * dta; b likewise.
struct Run {
  std::int32_t f;  // row of the destination
  std::int32_t k;
  std::int32_t fa, dfa, ta, dta;
  std::int32_t fb, dfb, tb, dtb;
};

// dst + f * dst_step for each run: Σ_k a·b over the lanes (documents) of one stage. A product whose
// stage has fewer documents left than this one adds to those alone; where width is 0 it is skipped.
template <class T>
struct Cross {
  T* dst;
  std::ptrdiff_t dst_step;
  const Run* run;
  std::int32_t runs, lanes;
  const T* const* a_stage;  // for each stage, its row 0; null: the number 1
  std::ptrdiff_t a_step;    // elements between rows
  const T* const* b_stage;
  std::ptrdiff_t b_step;
  const std::int32_t* width;  // documents alive at each stage, never growing
  bool accumulate;            // start from dst, not from 0
};

enum class Map : std::uint8_t {
  exp,
  log,
  tanh,
  relu,              // x > 0 or nan: x, else 0
  step,              // x > 0: 1, else 0
  inverse,           // 1 / x
  power,             // x ** c
  power_local,       // c * x ** (c - 1)
  one_minus_square,  // 1 - x * x
  add_constant,      // x + c
};

struct Adam {
  double lr, beta1, beta2, eps, weight_decay;
  double correction1, correction2;  // 1 - beta**t
  double grad_scale;                // multiplies every gradient first
};

struct Sgd {
  double lr, momentum, weight_decay;
  bool first;
  double grad_scale;
};

template <class T>
struct Table {
  void (*gemm)(const Gemm<T>&) noexcept;
  void (*sum)(const Sum<T>&) noexcept;
  void (*cross)(const Cross<T>&) noexcept;
  // dst[i] = op(src[i], c) for i < n; the arrays may be the same.
  void (*map)(Map, T* dst, const T* src, std::size_t n, double c) noexcept;
  // dst[n] = the largest of rows src + f * step, as Python's max(): a nan in first place stays.
  void (*largest)(T* dst, const T* src, std::ptrdiff_t step, std::int32_t rows,
                  std::int32_t lanes) noexcept;
  // dst[n * dst_step + f] = src[f * src_step + n] for f < rows, n < lanes. Rows of dst may be
  // written up to the next multiple of row_pad elements (dst_step has room for it).
  void (*transpose)(T* dst, std::ptrdiff_t dst_step, const T* src, std::ptrdiff_t src_step,
                    std::int32_t rows, std::int32_t lanes) noexcept;
  // value, grad, m, v: n numbers each. The arithmetic of ../optimizer.cpp.
  void (*adamw)(T* value, const T* grad, T* m, T* v, std::size_t n, const Adam&) noexcept;
  void (*sgd)(T* value, const T* grad, T* buffer, std::size_t n, const Sgd&) noexcept;
  const char* name;  // "avx512", "avx2", "portable"
};

struct Tables {
  Table<double> exact;
  Table<double> fast64;
  Table<float> fast32;
};

// The best instruction set of this processor, or the one that the environment variable NCLAB_SIMD
// names (for tests). Throws std::invalid_argument for a name it does not know or cannot run.
const Tables& tables();
// By name; null when it is unknown, not compiled in, or not supported by this processor.
const Tables* tables_named(const char* name) noexcept;

}  // namespace nanochat::simd

#endif  // NANOCHAT_SCALAR_SIMD_SIMD_HPP_

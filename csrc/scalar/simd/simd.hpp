// The vector kernels that replay a program: one table of functions per instruction set, chosen when
// the process starts. ../program/ decides which kernels run and in which order.
//
// A row is a run of lanes in memory: one number of the model per (document, position) pair. A
// kernel may read a row up to the next multiple of `row_pad` elements, but does not use the excess.
// It writes only the lanes that it is called for.
//
// Two numerics. fast: fused multiply-adds and vectorized exp, log, tanh and powers (error under 2
// units in the last place in float64, 4 in float32). exact (only float64): each product and each
// sum is rounded once, in the order of the terms; exp, log, tanh and pow are those of libm, with
// the bits of CPython. Lanes are independent: a result does not depend on the position of its lane
// in a vector. Only fast adamw rounds its square root differently per instruction set.
#ifndef NANOCHAT_SCALAR_SIMD_SIMD_HPP_
#define NANOCHAT_SCALAR_SIMD_SIMD_HPP_

#include <cstddef>
#include <cstdint>

namespace nanochat::simd {

inline constexpr std::size_t row_pad = 16;  // elements

// Σ_k a[k * a_next + i * a_step] · b[k * b_next + n]: consecutive numbers and rows.
template <class T>
struct Products {
  const T* a;             // the first number, of row 0 of the result; all lanes share it
  std::ptrdiff_t a_next;  // elements from k to k + 1
  const T* b;             // the first row
  std::ptrdiff_t b_next;
  std::int32_t k;
};

// c[i][n] = start + Σ_terms Σ_k a·b for i < m, n < lanes; terms and products in order. With
// `accumulate` it adds to c. A start of −0 adds nothing, so that a sum of −0 is −0. b's rows are
// read whole.
template <class T>
struct Gemm {
  std::int32_t m, lanes, terms;
  const Products<T>* term;
  std::ptrdiff_t a_step;  // between the numbers of rows i and i + 1
  T* c;
  std::ptrdiff_t c_step;  // elements between rows of c
  bool accumulate;
  T start = 0;
};

// One operand of a Term: `base + o * o_step + f * f_step + k * k_step` is the address of a row, or
// of one number for all lanes. A null base means the number 1.
template <class T>
struct Operand {
  const T* base;
  std::ptrdiff_t f_step, k_step;  // elements
  bool row;
  std::ptrdiff_t o_step = 0;
};

template <class T>
struct Term {
  Operand<T> a, b;
  std::int32_t k;  // products in this term
};

// dst[o][f][n] = start + Σ_terms Σ_k a·b, terms and products in order, for o < outer, f < features,
// n < lanes; rows of dst follow each other. With `accumulate` it adds to dst.
template <class T>
struct Sum {
  T* dst;
  std::ptrdiff_t dst_step;
  std::int32_t features, lanes, terms;
  const Term<T>* term;
  bool accumulate;
  std::int32_t outer = 1;
  T start = 0;
};

// A call is repeated `count` times. Its destinations and both factors advance by constant steps, as
// from one head of an attention to the next.
struct Blocks {
  std::int32_t count = 1;
  std::ptrdiff_t dst = 0, a = 0, b = 0;  // elements
};

// The rows of an array at one position.
template <class T>
struct PositionRows {
  const T* row;         // row 0
  std::ptrdiff_t step;  // elements between rows
  std::int32_t alive;   // lanes in use; the others have no number at this position
};

// One operand of a Cross. Product k reads row `row + k * row_step` of `at[k * at_step]`. Each
// repeat adds next_row to the row and next_row_step to its step.
template <class T>
struct CrossFactor {
  const PositionRows<T>* at;
  std::ptrdiff_t at_step;
  std::ptrdiff_t row, row_step;
  std::ptrdiff_t next_row, next_row_step;
};

// dst[i][n] = start + Σ_k a[k][n] · b[k][i][n] for i < outs, n < lanes: destinations that share
// their first factors. Destination i reads the row of b that is i * b_next after that of the first
// destination. A lane skips the products of which it has only one factor. Rows are read to the end
// of a vector.
template <class T>
struct Cross {
  T* dst;
  std::ptrdiff_t dst_step;  // elements between destinations
  CrossFactor<T> a, b;
  std::ptrdiff_t b_next;        // rows
  std::int32_t k, outs, lanes;  // lanes: written, which may be more than those in use
  std::int32_t in_use;          // lanes that are not padding
  bool whole;                   // every product has both factors in all lanes in use
  bool accumulate;              // start from dst
  T start;
  std::int32_t repeats = 1;
  std::ptrdiff_t dst_next = 0;  // elements from the destinations of one repeat to the next one's
};

// dst[i][n] = start + Σ_k a[k][n] · b[i][k][n] for i < outs, n < lanes: one list of factors against
// many. Rows are read to the end of a vector.
template <class T>
struct Fan {
  T* dst;
  std::ptrdiff_t dst_step;
  const T* a;
  std::ptrdiff_t a_step;  // elements from k to k + 1
  const T* const* b;      // outs pointers
  std::ptrdiff_t b_step;
  std::ptrdiff_t b_shift;  // from the pointers to the rows of this call
  std::int32_t k, outs, lanes;
  bool accumulate;  // start from dst
  T start;
  Blocks blocks;
};

enum class Map : std::uint8_t {
  exp,
  log,
  tanh,
  relu,              // x > 0 or nan: x, else 0
  step,              // x > 0: 1, else 0
  inverse,           // 1 / x
  power,             // x ** c
  power_local,       // c * x ** (c - 1); 0 if c is 0
  one_minus_square,  // 1 - x * x
  add_constant,      // x + c
};

struct Adam {
  double lr, beta1, beta2, eps, weight_decay;
  double correction1, correction2;  // 1 - beta**t
  double grad_scale;                // factor of every gradient, applied first
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
  void (*fan)(const Fan<T>&) noexcept;
  // dst[i] = op(src[i], c) for i < n; the arrays may be the same.
  void (*map)(Map, T* dst, const T* src, std::size_t n, double c) noexcept;
  // dst[n] = the largest of rows src + f * step. As in Python's max(), a nan in the first row
  // stays.
  void (*largest)(T* dst, const T* src, std::ptrdiff_t step, std::int32_t rows,
                  std::int32_t lanes) noexcept;
  // dst[n * dst_step + f] = src[f * src_step + n] for f < rows, n < lanes. Rows of dst may be
  // written up to the next multiple of row_pad elements (dst_step has room for it).
  void (*transpose)(T* dst, std::ptrdiff_t dst_step, const T* src, std::ptrdiff_t src_step,
                    std::int32_t rows, std::int32_t lanes) noexcept;
  // value, grad, m, v: n numbers each. The arithmetic of ../optimizer.cpp.
  void (*adamw)(T* value, const T* grad, T* m, T* v, std::size_t n, const Adam&) noexcept;
  void (*sgd)(T* value, const T* grad, T* buffer, std::size_t n, const Sgd&) noexcept;
  const char* name;    // "avx512", "avx2", "portable"
  std::int32_t width;  // elements of a vector
};

struct Tables {
  Table<double> exact;
  Table<double> fast64;
  Table<float> fast32;
};

// Returns the tables of the best instruction set of this processor, or of the one that the
// environment variable NCLAB_SIMD names (for tests). Throws std::invalid_argument for an unknown or
// unsupported name.
const Tables& tables();
// Returns null for a name that is unknown, not compiled in or not supported by this processor.
const Tables* tables_named(const char* name) noexcept;

}  // namespace nanochat::simd

#endif  // NANOCHAT_SCALAR_SIMD_SIMD_HPP_

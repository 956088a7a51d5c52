// Elementwise products, and sums of them along a feature axis.
#include "scalar/simd/kernels.hpp"
#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
namespace {

template <class T>
constexpr T one = 1;

// The first factor of an operand for feature f. The number 1 has step 0.
template <class T>
struct Cursor {
  const T* at;
  std::ptrdiff_t step;
  bool row;
};

template <class T>
inline Cursor<T> cursor(const Operand<T>& operand, std::int32_t o, std::int32_t f,
                        std::int32_t n) noexcept {
  if (operand.base == nullptr) return {&one<T>, 0, false};
  return {operand.base + o * operand.o_step + f * operand.f_step + (operand.row ? n : 0),
          operand.k_step, operand.row};
}

// A whole vector, or the first `last` lanes of one: rows are not read beyond them.
template <class V, bool row, bool part>
inline V fetch(const Element<V>* from, int last) noexcept {
  if constexpr (!row) {
    return broadcast<V>(*from);
  } else if constexpr (part) {
    return load_first<V>(from, last);
  } else {
    return load<V>(from);
  }
}

// Vector v of a row: a part of one if it is the last of a tail.
template <class V, int vectors, bool row, bool part>
inline V fetch_at(const Element<V>* from, int v, int last) noexcept {
  if constexpr (!row) {
    return broadcast<V>(*from);
  } else if (part && v == vectors - 1) {
    return load_first<V>(from + v * Traits<V>::lanes, last);
  } else {
    return load<V>(from + v * Traits<V>::lanes);
  }
}

template <class N, class V, int vectors, bool part, bool a_row, bool b_row>
inline void add_term(V (&sum)[vectors], Cursor<typename N::T> a, Cursor<typename N::T> b,
                     std::int32_t count, int last) noexcept {
  for (std::int32_t k = 0; k < count; ++k) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sum[v] = multiply_add<N>(fetch_at<V, vectors, a_row, part>(a.at, v, last),
                               fetch_at<V, vectors, b_row, part>(b.at, v, last), sum[v]);
    }
    a.at += a.step;
    b.at += b.step;
  }
}

// Lanes from n on: `vectors` vectors, of which the last has `last` lanes. They are summed side by
// side, because an addition takes several cycles and each one waits for the one before.
template <class N, int vectors, bool part>
void sum_columns(const Sum<typename N::T>& s, std::int32_t o, std::int32_t n, int last) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  constexpr int lanes = width<T>;
  const V start = broadcast<V>(s.start);
  for (std::int32_t f = 0; f < s.features; ++f) {
    T* const dst = s.dst + (o * s.features + f) * s.dst_step + n;
    V sum[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sum[v] = s.accumulate ? fetch_at<V, vectors, true, part>(dst, v, last) : start;
    }
    for (std::int32_t t = 0; t < s.terms; ++t) {
      const Term<T>& term = s.term[t];
      const Cursor<T> a = cursor(term.a, o, f, n);
      const Cursor<T> b = cursor(term.b, o, f, n);
      if (a.row && b.row) {
        add_term<N, V, vectors, part, true, true>(sum, a, b, term.k, last);
      } else if (a.row) {
        add_term<N, V, vectors, part, true, false>(sum, a, b, term.k, last);
      } else if (b.row) {
        add_term<N, V, vectors, part, true, false>(sum, b, a, term.k, last);
      } else {
        add_term<N, V, vectors, part, false, false>(sum, a, b, term.k, last);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      if (part && v == vectors - 1) {
        store_first(dst + v * lanes, sum[v], last);
      } else {
        store(dst + v * lanes, sum[v]);
      }
    }
  }
}

// The lanes from n on, at most `vectors` vectors.
template <class N, int vectors>
void sum_tail(const Sum<typename N::T>& s, std::int32_t o, std::int32_t n) noexcept {
  constexpr int lanes = width<typename N::T>;
  const int left = s.lanes - n;
  if constexpr (vectors > 1) {
    if (left <= (vectors - 1) * lanes) return sum_tail<N, vectors - 1>(s, o, n);
  }
  if (left == vectors * lanes) return sum_columns<N, vectors, false>(s, o, n, lanes);
  sum_columns<N, vectors, true>(s, o, n, left - (vectors - 1) * lanes);
}

// One product of a sum, per feature. b may be one number for all lanes.
template <class T>
struct Factors {
  Cursor<T> a, b;
  std::ptrdiff_t a_step, b_step;

  Factors() noexcept : a{}, b{}, a_step(0), b_step(0) {}
  Factors(const Term<T>& term, std::int32_t o) noexcept
      : a(cursor(term.a, o, 0, 0)),
        b(cursor(term.b, o, 0, 0)),
        a_step(term.a.base == nullptr ? 0 : term.a.f_step),
        b_step(term.b.base == nullptr ? 0 : term.b.f_step) {
    if (!a.row) {
      const Cursor<T> number = a;
      const std::ptrdiff_t number_step = a_step;
      a = b;
      a_step = b_step;
      b = number;
      b_step = number_step;
    }
  }

  template <class N, bool b_row, bool part, class V>
  V add_to(V sum, std::int32_t n, int last) const noexcept {
    return multiply_add<N>(fetch<V, true, part>(a.at + n, last),
                           fetch<V, b_row, part>(b.at + (b_row ? n : 0), last), sum);
  }
  void next() noexcept {
    a.at += a_step;
    b.at += b_step;
  }
  // The next product of the same term.
  void next_product() noexcept {
    a.at += a.step;
    b.at += b.step;
  }
};

// One or two terms of one product each, which are most of a model's elementwise work.
template <class N, int terms, bool b_row, bool d_row>
void elementwise(const Sum<typename N::T>& s, std::int32_t o, Factors<typename N::T> first,
                 Factors<typename N::T> second) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  constexpr int lanes = width<T>;
  const V start = broadcast<V>(s.start);
  const std::int32_t whole = s.lanes / lanes * lanes;
  const int rest = s.lanes - whole;
  T* dst = s.dst + o * s.features * s.dst_step;
  for (std::int32_t f = 0; f < s.features; ++f, dst += s.dst_step) {
    for (std::int32_t n = 0; n < whole; n += lanes) {
      V sum = s.accumulate ? load<V>(dst + n) : start;
      sum = first.template add_to<N, b_row, false>(sum, n, lanes);
      if constexpr (terms == 2) sum = second.template add_to<N, d_row, false>(sum, n, lanes);
      store(dst + n, sum);
    }
    if (rest != 0) {
      V sum = s.accumulate ? load_first<V>(dst + whole, rest) : start;
      sum = first.template add_to<N, b_row, true>(sum, whole, rest);
      if constexpr (terms == 2) sum = second.template add_to<N, d_row, true>(sum, whole, rest);
      store_first(dst + whole, sum, rest);
    }
    first.next();
    if constexpr (terms == 2) second.next();
  }
}

// The products of a few terms, all of whose factors a are rows; 0 if there are more than `most`, or
// others.
template <class T, int most>
int few_products(const Sum<T>& s, std::int32_t o, Factors<T> (&products)[most]) noexcept {
  int count = 0;
  for (std::int32_t t = 0; t < s.terms; ++t) {
    if (count + s.term[t].k > most) return 0;
    Factors<T> product(s.term[t], o);
    if (!product.a.row) return 0;
    for (std::int32_t k = 0; k < s.term[t].k; ++k) {
      products[count++] = product;
      product.next_product();
    }
  }
  return count;
}

// Vectors of one feature, whose products are added side by side: no loop over terms and products
// for each feature, as in sum_columns.
template <class N, int products, bool part>
inline void add_products(const Sum<typename N::T>& s, typename N::T* dst,
                         const Factors<typename N::T> (&factors)[products], std::int32_t n,
                         int last) noexcept {
  using V = Whole<typename N::T>;
  V sum = broadcast<V>(s.start);
  if (s.accumulate) sum = fetch<V, true, part>(dst + n, last);
#pragma GCC unroll 4
  for (int i = 0; i < products; ++i) {
    sum = factors[i].b.row ? factors[i].template add_to<N, true, part>(sum, n, last)
                           : factors[i].template add_to<N, false, part>(sum, n, last);
  }
  if constexpr (part) {
    store_first(dst + n, sum, last);
  } else {
    store(dst + n, sum);
  }
}

template <class N, int products>
void add_few(const Sum<typename N::T>& s, std::int32_t o,
             Factors<typename N::T> (&factors)[products]) noexcept {
  using T = typename N::T;
  constexpr int lanes = width<T>;
  const std::int32_t whole = s.lanes / lanes * lanes;
  T* dst = s.dst + o * s.features * s.dst_step;
  for (std::int32_t f = 0; f < s.features; ++f, dst += s.dst_step) {
    for (std::int32_t n = 0; n < whole; n += lanes) {
      add_products<N, products, false>(s, dst, factors, n, lanes);
    }
    if (whole < s.lanes) add_products<N, products, true>(s, dst, factors, whole, s.lanes - whole);
#pragma GCC unroll 4
    for (int i = 0; i < products; ++i) factors[i].next();
  }
}

// Sums of three or four products per feature. Returns false for others.
template <class N>
bool add_few(const Sum<typename N::T>& s) noexcept {
  using T = typename N::T;
  Factors<T> found[4];
  const int products = few_products(s, 0, found);
  if (products < 3) return false;
  for (std::int32_t o = 0; o < s.outer; ++o) {
    if (o > 0) few_products(s, o, found);
    if (products == 3) {
      Factors<T> three[3] = {found[0], found[1], found[2]};
      add_few<N, 3>(s, o, three);
    } else {
      add_few<N, 4>(s, o, found);
    }
  }
  return true;
}

template <class T>
bool is_elementwise(const Sum<T>& s) noexcept {
  if (s.terms < 1 || s.terms > 2 || s.term[0].k != 1 || s.term[s.terms - 1].k != 1) return false;
  return Factors<T>(s.term[0], 0).a.row && Factors<T>(s.term[s.terms - 1], 0).a.row;
}

template <class N>
void elementwise(const Sum<typename N::T>& s) noexcept {
  using T = typename N::T;
  for (std::int32_t o = 0; o < s.outer; ++o) {
    const Factors<T> first(s.term[0], o);
    const Factors<T> second(s.term[s.terms - 1], o);
    if (s.terms == 1) {
      first.b.row ? elementwise<N, 1, true, true>(s, o, first, second)
                  : elementwise<N, 1, false, false>(s, o, first, second);
    } else if (first.b.row) {
      second.b.row ? elementwise<N, 2, true, true>(s, o, first, second)
                   : elementwise<N, 2, true, false>(s, o, first, second);
    } else {
      second.b.row ? elementwise<N, 2, false, true>(s, o, first, second)
                   : elementwise<N, 2, false, false>(s, o, first, second);
    }
  }
}

}  // namespace

template <class N>
void sum(const Sum<typename N::T>& s) noexcept {
  if (is_elementwise(s)) return elementwise<N>(s);
  if (s.terms > 1 && s.terms < 4 && s.features > 3 && add_few<N>(s)) return;
  constexpr int lanes = width<typename N::T>;
  for (std::int32_t o = 0; o < s.outer; ++o) {
    std::int32_t n = 0;
    for (; n + 4 * lanes <= s.lanes; n += 4 * lanes) sum_columns<N, 4, false>(s, o, n, lanes);
    if (n < s.lanes) sum_tail<N, 4>(s, o, n);
  }
}

template void sum<Exact>(const Sum<double>&) noexcept;
template void sum<Fast64>(const Sum<double>&) noexcept;
template void sum<Fast32>(const Sum<float>&) noexcept;
}  // namespace nanochat::simd::NCLAB_SIMD

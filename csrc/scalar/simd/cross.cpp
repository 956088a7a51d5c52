// Sums whose operands belong to other positions than their destinations: attention over the past.
// There are many short ones. Destinations that share a factor are summed in parallel: the factor is
// loaded once, and additions do not wait for each other.
#include "scalar/simd/kernels.hpp"
#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
namespace {

// The lanes of a call: one number, or the first `here` lanes of a vector from `n` on.
template <class T>
struct One {
  using V = T;
  static constexpr bool two = false;
  V of(T x) const noexcept { return x; }
  V get(const T* from) const noexcept { return *from; }
  void put(T* to, T x) const noexcept { *to = x; }
  V keep(V yes, V no, std::int32_t alive) const noexcept { return alive > 0 ? yes : no; }
  bool all(std::int32_t alive) const noexcept { return alive > 0; }
};
template <class Vectors>
struct Lanes {
  using V = Vectors;
  using T = Element<V>;
  static constexpr bool two = false;
  std::ptrdiff_t n;
  int here;
  V of(T x) const noexcept { return broadcast<V>(x); }
  V get(const T* from) const noexcept { return load<V>(from + n); }
  void put(T* to, V x) const noexcept {
    if (here == Traits<V>::lanes) return store(to + n, x);
    store_first(to + n, x, here);
  }
  V keep(V yes, V no, std::int32_t alive) const noexcept {
    const auto left = static_cast<int>(alive - n);
    constexpr int most = Traits<V>::lanes;
    return keep_first(yes, no, left < 0 ? 0 : left > most ? most : left);
  }
  bool all(std::int32_t alive) const noexcept { return alive >= n + here; }
};

// Two vectors, of which the second may have a part of its lanes: more sums in parallel.
template <class V>
struct Pair {
  V low, high;
};
template <class N, class V>
inline Pair<V> multiply_add(Pair<V> a, Pair<V> b, Pair<V> c) noexcept {
  return {multiply_add<N>(a.low, b.low, c.low), multiply_add<N>(a.high, b.high, c.high)};
}
template <class Vectors>
struct TwoLanes {
  using V = Pair<Vectors>;
  using T = Element<Vectors>;
  static constexpr bool two = true;
  static constexpr int lanes = Traits<Vectors>::lanes;
  Lanes<Vectors> low, high;
  TwoLanes(std::ptrdiff_t n, int here) noexcept : low{n, lanes}, high{n + lanes, here - lanes} {}
  V of(T x) const noexcept { return {low.of(x), high.of(x)}; }
  V get(const T* from) const noexcept { return {low.get(from), high.get(from)}; }
  void put(T* to, V x) const noexcept {
    low.put(to, x.low);
    high.put(to, x.high);
  }
  V keep(V yes, V no, std::int32_t alive) const noexcept {
    return {low.keep(yes.low, no.low, alive), high.keep(yes.high, no.high, alive)};
  }
  bool all(std::int32_t alive) const noexcept { return high.all(alive); }
};

template <int outs, class Call, class L, class T>
inline void start(typename L::V (&sum)[outs], const Call& c, const T* dst, L lanes) noexcept {
#pragma GCC unroll 8
  for (int j = 0; j < outs; ++j) {
    sum[j] = c.accumulate ? lanes.get(dst + j * c.dst_step) : lanes.of(c.start);
  }
}

template <int outs, class Call, class L, class T>
inline void finish(const typename L::V (&sum)[outs], const Call& c, T* dst, L lanes) noexcept {
#pragma GCC unroll 8
  for (int j = 0; j < outs; ++j) lanes.put(dst + j * c.dst_step, sum[j]);
}

// The rows of one position, for product k.
template <class T>
inline const PositionRows<T>& rows_of(const CrossFactor<T>& factor, std::int32_t k) noexcept {
  return factor.at[k * factor.at_step];
}

template <class T>
inline const T* row_of(const CrossFactor<T>& factor, const PositionRows<T>& rows,
                       std::int32_t k) noexcept {
  return rows.row + (factor.row + k * factor.row_step) * rows.step;
}

// Destinations i, i + 1, … i + outs - 1.
template <class N, int outs, class L>
void block(const Cross<typename N::T>& c, std::int32_t i, L lanes) noexcept {
  using T = typename N::T;
  typename L::V sum[outs];
  T* const dst = c.dst + i * c.dst_step;
  start(sum, c, dst, lanes);
  for (std::int32_t k = 0; k < c.k; ++k) {
    const PositionRows<T>& a = rows_of(c.a, k);
    const PositionRows<T>& b = rows_of(c.b, k);
    const auto x = lanes.get(row_of(c.a, a, k));
    const std::ptrdiff_t next = c.b_next * b.step;
    const T* const y = row_of(c.b, b, k) + i * next;
    const std::int32_t alive = a.alive < b.alive ? a.alive : b.alive;
    if (c.whole || alive >= c.in_use || lanes.all(alive)) {
#pragma GCC unroll 8
      for (int j = 0; j < outs; ++j) {
        sum[j] = multiply_add<N>(x, lanes.get(y + j * next), sum[j]);
      }
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < outs; ++j) {
        sum[j] = lanes.keep(multiply_add<N>(x, lanes.get(y + j * next), sum[j]), sum[j], alive);
      }
    }
  }
  finish(sum, c, dst, lanes);
}

template <class N, int outs, class L>
void block(const Fan<typename N::T>& c, std::int32_t i, L lanes) noexcept {
  using T = typename N::T;
  typename L::V sum[outs];
  const T* pb[outs];
#pragma GCC unroll 8
  for (int j = 0; j < outs; ++j) pb[j] = c.b[i + j] + c.b_shift;
  T* const dst = c.dst + i * c.dst_step;
  start(sum, c, dst, lanes);
  const T* pa = c.a;
  std::ptrdiff_t offset = 0;
  for (std::int32_t k = c.k; k > 0; --k, pa += c.a_step, offset += c.b_step) {
    const auto x = lanes.get(pa);
#pragma GCC unroll 8
    for (int j = 0; j < outs; ++j) {
      sum[j] = multiply_add<N>(x, lanes.get(pb[j] + offset), sum[j]);
    }
  }
  finish(sum, c, dst, lanes);
}

// All destinations, up to 8 sums at once.
template <class N, class Call, class L>
inline void all_outs(const Call& c, L lanes) noexcept {
  std::int32_t i = 0;
  if constexpr (!L::two) {
    for (; i + 8 <= c.outs; i += 8) block<N, 8>(c, i, lanes);
  }
  for (; i + 4 <= c.outs; i += 4) block<N, 4>(c, i, lanes);
  const std::int32_t left = c.outs - i;
  if (left == 3) block<N, 3>(c, i, lanes);
  if (left == 2) block<N, 2>(c, i, lanes);
  if (left == 1) block<N, 1>(c, i, lanes);
}

template <class N, class Call>
inline void all_lanes(const Call& c) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  constexpr int lanes = width<T>;
  if (c.lanes == 1) return all_outs<N>(c, One<T>{});
  std::int32_t n = 0;
  for (; n + lanes < c.lanes; n += 2 * lanes) {
    const int here = c.lanes - n;
    all_outs<N>(c, TwoLanes<V>(n, here < 2 * lanes ? here : 2 * lanes));
  }
  if (n >= c.lanes) return;
  const int rest = c.lanes - n;
  if constexpr (tail_width<T> < lanes) {
    if (rest <= tail_width<T>) {
      return all_outs<N>(c, Lanes<Vector<T, tail_width<T>>>{n, rest});
    }
  }
  all_outs<N>(c, Lanes<V>{n, rest});
}

}  // namespace

template <class N>
void cross(const Cross<typename N::T>& c) noexcept {
  Cross<typename N::T> block = c;
  for (std::int32_t i = c.repeats; i > 0; --i) {
    all_lanes<N>(block);
    block.dst += c.dst_next;
    block.a.row += c.a.next_row;
    block.a.row_step += c.a.next_row_step;
    block.b.row += c.b.next_row;
    block.b.row_step += c.b.next_row_step;
  }
}

template <class N>
void fan(const Fan<typename N::T>& c) noexcept {
  Fan<typename N::T> block = c;
  for (std::int32_t i = c.blocks.count; i > 0; --i) {
    all_lanes<N>(block);
    block.dst += c.blocks.dst;
    block.a += c.blocks.a;
    block.b_shift += c.blocks.b;
  }
}

template void cross<Exact>(const Cross<double>&) noexcept;
template void cross<Fast64>(const Cross<double>&) noexcept;
template void cross<Fast32>(const Cross<float>&) noexcept;
template void fan<Exact>(const Fan<double>&) noexcept;
template void fan<Fast64>(const Fan<double>&) noexcept;
template void fan<Fast32>(const Fan<float>&) noexcept;

}  // namespace nanochat::simd::NCLAB_SIMD

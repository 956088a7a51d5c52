// Sums whose operands stand at other positions than their destination: attention over the past.
// Runs are short and many: what all runs share is decided outside their loop.
#include "scalar/simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
namespace {

// What stands for the number 1: a stage whose only row is met by every product.
template <class T>
struct Ones {
  T row[width<T>];
  const T* stage[1];
};
template <class T>
constexpr Ones<T> make_ones(const T* row) noexcept {
  Ones<T> ones{};
  for (T& x : ones.row) x = 1;
  ones.stage[0] = row;
  return ones;
}
template <class T>
constinit const Ones<T> ones = make_ones<T>(ones<T>.row);

// What all runs share of one operand, from lane n on. The number 1 has one stage, one row and no
// end: all else is 0.
template <class T>
struct Side {
  const T* const* stage;
  const std::int32_t* width;
  std::ptrdiff_t step, n;
  bool real;

  Side(const T* const* stages, std::ptrdiff_t row_step, std::int32_t lane,
       const Cross<T>& c) noexcept
      : stage(stages), width(c.width), step(row_step), n(lane), real(true) {
    if (stages != nullptr) return;
    stage = ones<T>.stage;
    width = &c.lanes;
    step = n = 0;
    real = false;
  }

  std::int32_t stage_of(std::int32_t t) const noexcept { return real ? t : 0; }
  const T* at(std::int32_t f, std::int32_t t) const noexcept { return stage[t] + f * step + n; }
};

// The lanes that a loop over runs works on: one number, a whole vector, or part of one.
template <class T>
struct One {
  using V = T;
  static constexpr int here = 1;
  T get(const T* from) const noexcept { return *from; }
  void put(T* to, T x) const noexcept { *to = x; }
};
template <class T>
struct All {
  using V = Whole<T>;
  static constexpr int here = width<T>;
  V get(const T* from) const noexcept { return load<V>(from); }
  void put(T* to, V x) const noexcept { store(to, x); }
};
template <class T>
struct Part {
  using V = Whole<T>;
  int here;
  V get(const T* from) const noexcept { return load_first<V>(from, here); }
  void put(T* to, V x) const noexcept { store_first(to, x, here); }
};

// Widths never grow: the smallest of a run is at its later end.
inline std::int32_t last_stage(std::int32_t t, std::int32_t dt, std::int32_t count) noexcept {
  return dt > 0 ? t + (count - 1) * dt : t;
}

// Runs r... while each has the asked movements and all documents alive at every product. Returns
// the first run that has not.
template <class N, bool a_moves, bool b_moves, class Lanes>
__attribute__((noinline)) std::int32_t stretch(const Cross<typename N::T>& c, std::int32_t r,
                                               const Side<typename N::T>& a,
                                               const Side<typename N::T>& b, Lanes lanes,
                                               std::int32_t n) noexcept {
  using T = typename N::T;
  using V = typename Lanes::V;
  const bool accumulate = c.accumulate;
  const std::int32_t needed = n + lanes.here;
  for (; r < c.runs; ++r) {
    const Run& run = c.run[r];
    const std::int32_t count = run.k;
    const std::int32_t ta = a.stage_of(run.ta);
    const std::int32_t tb = b.stage_of(run.tb);
    const std::int32_t dta = a.stage_of(run.dta);
    const std::int32_t dtb = b.stage_of(run.dtb);
    if ((dta != 0) != a_moves || (dtb != 0) != b_moves || count <= 0) return r;
    if (a.width[a_moves ? last_stage(ta, dta, count) : ta] < needed) return r;
    if (b.width[b_moves ? last_stage(tb, dtb, count) : tb] < needed) return r;
    T* const dst = c.dst + run.f * c.dst_step + n;
    V sum = accumulate ? lanes.get(dst) : V{};
    const T* pa = a.at(run.fa, ta);
    const T* pb = b.at(run.fb, tb);
    const std::ptrdiff_t a_step = run.dfa * a.step;
    const std::ptrdiff_t b_step = run.dfb * b.step;
    // Stages are places of their own; what moves within one moves by a constant.
    const T* const* a_stage = a.stage + ta;
    const T* const* b_stage = b.stage + tb;
    // NOLINTBEGIN(misc-const-correctness): changed where the stage moves.
    std::ptrdiff_t a_offset = pa - *a_stage;
    std::ptrdiff_t b_offset = pb - *b_stage;
    // NOLINTEND(misc-const-correctness)
    for (std::int32_t k = 0;;) {
      sum = multiply_add<N>(lanes.get(pa), lanes.get(pb), sum);
      if (++k == count) break;
      if constexpr (a_moves) {
        a_stage += dta;
        a_offset += a_step;
        pa = *a_stage + a_offset;
      } else {
        pa += a_step;
      }
      if constexpr (b_moves) {
        b_stage += dtb;
        b_offset += b_step;
        pb = *b_stage + b_offset;
      } else {
        pb += b_step;
      }
    }
    lanes.put(dst, sum);
  }
  return r;
}

// One run of any kind, `here` lanes from n on; documents may end on the way.
template <class N>
__attribute__((noinline)) void any_run(const Cross<typename N::T>& c, const Run& run,
                                       const Side<typename N::T>& a, const Side<typename N::T>& b,
                                       std::int32_t n, int here) noexcept {
  using T = typename N::T;
  using V = Whole<T>;
  T* const dst = c.dst + run.f * c.dst_step + n;
  V sum = c.accumulate ? load_first<V>(dst, here) : V{};
  for (std::int32_t k = 0; k < run.k; ++k) {
    const std::int32_t ta = a.stage_of(run.ta + k * run.dta);
    const std::int32_t tb = b.stage_of(run.tb + k * run.dtb);
    std::int32_t alive = n + here;
    if (a.width[ta] < alive) alive = a.width[ta];
    if (b.width[tb] < alive) alive = b.width[tb];
    alive -= n;
    if (alive <= 0) continue;
    const V x = load_first<V>(a.at(run.fa + k * run.dfa, ta), alive);
    const V y = load_first<V>(b.at(run.fb + k * run.dfb, tb), alive);
    sum = keep_first(multiply_add<N>(x, y, sum), sum, alive);
  }
  store_first(dst, sum, here);
}

// All runs, in the lanes from n on.
template <class N, class Lanes>
void all_runs(const Cross<typename N::T>& c, Lanes lanes, std::int32_t n) noexcept {
  const Side<typename N::T> a(c.a_stage, c.a_step, n, c);
  const Side<typename N::T> b(c.b_stage, c.b_step, n, c);
  for (std::int32_t r = 0; r < c.runs;) {
    const std::int32_t first = r;
    const bool a_moves = a.stage_of(c.run[r].dta) != 0;
    const bool b_moves = b.stage_of(c.run[r].dtb) != 0;
    if (a_moves) {
      r = b_moves ? stretch<N, true, true>(c, r, a, b, lanes, n)
                  : stretch<N, true, false>(c, r, a, b, lanes, n);
    } else {
      r = b_moves ? stretch<N, false, true>(c, r, a, b, lanes, n)
                  : stretch<N, false, false>(c, r, a, b, lanes, n);
    }
    if (r == first) any_run<N>(c, c.run[r++], a, b, n, lanes.here);
  }
}

}  // namespace

template <class N>
void cross(const Cross<typename N::T>& c) noexcept {
  using T = typename N::T;
  if (c.lanes == 1) return all_runs<N>(c, One<T>{}, 0);
  std::int32_t n = 0;
  for (; n + width<T> <= c.lanes; n += width<T>) all_runs<N>(c, All<T>{}, n);
  if (n < c.lanes) all_runs<N>(c, Part<T>{c.lanes - n}, n);
}

template void cross<Exact>(const Cross<double>&) noexcept;
template void cross<Fast64>(const Cross<double>&) noexcept;
template void cross<Fast32>(const Cross<float>&) noexcept;

}  // namespace nanochat::simd::NCLAB_SIMD

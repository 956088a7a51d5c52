// Products, sums and transposes of the vector kernels are bit-identical to plain loops.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>

#include "simd_testing.hpp"

using nanochat::simd::Cross;
using nanochat::simd::CrossFactor;
using nanochat::simd::Fan;
using nanochat::simd::Gemm;
using nanochat::simd::Operand;
using nanochat::simd::PositionRows;
using nanochat::simd::Products;
using nanochat::simd::Sum;
using nanochat::simd::Term;
using simd_testing::equal;
using simd_testing::for_each_table;
using simd_testing::Number;
using simd_testing::Rows;

namespace {

template <class S>
void check_gemm(const S& s, std::int32_t m, std::int32_t lanes, std::int32_t k, bool unit_step,
                bool accumulate, std::mt19937_64& random) {
  using T = Number<S>;
  Rows<T> a(unit_step ? k : m, unit_step ? m : k, random);
  Rows<T> b(k, lanes, random);
  Rows<T> c(m, lanes, random);
  Rows<T> expected = c;
  const std::ptrdiff_t a_step = unit_step ? 1 : a.step;
  const std::ptrdiff_t a_next = unit_step ? a.step : 1;
  // Two terms, of which the second one runs backward.
  const std::int32_t last = std::max(k - 1, 0);
  const auto half = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(k + 1));
  const std::array<Products<T>, 2> terms = {
      Products<T>{a.row(0), a_next, b.row(0), b.step, half},
      Products<T>{a.row(0) + last * a_next, -a_next, b.row(0) + last * b.step, -b.step, k - half}};
  const T start = random() % 2 == 0 ? T{0} : -T{0};
  s.table.gemm(Gemm<T>{m, lanes, 2, terms.data(), a_step, c.row(0), c.step, accumulate, start});
  for (std::int32_t i = 0; i < m; ++i) {
    for (std::int32_t n = 0; n < lanes; ++n) {
      T sum = accumulate ? expected(i, n) : start;
      for (std::int32_t j = 0; j < k; ++j) {
        const std::int32_t at = j < half ? j : k - 1 - (j - half);
        sum = s.multiply_add(a.row(0)[at * a_next + i * a_step], b(at, n), sum);
      }
      expected(i, n) = sum;
    }
  }
  CHECK(equal(c, expected));
}

// A sum as simd.hpp defines it, number by number.
template <class S, class T>
T reference_sum(const S& s, const Sum<T>& sum, std::ptrdiff_t o, std::ptrdiff_t f, std::ptrdiff_t n,
                T old) {
  T total = sum.accumulate ? old : sum.start;
  for (std::int32_t t = 0; t < sum.terms; ++t) {
    const Term<T>& term = sum.term[t];
    const auto at = [o, f, n](const Operand<T>& x, std::int32_t k) {
      if (x.base == nullptr) return T{1};
      return x.base[o * x.o_step + f * x.f_step + k * x.k_step + (x.row ? n : 0)];
    };
    for (std::int32_t k = 0; k < term.k; ++k) {
      total = s.multiply_add(at(term.a, k), at(term.b, k), total);
    }
  }
  return total;
}

template <class S>
void check_sum(const S& s, std::int32_t features, std::int32_t lanes, std::mt19937_64& random) {
  using T = Number<S>;
  constexpr std::int32_t most_k = 5;
  const auto outer = static_cast<std::int32_t>(1 + random() % 3);
  Rows<T> source(features + most_k + outer, lanes, random);
  source(0, 0) = T(-0.0);
  const auto operand = [&]() -> Operand<T> {
    const auto step = static_cast<std::ptrdiff_t>(random() % 2) * source.step;
    const auto next = static_cast<std::ptrdiff_t>(random() % 2) * source.step;
    switch (random() % 4) {
      case 0:
        return {nullptr, 0, 0, false};
      case 1:
        return {source.row(0), step, source.step, false, next};
      default:
        return {source.row(0), source.step - step, step, true, next};
    }
  };
  std::vector<Term<T>> terms;
  for (auto count = 1 + random() % 4; count > 0; --count) {
    const auto k = random() % 2 == 0 ? 1 : static_cast<std::int32_t>(random() % (most_k + 1));
    terms.push_back({operand(), operand(), k});
  }
  Rows<T> dst(outer * features, lanes, random, 16 * static_cast<std::ptrdiff_t>(random() % 2));
  if (random() % 2 == 0) {  // the layout without a gap
    dst.step = dst.lanes;
    dst.memory.resize(simd_testing::index(outer * features * lanes), T{1});
    std::fill(dst.memory.begin(), dst.memory.end(), T{1});
  }
  Rows<T> expected = dst;
  const Sum<T> sum{dst.row(0),
                   dst.step,
                   features,
                   lanes,
                   static_cast<int>(terms.size()),
                   terms.data(),
                   random() % 2 == 0,
                   outer,
                   random() % 2 == 0 ? T{0} : -T{0}};
  s.table.sum(sum);
  for (std::int32_t f = 0; f < outer * features; ++f) {
    for (std::int32_t n = 0; n < lanes; ++n) {
      expected(f, n) = reference_sum(s, sum, f / features, f % features, n, expected(f, n));
    }
  }
  CHECK(equal(dst, expected));
}

// Rows at random places in a few tables. Kernels read beyond them, to the end of a vector.
template <class S>
void check_cross(const S& s, std::int32_t lanes, std::mt19937_64& random) {
  using T = Number<S>;
  const auto below = [&random](int n) {
    return static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(n));
  };
  const std::int32_t outs = 1 + below(20), positions = 4, repeats = 1 + below(3);
  const std::int32_t k = below(positions + 1);
  Rows<T> a(positions + k + 3 * repeats, lanes, random, 16);
  Rows<T> b(positions + 2 * outs + k + 3 * repeats, lanes, random, 16);
  Rows<T> dst(repeats * outs, lanes, random);
  Rows<T> expected = dst;
  std::vector<PositionRows<T>> rows_a, rows_b;
  for (std::int32_t p = 0; p < positions; ++p) {
    rows_a.push_back({a.row(p), a.step, below(2) == 0 ? lanes + below(3) : below(lanes + 1)});
    rows_b.push_back({b.row(p), b.step, below(2) == 0 ? lanes + below(3) : below(lanes + 1)});
  }
  const std::int32_t a_step = below(2), b_step = below(2);
  const auto alive = [&](std::int32_t i) {
    return std::min(rows_a[simd_testing::index(i * a_step)].alive,
                    rows_b[simd_testing::index(i * b_step)].alive);
  };
  bool whole = true;
  for (std::int32_t i = 0; i < k; ++i) whole = whole && alive(i) >= lanes;
  const Cross<T> cross{dst.row(0),
                       dst.step,
                       {rows_a.data(), a_step, below(2), below(2), below(2), 0},
                       {rows_b.data(), b_step, below(2), below(2), below(2), 0},
                       below(3),
                       k,
                       outs,
                       lanes,
                       lanes,
                       whole,
                       below(2) == 0,
                       below(2) == 0 ? T(-0.0) : T{0},
                       repeats,
                       outs * dst.step};
  s.table.cross(cross);
  for (std::int32_t row = 0; row < repeats * outs; ++row) {
    const std::int32_t repeat = row / outs, i = row % outs;
    const auto factor = [&](const CrossFactor<T>& f, std::int32_t product) {
      const PositionRows<T>& at = f.at[product * f.at_step];
      return at.row + (f.row + repeat * f.next_row + product * f.row_step) * at.step;
    };
    for (std::int32_t n = 0; n < lanes; ++n) {
      T total = cross.accumulate ? expected(row, n) : cross.start;
      for (std::int32_t product = 0; product < k; ++product) {
        if (n >= alive(product)) continue;
        const T* const y = factor(cross.b, product) + i * cross.b_next * b.step;
        total = s.multiply_add(factor(cross.a, product)[n], y[n], total);
      }
      expected(row, n) = total;
    }
  }
  CHECK(equal(dst, expected));
}

template <class S>
void check_fan(const S& s, std::int32_t lanes, std::mt19937_64& random) {
  using T = Number<S>;
  const auto below = [&random](int n) {
    return static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(n));
  };
  const std::int32_t outs = 1 + below(20), count = below(6), blocks = 1 + below(3);
  Rows<T> a(5 + blocks, lanes, random, 16);
  Rows<T> b(outs + 9 + blocks, lanes, random, 16);
  Rows<T> dst(blocks * outs, lanes, random);
  Rows<T> expected = dst;
  std::vector<const T*> heads;
  const std::ptrdiff_t b_shift = below(2) * b.step;
  for (std::int32_t i = 0; i < outs; ++i) heads.push_back(b.row(below(outs)));
  const Fan<T> fan{dst.row(0),
                   dst.step,
                   a.row(0),
                   below(2) * a.step,
                   heads.data(),
                   below(3) * b.step,
                   b_shift,
                   count,
                   outs,
                   lanes,
                   below(2) == 0,
                   below(2) == 0 ? T(-0.0) : T{0},
                   {blocks, outs * dst.step, below(2) * a.step, below(2) * b.step}};
  s.table.fan(fan);
  for (std::int32_t row = 0; row < blocks * outs; ++row) {
    const std::int32_t block = row / outs;
    const T* const x = fan.a + block * fan.blocks.a;
    const T* const y = heads[simd_testing::index(row % outs)] + b_shift + block * fan.blocks.b;
    for (std::int32_t n = 0; n < lanes; ++n) {
      T total = fan.accumulate ? expected(row, n) : fan.start;
      for (std::int32_t k = 0; k < count; ++k) {
        total = s.multiply_add(x[k * fan.a_step + n], y[k * fan.b_step + n], total);
      }
      expected(row, n) = total;
    }
  }
  CHECK(equal(dst, expected));
}

}  // namespace

TEST_CASE(simd_gemm_adds_in_order_and_writes_no_other_lane) {
  std::mt19937_64 random(1);
  for_each_table([&](const auto& s) {
    for (std::int32_t m = 1; m <= 40; ++m) {
      for (auto lanes = 1 + static_cast<std::int32_t>(random() % 3); lanes <= 40; lanes += 3) {
        const auto k = static_cast<std::int32_t>(random() % 41);
        check_gemm(s, m, lanes, k, random() % 2 == 0, random() % 2 == 0, random);
      }
    }
    for (const std::int32_t k : {0, 1, 2, 16, 64}) {
      for (const std::int32_t lanes : {7, 64, 114, 130}) {
        for (const std::int32_t m : {1, 5, 16, 27, 64}) {
          check_gemm(s, m, lanes, k, true, false, random);
          check_gemm(s, m, lanes, k, false, true, random);
        }
      }
    }
  });
}

TEST_CASE(simd_sum_adds_in_order_and_writes_no_other_lane) {
  std::mt19937_64 random(2);
  for_each_table([&](const auto& s) {
    for (std::int32_t lanes = 1; lanes <= 150; lanes += lanes < 40 ? 1 : 11) {
      for (int i = 0; i < 40; ++i) {
        check_sum(s, 1 + static_cast<std::int32_t>(random() % 9), lanes, random);
      }
    }
  });
}

TEST_CASE(simd_sum_of_zeros_has_the_sign_of_its_start) {
  for_each_table([](const auto& s) {
    using T = Number<decltype(s)>;
    const T zero = T(-0.0);
    const Term<T> negated{{&zero, 0, 0, true}, {nullptr, 0, 0, false}, 1};
    const Term<T> twice[] = {negated, negated};
    for (const std::int32_t terms : {0, 1, 2}) {
      for (const T start : {T{0}, -T{0}}) {
        T dst = T{1};
        s.table.sum(Sum<T>{&dst, 1, 1, 1, terms, twice, false, 1, start});
        CHECK(dst == T{0} && std::signbit(dst) == std::signbit(start));
      }
    }
  });
}

TEST_CASE(simd_cross_skips_documents_that_ended) {
  std::mt19937_64 random(3);
  for_each_table([&](const auto& s) {
    for (std::int32_t lanes = 1; lanes <= 40; ++lanes) {
      for (int i = 0; i < 20; ++i) check_cross(s, lanes, random);
    }
  });
}

TEST_CASE(simd_fan_adds_in_order_and_writes_no_other_lane) {
  std::mt19937_64 random(5);
  for_each_table([&](const auto& s) {
    for (std::int32_t lanes = 1; lanes <= 40; ++lanes) {
      for (int i = 0; i < 20; ++i) check_fan(s, lanes, random);
    }
  });
}

TEST_CASE(simd_largest_is_python_max) {
  std::mt19937_64 random(4);
  for_each_table([&](const auto& s) {
    using T = Number<decltype(s)>;
    for (std::int32_t lanes = 1; lanes <= 40; ++lanes) {
      for (std::int32_t rows = 1; rows <= 9; ++rows) {
        Rows<T> src(rows, lanes, random);
        src(static_cast<std::ptrdiff_t>(random() % 3) % rows, lanes / 2) = Rows<T>::guard;
        Rows<T> dst(1, lanes, random);
        Rows<T> expected = dst;
        s.table.largest(dst.row(0), src.row(0), src.step, rows, lanes);
        for (std::int32_t n = 0; n < lanes; ++n) {
          expected(0, n) = src(0, n);
          for (std::int32_t f = 1; f < rows; ++f) {
            if (src(f, n) > expected(0, n)) expected(0, n) = src(f, n);
          }
        }
        CHECK(equal(dst, expected));
      }
    }
  });
}

TEST_CASE(simd_transpose_moves_every_number) {
  std::mt19937_64 random(5);
  for_each_table([&](const auto& s) {
    using T = Number<decltype(s)>;
    for (std::int32_t lanes = 1; lanes <= 40; ++lanes) {
      for (std::int32_t rows = 1; rows <= 40; ++rows) {
        Rows<T> src(rows, lanes, random);
        Rows<T> dst(lanes + 1, rows, random);
        std::fill(dst.row(lanes), dst.row(lanes) + dst.step, T{7});
        s.table.transpose(dst.row(0), dst.step, src.row(0), src.step, rows, lanes);
        for (std::int32_t n = 0; n < lanes; ++n) {
          for (std::int32_t f = 0; f < rows; ++f) CHECK(simd_testing::same(dst(n, f), src(f, n)));
        }
        CHECK(std::count(dst.row(lanes), dst.row(lanes) + dst.step, T{7}) == dst.step);
      }
    }
  });
}

TEST_CASE(simd_tables_go_by_name) {
  CHECK(nanochat::simd::tables_named("sse9") == nullptr);
  const auto* portable = nanochat::simd::tables_named("portable");
  CHECK(portable != nullptr && std::strcmp(portable->fast32.name, "portable") == 0);
}

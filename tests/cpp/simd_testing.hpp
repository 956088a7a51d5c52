// Shared by the tests of the vector kernels: random rows with guarded ends, a loop over the
// instruction sets that this processor supports, and the reference arithmetic.
#ifndef NANOCHAT_TESTS_SIMD_TESTING_HPP_
#define NANOCHAT_TESTS_SIMD_TESTING_HPP_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "scalar/simd/simd.hpp"
#include "testing.hpp"

namespace simd_testing {

using nanochat::simd::Table;
using nanochat::simd::Tables;

inline std::vector<const Tables*> available() {
  std::vector<const Tables*> found;
  for (const char* name : {"avx512", "avx2", "portable"}) {
    if (const Tables* each = nanochat::simd::tables_named(name)) found.push_back(each);
  }
  return found;
}

// One table of one instruction set, and its rounding.
template <class T>
struct Subject {
  const Table<T>& table;
  bool exact;
  bool fused;

  T multiply_add(T a, T b, T c) const { return fused ? std::fma(a, b, c) : a * b + c; }
};

// Calls body(subject) for every table of every instruction set.
template <class Body>
void for_each_table(Body body) {
  for (const Tables* each : available()) {
    const bool fma = std::strcmp(each->exact.name, "portable") != 0;
    body(Subject<double>{each->exact, true, false});
    body(Subject<double>{each->fast64, false, fma});
    body(Subject<float>{each->fast32, false, fma});
  }
}

template <class S>
using Number = std::remove_cvref_t<decltype(std::declval<S>().multiply_add(1, 1, 1))>;

template <class T>
bool same(T a, T b) {
  return testing::same_bits(a, b) || (std::isnan(a) && std::isnan(b));
}

inline std::size_t index(std::ptrdiff_t i) { return static_cast<std::size_t>(i); }

// Rows of `lanes` numbers, `step` apart. Guards lie between them: NaNs that no kernel may
// overwrite, and that would spoil every lane that reads them.
template <class T>
struct Rows {
  std::ptrdiff_t lanes, step;
  std::vector<T> memory;

  static constexpr T guard = std::numeric_limits<T>::quiet_NaN();

  Rows(std::int32_t rows, std::int32_t lanes_, std::mt19937_64& random, std::ptrdiff_t extra = 0)
      : lanes(lanes_), step((lanes_ + 15) / 16 * 16 + extra), memory(index(rows * step), guard) {
    std::normal_distribution<double> normal;
    for (std::int32_t f = 0; f < rows; ++f) {
      for (std::ptrdiff_t n = 0; n < lanes; ++n) (*this)(f, n) = static_cast<T>(normal(random));
    }
  }

  T& operator()(std::ptrdiff_t f, std::ptrdiff_t n) { return memory[index(f * step + n)]; }
  T* row(std::ptrdiff_t f) { return memory.data() + f * step; }

  bool guards_stand() const {
    for (std::size_t i = 0; i < memory.size(); ++i) {
      if (index(static_cast<std::ptrdiff_t>(i) % step) >= index(lanes) && !std::isnan(memory[i])) {
        return false;
      }
    }
    return true;
  }
};

template <class T>
bool equal(const Rows<T>& a, const Rows<T>& b) {
  for (std::size_t i = 0; i < a.memory.size(); ++i) {
    if (!same(a.memory[i], b.memory[i])) return false;
  }
  return true;
}

}  // namespace simd_testing

#endif  // NANOCHAT_TESTS_SIMD_TESTING_HPP_

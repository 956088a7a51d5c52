// A minimal test harness: named cases, and a check that stays on in Release builds.
#ifndef NANOCHAT_TESTS_TESTING_HPP_
#define NANOCHAT_TESTS_TESTING_HPP_

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace testing {

struct Case {
  const char* name;
  void (*body)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

struct Registration {
  Registration(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline void fail(const char* file, int line, const char* claim) {
  std::fprintf(stderr, "%s:%d: not true: %s\n", file, line, claim);
  std::exit(1);
}

// Claims checked so far, by all threads.
inline std::atomic<std::uint64_t> checks{0};

// Returns whether the bits are equal: 0.0 differs from -0.0, and NaN equals the same NaN.
inline bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

}  // namespace testing

#define TEST_CASE(name)                                             \
  static void name();                                               \
  static const testing::Registration register_##name(#name, &name); \
  static void name()

#define CHECK(claim)                                         \
  do {                                                       \
    testing::checks.fetch_add(1, std::memory_order_relaxed); \
    if (!(claim)) testing::fail(__FILE__, __LINE__, #claim); \
  } while (false)

#endif  // NANOCHAT_TESTS_TESTING_HPP_

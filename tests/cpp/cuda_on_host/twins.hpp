// Arrays and matrices that exist twice: on the device for a CUDA kernel, and in the program's
// memory for the CPU kernel that it is compared with.
#ifndef NANOCHAT_TESTS_TWINS_HPP_
#define NANOCHAT_TESTS_TWINS_HPP_

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "float_formats.hpp"
#include "host_gpu.hpp"
#include "kernels/nck.h"
#include "testing.hpp"

// The CUDA library's nck_last_error, renamed because the CPU library has one too.
extern "C" const char* nck_cuda_last_error(void);

namespace twins {

inline constexpr std::int32_t dtypes[] = {NCK_FLOAT32, NCK_BFLOAT16, NCK_FLOAT16};

inline std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// NCLAB_CUDA_CASES multiplies the numbers of random cases.
inline int scaled(int cases) {
  const char* const text = std::getenv("NCLAB_CUDA_CASES");
  return cases * (text == nullptr ? 1 : std::atoi(text));
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t bits() { return engine_(); }
  // An integer in [0, count).
  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(count));
  }
  bool one_in(std::int64_t count) { return below(count) == 0; }
  double between(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(engine_);
  }
  float number(double low, double high) { return static_cast<float>(between(low, high)); }

 private:
  std::mt19937_64 engine_;
};

template <class T>
class Array {
 public:
  Array(const char* name, std::int64_t count, T value)
      : device_(name, index(count) * sizeof(T)), host_(index(count), value) {
    for (std::int64_t i = 0; i < count; ++i) set(i, value);
    device_.mark_written();
  }
  void set(std::int64_t i, T value) { on_device()[i] = host_[index(i)] = value; }
  T* on_device() { return reinterpret_cast<T*>(device_.data()); }
  T* on_host() { return host_.data(); }
  std::int64_t size() const { return static_cast<std::int64_t>(host_.size()); }

 private:
  host_gpu::DeviceMemory device_;
  std::vector<T> host_;
};

inline std::int64_t element_bytes(std::int32_t dtype) { return dtype == NCK_FLOAT32 ? 4 : 2; }

inline float element(const std::byte* from, std::int32_t dtype) {
  if (dtype == NCK_FLOAT32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  using namespace kernel_testing;
  return static_cast<float>(widen(dtype == NCK_FLOAT16 ? float16 : bfloat16, bits));
}

inline void set_element(std::byte* to, std::int32_t dtype, float value) {
  if (dtype == NCK_FLOAT32) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  using namespace kernel_testing;
  const std::uint16_t bits = narrow(dtype == NCK_FLOAT16 ? float16 : bfloat16, value);
  std::memcpy(to, &bits, sizeof bits);
}

struct Layout {
  std::int32_t dtype;
  std::int64_t rows, vocab;
  std::int64_t extra;   // elements between rows
  std::int64_t offset;  // elements between an aligned address and the first row

  std::int64_t stride() const { return vocab + extra; }
  std::int64_t element(std::int64_t row, std::int64_t column) const {
    return (row * stride() + column) * element_bytes(dtype);
  }
  std::int64_t bytes() const { return rows == 0 ? 0 : element(rows - 1, vocab); }
};

// The elements between its rows must not be accessed.
class Matrix {
 public:
  Matrix(const char* name, const Layout& layout)
      : layout_(layout),
        before_(index(layout.offset * element_bytes(layout.dtype))),
        device_(name, index(layout.bytes()), before_),
        host_(before_ + index(layout.bytes()), filler) {
    std::memset(device_.data(), static_cast<int>(filler), device_.bytes());
    for (std::int64_t row = 0; row + 1 < layout.rows; ++row) {
      device_.exclude(index(layout.element(row, layout.vocab)),
                      index(layout.extra * element_bytes(layout.dtype)));
    }
  }

  // Fills it with value(row, column).
  template <class Value>
  void fill(const Value& value) {
    for (std::int64_t row = 0; row < layout_.rows; ++row) {
      for (std::int64_t column = 0; column < layout_.vocab; ++column) {
        const auto at = index(layout_.element(row, column));
        const float each = value(row, column);
        set_element(device_.data() + at, layout_.dtype, each);
        set_element(host_.data() + before_ + at, layout_.dtype, each);
      }
    }
    device_.mark_written();
  }

  const Layout& layout() const { return layout_; }
  void* on_device() { return device_.data(); }
  void* on_host() { return host_.data() + before_; }
  float of_device(std::int64_t row, std::int64_t column) const {
    return element(device_.data() + layout_.element(row, column), layout_.dtype);
  }
  float of_host(std::int64_t row, std::int64_t column) const {
    return element(host_.data() + before_ + layout_.element(row, column), layout_.dtype);
  }
  bool has_equal_bits() const {
    return std::memcmp(device_.data(), host_.data() + before_, device_.bytes()) == 0;
  }
  // Whether the bytes between the rows are as they were.
  bool is_intact_between_rows() const {
    for (std::int64_t row = 0; row + 1 < layout_.rows; ++row) {
      for (auto at = layout_.element(row, layout_.vocab); at < layout_.element(row + 1, 0); ++at) {
        if (device_.data()[at] != filler) return false;
      }
    }
    return true;
  }

 private:
  static constexpr std::byte filler{0x11};
  Layout layout_;
  std::size_t before_;
  host_gpu::DeviceMemory device_;
  std::vector<std::byte> host_;
};

// Both NaN, or equal, or close.
inline bool are_near(double a, double b, double relative, double absolute) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b || std::fabs(a - b) <= relative * std::fabs(b) + absolute;
}

// Prints the faults of the launches since the last call; returns whether there was none.
inline bool has_no_faults() {
  const std::vector<std::string> faults = host_gpu::take_faults();
  for (const std::string& fault : faults) std::fprintf(stderr, "  %s\n", fault.c_str());
  return faults.empty();
}

}  // namespace twins

// CHECK, which prints the faults and a description of the case before the claim that is not true.
#define CHECK_CASE(claim, description)                       \
  do {                                                       \
    const bool is_true = (claim);                            \
    if (!is_true) {                                          \
      static_cast<void>(twins::has_no_faults());             \
      std::fprintf(stderr, "  %s\n", (description).c_str()); \
    }                                                        \
    testing::checks.fetch_add(1, std::memory_order_relaxed); \
    if (!is_true) testing::fail(__FILE__, __LINE__, #claim); \
  } while (false)

#endif  // NANOCHAT_TESTS_TWINS_HPP_

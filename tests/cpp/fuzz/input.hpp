// What the fuzz targets share: numbers and buffers that are decoded from the bytes of an input.
//
// A target defines fuzz(Input&). libFuzzer calls it with bytes that it chooses (NCLAB_FUZZ);
// otherwise replay_main.cpp calls it with the files of a corpus. A broken claim ends the process.
#ifndef NANOCHAT_TESTS_FUZZ_INPUT_HPP_
#define NANOCHAT_TESTS_FUZZ_INPUT_HPP_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <vector>

#include "../float_formats.hpp"
#include "../testing.hpp"
#include "kernels/nck.h"

namespace fuzz {

inline constexpr double nan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int64_t smallest = std::numeric_limits<std::int64_t>::min();

// Memory of exactly `bytes` bytes at the end of an allocation, so AddressSanitizer sees the first
// byte that is read or written behind it.
class Buffer {
 public:
  explicit Buffer(std::int64_t bytes)
      : size(static_cast<std::size_t>(bytes)), memory_(new std::uint8_t[size]()) {}
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(memory_.get());
  }
  std::vector<std::uint8_t> copy() const { return {memory_.get(), memory_.get() + size}; }
  void restore(const std::vector<std::uint8_t>& from) {
    if (size > 0) std::memcpy(memory_.get(), from.data(), size);
  }

  std::size_t size;

 private:
  std::unique_ptr<std::uint8_t[]> memory_;
};

inline std::int64_t bytes_of(std::int32_t dtype) {
  return dtype == NCK_FLOAT64 ? 8 : dtype == NCK_FLOAT32 ? 4 : 2;
}
inline std::int32_t accum_of(std::int32_t dtype) {
  return dtype == NCK_FLOAT64 ? NCK_FLOAT64 : NCK_FLOAT32;
}

inline double number_at(Buffer& buffer, std::int64_t i, std::int32_t dtype) {
  if (dtype == NCK_FLOAT64) return buffer.as<double>()[i];
  if (dtype == NCK_FLOAT32) return static_cast<double>(buffer.as<float>()[i]);
  using namespace kernel_testing;
  return widen(dtype == NCK_FLOAT16 ? float16 : bfloat16, buffer.as<std::uint16_t>()[i]);
}
inline void set_number(Buffer& buffer, std::int64_t i, std::int32_t dtype, double value) {
  if (dtype == NCK_FLOAT64) {
    buffer.as<double>()[i] = value;
  } else if (dtype == NCK_FLOAT32) {
    buffer.as<float>()[i] = static_cast<float>(value);
  } else {
    using namespace kernel_testing;
    buffer.as<std::uint16_t>()[i] = narrow(dtype == NCK_FLOAT16 ? float16 : bfloat16, value);
  }
}

// Equal bits, apart from those of NaN, of which there are many.
inline bool same_numbers(Buffer& a, Buffer& b, std::int32_t dtype) {
  for (std::size_t i = 0; i < a.size / static_cast<std::size_t>(bytes_of(dtype)); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const double x = number_at(a, at, dtype), y = number_at(b, at, dtype);
    if (!testing::same_bits(x, y) && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return a.size == b.size;
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  std::uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  // An integer in [least, most] with most − least < 2^16.
  std::int64_t between(std::int64_t least, std::int64_t most) {
    const std::int64_t range = most - least + 1;
    std::int64_t drawn = byte();
    if (range > 256) drawn = drawn << 8 | byte();
    return least + drawn % range;
  }
  bool chance(std::int64_t one_in) { return between(1, one_in) == one_in; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<std::int64_t>(values.size()) - 1)];
  }
  template <class T>
  T raw() {
    T value{};
    std::uint8_t bytes[sizeof(T)];
    for (std::uint8_t& each : bytes) each = byte();
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }

  // Numbers of a buffer. The first byte chooses the style, the next one seeds the numbers.
  double number(std::uint8_t style) {
    constexpr double special[] = {0,     -0.0,  1,     -1,     infinity, -infinity, nan, 1e38,
                                  -1e38, 1e-38, 1e300, -1e300, 65504,    1e-300,    3,   30};
    if (style == 3) return raw<double>();
    if (style == 2) return special[next() % std::size(special)];
    if (style == 1 && next() % 8 == 0) return special[next() % std::size(special)];
    return static_cast<double>(next() % 8001) / 1000 - 4;
  }
  Buffer numbers(std::int64_t count, std::int32_t dtype) {
    Buffer result(count * bytes_of(dtype));
    const std::uint8_t style = byte() % 8;  // half of them tame
    state_ = byte();
    for (std::int64_t i = 0; i < count; ++i) set_number(result, i, dtype, number(style));
    return result;
  }
  Buffer between_all(std::int64_t count, std::int64_t least, std::int64_t most) {
    Buffer result(count * 8);
    state_ = byte();
    const auto range = static_cast<std::uint64_t>(most - least) + 1;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto drawn = size_ > 0 ? byte() : next();
      result.as<std::int64_t>()[i] = least + static_cast<std::int64_t>(drawn % range);
    }
    return result;
  }

  Buffer bytes(std::int64_t count) {
    Buffer result(count);
    state_ = byte();
    for (std::size_t i = 0; i < result.size; ++i) {
      result.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(next());
    }
    return result;
  }

  // Begins a call: one of its arguments may be replaced by a value that the call must refuse.
  void begin_call() {
    refused = false;
    argument_ = 0;
    const std::uint8_t drawn = byte();
    broken_ = drawn < 64 ? drawn % 24 : -1;
  }
  template <class T>
  T argument(T good, std::initializer_list<T> refused_values) {
    if (argument_++ != broken_) return good;
    refused = true;
    return one_of(refused_values);
  }
  // required: whether the call reads or writes there.
  template <class T>
  T* pointer(T* good, bool required = true) {
    return required ? argument<T*>(good, {nullptr}) : good;
  }
  std::int32_t threads() {
    const std::int32_t good =
        one_of({1, 2, 3, 4, 1 << 30, std::numeric_limits<std::int32_t>::max()});
    return argument(good, {0, -1, std::numeric_limits<std::int32_t>::min()});
  }
  std::int32_t dtype(std::int32_t good) { return argument(good, {4, -1, 1 << 30}); }

  bool refused = false;

 private:
  std::uint32_t next() {
    state_ = state_ * 1664525U + 1013904223U;
    return state_ >> 8U;
  }

  const std::uint8_t* data_;
  std::size_t size_;
  std::uint32_t state_ = 1;
  int argument_ = 0, broken_ = -1;
};

// Runs body(threads) with one thread and with several: the statuses and all bits of the results
// must be the same. A refused call must write nothing. Returns the status.
template <class Body>
std::int32_t check_call(Input& input, std::initializer_list<Buffer*> results, const Body& body) {
  const std::int32_t threads = input.threads();
  std::vector<std::vector<std::uint8_t>> before, after;
  for (const Buffer* each : results) before.push_back(each->copy());
  const std::int32_t status = body(input.refused ? threads : 1);
  for (const Buffer* each : results) after.push_back(each->copy());
  if (input.refused) {
    CHECK(status == NCK_ARGUMENT);
    CHECK(after == before);
    CHECK(std::strlen(nck_last_error()) > 10);
    return status;
  }
  std::size_t i = 0;
  for (Buffer* each : results) each->restore(before[i++]);
  CHECK(body(threads) == status);
  i = 0;
  for (const Buffer* each : results) CHECK(each->copy() == after[i++]);
  return status;
}

void fuzz(Input& input);

}  // namespace fuzz

#endif  // NANOCHAT_TESTS_FUZZ_INPUT_HPP_

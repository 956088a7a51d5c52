// Attention computes only with values that it wrote. Values left in the working space by earlier
// calls enter no sum: they could be subnormal and slow down each product tenfold.
#include <algorithm>
#include <cfenv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "kernel_testing.hpp"
#include "kernels/cpu/attention/attention.hpp"

namespace {

using namespace kernel_testing;
using nanochat::kernels::Attention;

// Fills the space with signaling NaNs: a move raises no flag, a computation raises FE_INVALID.
template <class N>
void leave_signals(void* space, std::size_t bytes) {
  using Bits = std::conditional_t<sizeof(N) == 8, std::uint64_t, std::uint32_t>;
  const Bits signal =
      sizeof(N) == 8 ? static_cast<Bits>(0x7ff4000000000000) : static_cast<Bits>(0x7fa00000);
  for (std::size_t at = 0; at < bytes; at += sizeof signal) {
    std::memcpy(static_cast<char*>(space) + at, &signal, sizeof signal);
  }
}

template <class N>
void check_working_space(const nanochat::kernels::AttentionTable& table, std::int32_t dtype,
                         std::int64_t width, std::int64_t head_dim, bool turned, bool packed) {
  const std::size_t count = index(width * head_dim);
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  std::vector<N> qkv(3 * count), gradient(count), result(3 * count), angles(count, N(0.5));
  for (N& x : qkv) x = static_cast<N>(normal(random));
  for (N& x : gradient) x = static_cast<N>(normal(random));
  std::vector<std::int64_t> positions(index(width)), starts(index(width));
  for (std::int64_t t = 0; t < width; ++t) {
    positions[index(t)] = t;
    starts[index(t)] = t / 19 * 19;
  }
  Attention call{{1, width, 1, head_dim, width, 1e-5, dtype, 1},
                 qkv.data(),
                 turned ? angles.data() : nullptr,
                 turned ? angles.data() : nullptr,
                 positions.data(),
                 packed ? starts.data() : nullptr,
                 gradient.data(),
                 result.data()};
  const std::int64_t room = std::max(width, head_dim) + 16;
  const std::size_t bytes = index(16 * room * room) * sizeof(N) / 64 * 64;
  const std::unique_ptr<void, decltype(&std::free)> space(std::aligned_alloc(64, bytes),
                                                          &std::free);
  for (const auto run : {table.forward[dtype], table.backward[dtype]}) {
    leave_signals<N>(space.get(), bytes);
    std::feclearexcept(FE_ALL_EXCEPT);
    run(call, 0, 0, space.get());
    CHECK(std::fetestexcept(FE_INVALID) == 0);
  }
}

TEST_CASE(attention_computes_with_no_value_left_in_its_working_space) {
  for_each_set([&](const char* name, const Tables& tables) {
    std::printf("  %s\n", name);
    for (const std::int64_t width : {1, 6, 17, 64}) {
      for (const std::int64_t head_dim : {2, 12, 24, 32, 36, 70, 110}) {
        for (const bool turned : {false, true}) {
          for (const bool packed : {false, true}) {
            check_working_space<float>(*tables.attention, NCK_FLOAT32, width, head_dim, turned,
                                       packed);
            check_working_space<double>(*tables.attention, NCK_FLOAT64, width, head_dim, turned,
                                        packed);
          }
        }
      }
    }
  });
}

}  // namespace

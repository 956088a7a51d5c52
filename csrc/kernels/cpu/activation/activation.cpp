// nck_activation and nck_activation_backward: check the arguments and share the elements among
// threads.
#include "kernels/cpu/activation/activation.hpp"

#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// The fewest elements for which a thread is worth its start.
constexpr std::int64_t chunk_elements = 16384;

void check_count(std::int64_t count) {
  if (count < 0) {
    throw Failure(NCK_ARGUMENT, "count must be at least 0, got %lld",
                  static_cast<long long>(count));
  }
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_activation(const void* x, std::int64_t count, std::int32_t dtype,
                                       std::int32_t squared, void* result, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_count(count);
    element_bytes(dtype);
    check_threads(threads);
    if (count == 0) return;
    check_pointer(x, "x");
    check_pointer(result, "result");
    const auto kernel = tables().activation->forward[dtype];
    parallel_for(count, chunk_elements, threads, [&](std::int64_t first, std::int64_t last) {
      kernel(x, squared != 0, result, first, last);
    });
  });
}

extern "C" std::int32_t nck_activation_backward(const void* x, std::int64_t count,
                                                std::int32_t dtype, std::int32_t squared,
                                                void* gradient, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_count(count);
    element_bytes(dtype);
    check_threads(threads);
    if (count == 0) return;
    check_pointer(x, "x");
    check_pointer(gradient, "gradient");
    const auto kernel = tables().activation->backward[dtype];
    parallel_for(count, chunk_elements, threads, [&](std::int64_t first, std::int64_t last) {
      kernel(x, squared != 0, gradient, first, last);
    });
  });
}

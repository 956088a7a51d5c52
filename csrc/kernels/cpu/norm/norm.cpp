// nck_rms_norm and nck_rms_norm_backward: check the arguments and share the rows among threads.
#include "kernels/cpu/norm/norm.hpp"

#include <algorithm>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// The fewest elements for which a thread is worth its start.
constexpr std::int64_t chunk_elements = 16384;

std::int64_t rows_per_chunk(std::int64_t hidden_size) noexcept {
  return std::max<std::int64_t>(chunk_elements / hidden_size, 1);
}

void check_eps(double eps) {
  if (!(eps > 0 && eps <= 1)) {
    throw Failure(NCK_ARGUMENT, "eps must be above 0 and at most 1, got %g", eps);
  }
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_rms_norm(const void* x, const void* branch, const std::uint8_t* mask,
                                     double scale, std::int64_t rows, std::int64_t hidden_size,
                                     std::int32_t dtype, double eps, void* sum, void* normed,
                                     void* inverse, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("x", x, rows, hidden_size, hidden_size, dtype);
    check_eps(eps);
    check_scale(scale);
    check_threads(threads);
    if (rows == 0) return;
    if (branch != nullptr) check_pointer(sum, "sum");
    check_pointer(normed, "normed");
    check_pointer(inverse, "inverse");
    const auto kernel = tables().norm->forward[dtype];
    const RmsNorm call{x, branch, mask, scale, hidden_size, eps, sum, normed, inverse};
    parallel_for(rows, rows_per_chunk(hidden_size), threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

extern "C" std::int32_t nck_rms_norm_backward(const void* gradient, const void* x,
                                              const void* inverse, const void* onto,
                                              std::int64_t rows, std::int64_t hidden_size,
                                              std::int32_t dtype, void* result, void* stored_result,
                                              const std::uint8_t* mask, double scale,
                                              std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("gradient", gradient, rows, hidden_size, hidden_size, dtype);
    check_scale(scale);
    check_threads(threads);
    if (rows == 0) return;
    check_pointer(x, "x");
    check_pointer(inverse, "inverse");
    check_pointer(onto, "onto");
    check_pointer(result, "result");
    const auto kernel = tables().norm->backward[dtype];
    const RmsNormBackward call{gradient,      x,    inverse, onto, hidden_size, result,
                               stored_result, mask, scale};
    parallel_for(rows, rows_per_chunk(hidden_size), threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

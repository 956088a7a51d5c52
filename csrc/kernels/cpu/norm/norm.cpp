// nck_rms_norm and its derivative: arguments checked, rows shared out.
#include "kernels/cpu/norm/norm.hpp"

#include <algorithm>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// Elements that make a chunk worth a thread's while.
constexpr std::int64_t chunk_elements = 16384;

std::int64_t rows_a_chunk(std::int64_t width) noexcept {
  return std::max<std::int64_t>(chunk_elements / width, 1);
}

void check_eps(double eps) {
  if (!(eps > 0 && eps <= 1)) {
    throw Failure(NCK_ARGUMENT, "eps must be above 0 and at most 1, got %g", eps);
  }
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_rms_norm(const void* x, const void* branch, std::int64_t rows,
                                     std::int64_t width, std::int32_t dtype, double eps, void* sum,
                                     void* normed, void* inverse, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("x", x, rows, width, width, dtype);
    check_eps(eps);
    check_threads(threads);
    if (rows == 0) return;
    if (branch != nullptr) check_pointer(sum, "sum");
    check_pointer(normed, "normed");
    check_pointer(inverse, "inverse");
    const auto kernel = tables().norm->forward[dtype];
    const RmsNorm call{x, branch, width, eps, sum, normed, inverse};
    parallel_for(rows, rows_a_chunk(width), threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

extern "C" std::int32_t nck_rms_norm_backward(const void* gradient, const void* x,
                                              const void* inverse, const void* onto,
                                              std::int64_t rows, std::int64_t width,
                                              std::int32_t dtype, void* result, void* narrow,
                                              std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("gradient", gradient, rows, width, width, dtype);
    check_threads(threads);
    if (rows == 0) return;
    check_pointer(x, "x");
    check_pointer(inverse, "inverse");
    check_pointer(onto, "onto");
    check_pointer(result, "result");
    const auto kernel = tables().norm->backward[dtype];
    const RmsNormBackward call{gradient, x, inverse, onto, width, result, narrow};
    parallel_for(rows, rows_a_chunk(width), threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

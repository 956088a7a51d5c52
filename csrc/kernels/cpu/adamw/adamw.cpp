// nck_adamw: checks the arguments, adds up the norm, decides whether the step counts and shares the
// elements among threads.
#include "kernels/cpu/adamw/adamw.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// The elements of a chunk. The chunks determine the order of the sum, so it is independent of the
// number of threads.
constexpr std::int64_t chunk_elements = 16384;
// Up to this size a second thread costs more than it saves.
constexpr std::int64_t one_thread_elements = 49152;

void check(const nck_adamw_options* options, std::int64_t size, std::int32_t dtype,
           const std::int64_t* stops, const double* rates, std::int64_t pieces,
           std::int64_t first_computed) {
  static_cast<void>(element_bytes(dtype));
  check_range("size", size, 0, std::int64_t{1} << 40U);
  check_range("first_computed", first_computed, 0, size);
  check_range("pieces", pieces, 0, 1024);
  check_pointer(options, "options");
  for (const double beta : {options->beta1, options->beta2}) {
    if (!(beta >= 0 && beta < 1))
      throw Failure(NCK_ARGUMENT, "betas must be in [0, 1), got %g", beta);
  }
  if (!(options->eps >= 0)) {
    throw Failure(NCK_ARGUMENT, "eps must be at least 0, got %g", options->eps);
  }
  if (!(options->grad_clip >= 0)) {
    throw Failure(NCK_ARGUMENT, "grad_clip must be at least 0, got %g", options->grad_clip);
  }
  if (pieces > 0) {
    check_pointer(stops, "stops");
    check_pointer(rates, "rates");
  }
  for (std::int64_t i = 0, start = 0; i < pieces; start = stops[i++]) {
    check_range("stops", stops[i], start, size);
  }
}

double value_of(const void* value, std::int32_t dtype) noexcept {
  return dtype == NCK_FLOAT64 ? *static_cast<const double*>(value)
                              : static_cast<double>(*static_cast<const float*>(value));
}

// Returns the norm, rounded to the accumulation dtype.
double norm_of(const void* gradients, std::int64_t size, std::int32_t dtype, int threads) {
  const auto squares = tables().adamw->squares[dtype];
  std::vector<double> sums(static_cast<std::size_t>((size + chunk_elements - 1) / chunk_elements));
  parallel_for(size, chunk_elements, threads, [&](std::int64_t first, std::int64_t last) {
    sums[static_cast<std::size_t>(first / chunk_elements)] = squares(gradients, first, last);
  });
  double total = 0;
  for (const double each : sums) total += each;
  const double norm = std::sqrt(total);
  return dtype == NCK_FLOAT64 ? norm : static_cast<double>(static_cast<float>(norm));
}

// Runs a step: updates the elements of all pieces, clips the gradients behind them.
void run(const AdamW& call, const nck_adamw_options& options, double correction_1,
         std::int64_t size, std::int32_t dtype, const std::int64_t* stops, const double* rates,
         std::int64_t pieces, int threads) {
  const auto update = tables().adamw->update[dtype];
  const auto clip = tables().adamw->clip[dtype];
  parallel_for(size, chunk_elements, threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = 0; i < pieces && first < last; ++i) {
      const std::int64_t stop = std::min(stops[i], last);
      if (stop <= first) continue;
      update(call, {1 - rates[i] * options.weight_decay, rates[i] / correction_1}, first, stop);
      first = stop;
    }
    if (first < last) clip(call, first, last);
  });
}

void zero(void* gradients, std::int64_t count, std::int32_t dtype) noexcept {
  const std::size_t bytes = dtype == NCK_FLOAT64 ? 8 : 4;
  if (count > 0) std::memset(gradients, 0, static_cast<std::size_t>(count) * bytes);
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_adamw(void* values, void* gradients, void* m, void* v,
                                  std::int64_t size, std::int32_t dtype,
                                  const nck_adamw_options* options, const std::int64_t* stops,
                                  const double* rates, std::int64_t pieces, const void* loss,
                                  float* count, float* stopped, void* computed,
                                  std::int64_t first_computed, void* norm, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check(options, size, dtype, stops, rates, pieces, first_computed);
    check_threads(threads);
    check_pointer(loss, "loss");
    check_pointer(count, "count");
    check_pointer(stopped, "stopped");
    check_pointer(norm, "norm");
    if (size > 0) {
      check_pointer(values, "values");
      check_pointer(gradients, "gradients");
      check_pointer(m, "m");
      check_pointer(v, "v");
    }
    const int team = size <= one_thread_elements ? 1 : threads;
    const double length = norm_of(gradients, size, dtype, team);
    if (dtype == NCK_FLOAT64) {
      *static_cast<double*>(norm) = length;
    } else {
      *static_cast<float*>(norm) = static_cast<float>(length);
    }
    if (!std::isfinite(value_of(loss, dtype) + length)) *stopped = 1;
    const std::int64_t updated = pieces > 0 ? stops[pieces - 1] : 0;
    if (*stopped != 0) return zero(gradients, updated, dtype);
    *count += 1;
    const double clip = options->grad_clip > 0 ? options->grad_clip / (length + 1e-6) : 1;
    const auto number = static_cast<double>(*count);
    const AdamW call{values,
                     gradients,
                     m,
                     v,
                     computed,
                     first_computed,
                     options->beta1,
                     options->beta2,
                     options->eps,
                     std::min(clip, 1.0),
                     std::sqrt(1 - std::pow(options->beta2, number))};
    run(call, *options, 1 - std::pow(options->beta1, number), size, dtype, stops, rates, pieces,
        team);
  });
}

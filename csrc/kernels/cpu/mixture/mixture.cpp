// nck_mixed_cross_entropy: checks the arguments, shares the rows among threads and adds up the
// losses. The computation of a row is in rows.cpp.
#include "kernels/cpu/mixture/mixture.hpp"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

void check_targets(const Mixture& call, std::int64_t rows) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t target = call.targets[i];
    if (target == call.ignore_index) continue;
    if (target < 0 || target >= call.outputs - 1) {
      refuse_target(i, target, call.outputs - 1, call.ignore_index);
    }
  }
}

void set_value(void* values, std::int64_t i, std::int32_t dtype, double value) noexcept {
  if (values == nullptr) return;
  if (dtype == NCK_FLOAT64) {
    static_cast<double*>(values)[i] = value;
  } else {
    static_cast<float*>(values)[i] = static_cast<float>(value);
  }
}

// Sums over the rows of a chunk. Adding them in the order of the chunks makes the result
// independent of the thread count.
struct Sums {
  double mixed = 0, network = 0;
};

struct Outputs {
  std::int32_t dtype, reduction;
  void *mixed, *network;

  void set_rows(std::int64_t first, std::int64_t last, const MixtureResult& result) const {
    if (reduction != NCK_NONE) return;
    for (std::int64_t i = first; i < last; ++i) {
      set_value(mixed, i, dtype, result.mixed[i - first]);
      set_value(network, i, dtype, result.network[i - first]);
    }
  }

  void set_totals(const std::vector<Sums>& sums) const {
    if (reduction == NCK_NONE) return;
    Sums total;
    for (const Sums& each : sums) {
      total.mixed += each.mixed;
      total.network += each.network;
    }
    set_value(mixed, 0, dtype, total.mixed);
    set_value(network, 0, dtype, total.network);
  }
};

void run(const Mixture& call, std::int64_t rows, std::int32_t dtype, const Outputs& outputs,
         int threads) {
  const auto kernel = tables().mixture->rows[dtype];
  const std::int64_t chunk = cross_entropy_rows_per_chunk(rows, call.outputs);
  std::vector<Sums> sums(static_cast<std::size_t>((rows + chunk - 1) / chunk));
  std::atomic<bool> has_memory{true};
  parallel_for(rows, chunk, threads, [&](std::int64_t first, std::int64_t last) {
    void* const space = scratch(cross_entropy_scratch(call.outputs, dtype));
    if (space == nullptr) {
      has_memory = false;
      return;
    }
    MixtureResult result;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel's
    kernel(call, first, last, space, result);
    outputs.set_rows(first, last, result);
    Sums& own = sums[static_cast<std::size_t>(first / chunk)];
    for (std::int64_t i = 0; i < last - first; ++i) {
      own.mixed += result.mixed[i];
      own.network += result.network[i];
    }
  });
  if (!has_memory) throw std::bad_alloc();
  outputs.set_totals(sums);
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_mixed_cross_entropy(const void* logits, std::int64_t rows,
                                                std::int64_t outputs, std::int64_t row_stride,
                                                std::int32_t dtype, const std::int64_t* targets,
                                                const float* by_counts, std::int64_t ignore_index,
                                                double network_weight, double softcap,
                                                double share_offset, std::int32_t reduction,
                                                void* gradient, std::int64_t gradient_stride,
                                                void* mixed, void* network, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("logits", logits, rows, outputs, row_stride, dtype);
    check_range("outputs", outputs, 2, most_vocab);
    if (!std::isfinite(network_weight)) {
      throw Failure(NCK_ARGUMENT, "network_weight must be finite, got %g", network_weight);
    }
    if (!std::isfinite(share_offset)) {
      throw Failure(NCK_ARGUMENT, "share_offset must be finite, got %g", share_offset);
    }
    check_softcap(softcap);
    if (reduction != NCK_NONE && reduction != NCK_SUM) {
      throw Failure(NCK_ARGUMENT, "reduction must be NCK_NONE or NCK_SUM, got %d", reduction);
    }
    check_threads(threads);
    if (rows > 0) {
      check_pointer(targets, "targets");
      check_pointer(by_counts, "by_counts");
    }
    if (gradient != nullptr) {
      check_matrix("gradient", gradient, rows, outputs, gradient_stride, dtype);
      check_apart("logits", logits, row_stride, "gradient", gradient, gradient_stride, rows,
                  outputs, dtype);
    }
    const Mixture call{logits,       outputs,      row_stride,     targets,
                       by_counts,    ignore_index, network_weight, softcap,
                       share_offset, gradient,     gradient_stride};
    check_targets(call, rows);
    run(call, rows, dtype, {dtype, reduction, mixed, network}, threads);
  });
}

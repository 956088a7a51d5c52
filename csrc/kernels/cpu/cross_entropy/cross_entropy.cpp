// nck_cross_entropy and nck_target_weight: check the arguments, share the rows among threads and
// reduce the losses. The computation of a row is in rows.cpp.
#include "kernels/cpu/cross_entropy/cross_entropy.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// The size from which a gradient is written past the caches: it would not stay there until it is
// read.
constexpr std::int64_t streaming_bytes = std::int64_t{16} << 20U;
// The fewest elements of a chunk for which a thread is worth its start.
constexpr std::int64_t chunk_elements = 8192;
// A row is prefetched while the previous row of its chunk is computed. Chunks of long rows
// therefore have several rows too, unless that leaves fewer chunks than fewest_chunks.
constexpr std::int64_t rows_to_fetch = 16, fewest_chunks = 16;

double value_at(const void* values, std::int64_t i, std::int32_t dtype) noexcept {
  if (values == nullptr) return 1;
  return dtype == NCK_FLOAT64 ? static_cast<const double*>(values)[i]
                              : static_cast<double>(static_cast<const float*>(values)[i]);
}

void set_value(void* values, std::int64_t i, std::int32_t dtype, double value) noexcept {
  if (dtype == NCK_FLOAT64) {
    static_cast<double*>(values)[i] = value;
  } else {
    static_cast<float*>(values)[i] = static_cast<float>(value);
  }
}

struct Targets {
  double weight;
  std::int64_t counted;
};

Targets check_targets(const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                      std::int32_t dtype, const void* class_weights, const void* token_weights,
                      std::int64_t ignore_index) {
  Targets all{0, 0};
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t target = targets[i];
    if (target == ignore_index) continue;
    if (target < 0 || target >= vocab) refuse_target(i, target, vocab, ignore_index);
    ++all.counted;
    if (class_weights != nullptr || token_weights != nullptr) {
      all.weight += value_at(class_weights, target, dtype) * value_at(token_weights, i, dtype);
    }
  }
  if (class_weights == nullptr && token_weights == nullptr) {
    all.weight = static_cast<double>(all.counted);
  }
  return all;
}

// Sums over the rows of a chunk. Adding them in the order of the chunks makes the result
// independent of the thread count.
struct Sums {
  double loss = 0, correct = 0;
};

struct Outputs {
  std::int32_t dtype, reduction;
  void *losses, *log_sums, *correct;

  void set_rows(std::int64_t first, std::int64_t last, const CrossEntropyResult& result) const {
    for (std::int64_t i = first; i < last; ++i) {
      if (log_sums != nullptr) set_value(log_sums, i, dtype, result.log_sums[i - first]);
      if (reduction != NCK_NONE) continue;
      if (losses != nullptr) set_value(losses, i, dtype, result.losses[i - first]);
      if (correct != nullptr) set_value(correct, i, dtype, result.correct[i - first] ? 1 : 0);
    }
  }

  void set_totals(const std::vector<Sums>& sums, const Targets& targets) const {
    if (reduction == NCK_NONE) return;
    Sums total;
    for (const Sums& each : sums) {
      total.loss += each.loss;
      total.correct += each.correct;
    }
    const bool mean = reduction == NCK_MEAN;
    const auto counted = static_cast<double>(targets.counted);
    if (losses != nullptr) {
      set_value(losses, 0, dtype, mean ? total.loss / targets.weight : total.loss);
    }
    if (correct != nullptr) {
      set_value(correct, 0, dtype, mean ? total.correct / counted : total.correct);
    }
  }
};

void run(const CrossEntropy& call, std::int64_t rows, std::int32_t dtype, const Outputs& outputs,
         const Targets& targets, int threads) {
  const auto kernel = tables().cross_entropy->rows[dtype];
  const std::int64_t chunk = cross_entropy_rows_per_chunk(rows, call.vocab);
  std::vector<Sums> sums(static_cast<std::size_t>((rows + chunk - 1) / chunk));
  std::atomic<bool> has_memory{true};
  parallel_for(rows, chunk, threads, [&](std::int64_t first, std::int64_t last) {
    void* const space = scratch(cross_entropy_scratch(call.vocab, dtype));
    if (space == nullptr) {
      has_memory = false;
      return;
    }
    CrossEntropyResult result;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel's
    kernel(call, first, last, space, result);
    outputs.set_rows(first, last, result);
    Sums& own = sums[static_cast<std::size_t>(first / chunk)];
    for (std::int64_t i = 0; i < last - first; ++i) {
      own.loss += result.losses[i];
      own.correct += result.correct[i] ? 1 : 0;
    }
  });
  if (!has_memory) throw std::bad_alloc();
  outputs.set_totals(sums, targets);
}

}  // namespace

std::int64_t cross_entropy_rows_per_chunk(std::int64_t rows, std::int64_t vocab) noexcept {
  const std::int64_t fetching = std::min(rows_to_fetch, rows / fewest_chunks);
  return std::clamp<std::int64_t>(std::max(chunk_elements / vocab, fetching), 1,
                                  cross_entropy_rows);
}

// Two working rows of the accumulation dtype, each padded by at least one vector, or the short
// rows.
std::size_t cross_entropy_scratch(std::int64_t vocab, std::int32_t dtype) noexcept {
  const std::size_t accum_bytes = dtype == NCK_FLOAT64 ? 8 : 4;
  return std::max(2 * (static_cast<std::size_t>(vocab) + 128) * accum_bytes,
                  static_cast<std::size_t>(short_rows_bytes));
}

}  // namespace nanochat::kernels

extern "C" {

std::int32_t nck_cross_entropy(const void* logits, std::int64_t rows, std::int64_t vocab,
                               std::int64_t row_stride, std::int32_t dtype,
                               const std::int64_t* targets, const void* class_weights,
                               const void* token_weights, const nck_loss* loss,
                               const void* upstream, std::int64_t upstream_stride, void* gradient,
                               std::int64_t gradient_stride, void* losses, void* log_sums,
                               void* correct, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("logits", logits, rows, vocab, row_stride, dtype);
    check_loss(loss);
    check_upstream_stride(upstream_stride);
    check_threads(threads);
    if (rows > 0) check_pointer(targets, "targets");
    if (gradient != nullptr) {
      check_matrix("gradient", gradient, rows, vocab, gradient_stride, dtype);
      check_apart("logits", logits, row_stride, "gradient", gradient, gradient_stride, rows, vocab,
                  dtype);
    }
    const Targets all = check_targets(targets, rows, vocab, dtype, class_weights, token_weights,
                                      loss->ignore_index);
    double class_weight_sum = static_cast<double>(vocab);
    if (class_weights != nullptr && loss->label_smoothing > 0) {
      class_weight_sum = 0;
      for (std::int64_t j = 0; j < vocab; ++j)
        class_weight_sum += value_at(class_weights, j, dtype);
    }
    const bool in_place = gradient == logits;
    const CrossEntropy call{
        .logits = logits,
        .vocab = vocab,
        .row_stride = row_stride,
        .targets = targets,
        .class_weights = class_weights,
        .token_weights = token_weights,
        .class_weight_sum = class_weight_sum,
        .ignore_index = loss->ignore_index,
        .label_smoothing = loss->label_smoothing,
        .z_loss = loss->z_loss,
        .softcap = loss->softcap,
        .upstream = upstream,
        .upstream_stride = upstream_stride,
        .scale = loss->reduction == NCK_MEAN ? 1 / all.weight : 1,
        .gradient = gradient,
        .gradient_stride = gradient_stride,
        .correct = correct != nullptr,
        .streaming = !in_place && rows * vocab * element_bytes(dtype) >= streaming_bytes,
    };
    run(call, rows, dtype, {dtype, loss->reduction, losses, log_sums, correct}, all, threads);
  });
}

std::int32_t nck_target_weight(const std::int64_t* targets, std::int64_t rows, std::int64_t vocab,
                               std::int32_t dtype, const void* class_weights,
                               const void* token_weights, std::int64_t ignore_index, double* weight,
                               std::int64_t* counted) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("targets", targets, rows, vocab, vocab, dtype);
    check_pointer(weight, "weight");
    const Targets all =
        check_targets(targets, rows, vocab, dtype, class_weights, token_weights, ignore_index);
    *weight = all.weight;
    if (counted != nullptr) *counted = all.counted;
  });
}

}  // extern "C"

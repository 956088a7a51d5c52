// The sums over all rows that the cross-entropy needs before and after its rows: in a fixed order,
// in float64, and queued on the stream, so nothing waits for the CPU.
#ifndef NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_TOTALS_HPP_
#define NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_TOTALS_HPP_

#include <cuda_runtime.h>

#include <cstdint>

namespace nanochat::kernels {

struct Targets {
  const std::int64_t* ids;  // one per row: a token or ignore_index
  std::int64_t rows, vocab, ignore_index;
  const float* class_weights;  // or null for ones
  const float* token_weights;  // or null for ones
};

// The start of the workspace.
struct Totals {
  double weight;     // Σ w · c[t] over the rows that are not ignored
  double counted;    // the number of those rows
  float mean_scale;  // 1 / weight
  float class_sum;   // Σ c
};

void queue_totals(const Targets& targets, Totals* totals, cudaStream_t stream);
// *weight = Totals::weight, as a float.
void queue_weight(const Targets& targets, float* weight, cudaStream_t stream);
// *sum = Σ values / divisor, or Σ values where divisor, on the device, is null.
void queue_sum(const float* values, std::int64_t count, const double* divisor, float* sum,
               cudaStream_t stream);

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_TOTALS_HPP_

// Sums over all rows, and nck_cuda_target_weight.
#include "kernels/cuda/checks.hpp"
#include "kernels/cuda/cross_entropy/totals.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/row_arithmetic.hpp"

namespace nanochat::kernels {
namespace {

constexpr int threads = 1024;
constexpr Grid one_block{1, threads};

// Returns Σ value(i) over i < count in every thread: each sums a stride, then halves are added.
template <class Value>
__device__ double block_sum(std::int64_t count, const Value& value) {
  __shared__ double partial[threads];
  double own = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += threads) own += value(i);
  partial[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = partial[0];
  __syncthreads();
  return sum;
}

__device__ double row_weight(const Targets& t, std::int64_t i) {
  const std::int64_t target = t.ids[i];
  if (row_kind(target, t.vocab, t.ignore_index) != RowKind::token) return 0;
  const double of_class = t.class_weights == nullptr ? 1 : t.class_weights[target];
  return of_class * (t.token_weights == nullptr ? 1 : t.token_weights[i]);
}

__device__ double weight_of(const Targets& t) {
  return block_sum(t.rows, [&](std::int64_t i) { return row_weight(t, i); });
}

__global__ void __launch_bounds__(threads) totals_kernel(Targets t, Totals* totals) {
  const double weight = weight_of(t);
  const double counted = block_sum(t.rows, [&](std::int64_t i) {
    return row_kind(t.ids[i], t.vocab, t.ignore_index) == RowKind::token ? 1.0 : 0.0;
  });
  const double classes =
      t.class_weights == nullptr
          ? static_cast<double>(t.vocab)
          : block_sum(t.vocab, [&](std::int64_t j) { return double{t.class_weights[j]}; });
  if (threadIdx.x == 0) {
    *totals = {weight, counted, static_cast<float>(1 / weight), static_cast<float>(classes)};
  }
}

__global__ void __launch_bounds__(threads) weight_kernel(Targets t, float* weight) {
  const double sum = weight_of(t);
  if (threadIdx.x == 0) *weight = static_cast<float>(sum);
}

__global__ void __launch_bounds__(threads)
    sum_kernel(const float* values, std::int64_t count, const double* divisor, float* sum) {
  const double all = block_sum(count, [&](std::int64_t i) { return double{values[i]}; });
  if (threadIdx.x == 0) *sum = static_cast<float>(divisor == nullptr ? all : all / *divisor);
}

}  // namespace

void queue_totals(const Targets& targets, Totals* totals, cudaStream_t stream) {
  launch("kernel of the rows' weights", totals_kernel, one_block, stream, targets, totals);
}

void queue_weight(const Targets& targets, float* weight, cudaStream_t stream) {
  launch("kernel of the rows' weights", weight_kernel, one_block, stream, targets, weight);
}

void queue_sum(const float* values, std::int64_t count, const double* divisor, float* sum,
               cudaStream_t stream) {
  launch("kernel of the sum over rows", sum_kernel, one_block, stream, values, count, divisor, sum);
}

}  // namespace nanochat::kernels

extern "C" std::int32_t nck_cuda_target_weight(const std::int64_t* targets, std::int64_t rows,
                                               std::int64_t vocab, std::int32_t dtype,
                                               const void* class_weights, const void* token_weights,
                                               std::int64_t ignore_index, void* weight,
                                               void* stream) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_cuda_sizes(rows, vocab, dtype);
    check_pointer(weight, "weight");
    if (rows > 0) check_pointer(targets, "targets");
    queue_weight({targets, rows, vocab, ignore_index, static_cast<const float*>(class_weights),
                  static_cast<const float*>(token_weights)},
                 static_cast<float*>(weight), static_cast<cudaStream_t>(stream));
  });
}

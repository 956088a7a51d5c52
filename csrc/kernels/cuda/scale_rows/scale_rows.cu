// nck_cuda_scale_rows: as many threads per row as it can use.
#include "kernels/cuda/checks.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/slots.cuh"

namespace nanochat::kernels {
namespace {

constexpr int threads = 256;

struct ScaleRows {
  const void* matrix;
  std::int64_t rows, row_stride;
  std::int32_t vocab;
  const float* upstream;
  std::int64_t upstream_stride;
  void* result;
  std::int64_t result_stride;
};

template <class S>
__device__ uint4 scaled(const uint4& raw, float factor) {
  float x[slot_elements<S>];
  unpack<S>(raw, x);
#pragma unroll
  for (float& each : x) each *= factor;
  return packed<S>(x);
}

template <class S>
__global__ void __launch_bounds__(threads)
    scale_rows(const __grid_constant__ ScaleRows call, int threads_per_row) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  const std::int64_t row = thread / threads_per_row;
  if (row >= call.rows) return;
  using Bits = typename S::Bits;
  const auto* const from = static_cast<const Bits*>(call.matrix) + row * call.row_stride;
  auto* const to = static_cast<Bits*>(call.result) + row * call.result_stride;
  const float factor = call.upstream[row * call.upstream_stride];
  if (factor == 1.0f && from == to) return;
  const Slots<S> source(from, call.vocab), result(to, call.vocab, source.phase());
#pragma unroll 4
  for (auto slot = static_cast<std::int32_t>(thread % threads_per_row); slot < source.count();
       slot += threads_per_row) {
    result.store(slot, scaled<S>(source.load(slot), factor));
  }
}

template <class S>
void queue(const ScaleRows& call, cudaStream_t stream) {
  int threads_per_row = 4;
  while (threads_per_row < threads && threads_per_row * 2 * slot_elements<S> < call.vocab) {
    threads_per_row *= 2;
  }
  const std::int64_t rows_per_block = threads / threads_per_row;
  const Grid grid{(call.rows + rows_per_block - 1) / rows_per_block, threads};
  launch("kernel that scales rows", scale_rows<S>, grid, stream, call, threads_per_row);
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_cuda_scale_rows(const void* matrix, std::int64_t rows,
                                            std::int64_t vocab, std::int64_t row_stride,
                                            std::int32_t dtype, const void* upstream,
                                            std::int64_t upstream_stride, void* result,
                                            std::int64_t result_stride, void* stream) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_cuda_matrix("matrix", matrix, rows, vocab, row_stride, dtype);
    check_cuda_matrix("result", result, rows, vocab, result_stride, dtype);
    check_apart("matrix", matrix, row_stride, "result", result, result_stride, rows, vocab, dtype);
    check_upstream_stride(upstream_stride);
    if (rows == 0) return;
    check_pointer(upstream, "upstream");
    const ScaleRows call{matrix,
                         rows,
                         row_stride,
                         static_cast<std::int32_t>(vocab),
                         static_cast<const float*>(upstream),
                         upstream_stride,
                         result,
                         result_stride};
    with_storage(dtype, [&](auto storage) {
      queue<decltype(storage)>(call, static_cast<cudaStream_t>(stream));
    });
  });
}

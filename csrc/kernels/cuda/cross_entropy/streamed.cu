// Cross-entropy of rows that do not fit on the chip, and losses without a gradient: one block per
// row. The logits are read from memory for the sum and, with a gradient, a second time for it.
#include "kernels/cuda/cross_entropy/row.cuh"
#include "kernels/cuda/launch.hpp"

namespace nanochat::kernels {
namespace {

constexpr int threads = 512;
constexpr int loads_in_flight = 4;  // per thread

// Calls body(raw, slot) for each of the thread's slots.
template <class S, class Body>
__device__ void for_slots(const Slots<S>& slots, const Body& body) {
  const std::int32_t count = slots.count();
  for (auto begin = static_cast<std::int32_t>(threadIdx.x); begin < count;
       begin += loads_in_flight * threads) {
    uint4 raw[loads_in_flight];
#pragma unroll
    for (int i = 0; i < loads_in_flight; ++i) {
      if (begin + i * threads < count) raw[i] = slots.load(begin + i * threads);
    }
#pragma unroll
    for (int i = 0; i < loads_in_flight; ++i) {
      if (begin + i * threads < count) body(raw[i], begin + i * threads);
    }
  }
}

template <class S, bool is_plain>
__global__ void __launch_bounds__(threads, 2)
    streamed_rows(const __grid_constant__ CrossEntropyCall call) {
  __shared__ RowSums warp_sums[threads / warp_lanes];
  const LossRow<S, is_plain> row(call, blockIdx.x);
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (!row.has_token()) {
    fill_gradient(row, row.finish_empty(thread == 0), thread, threads);
    return;
  }
  RowSums sums{empty_sum(), 0.0f};
  for_slots(row.slots(), [&](const uint4& raw, std::int32_t slot) { row.add(sums, raw, slot); });
  sums = sum_over_block<S, is_plain>(sums, warp_sums);
  const RowSlopes slopes = row.finish(sums, thread == 0);
  if (!row.has_gradient()) return;
  const Slots<S> gradient = row.gradient();
  for_slots(row.slots(), [&](const uint4& raw, std::int32_t slot) {
    gradient.store(slot, row.differentiate(raw, slot, slopes));
  });
}

}  // namespace

void queue_streamed_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  with_variant(call, [&](auto storage, auto is_plain) {
    launch("cross-entropy kernel of streamed rows", streamed_rows<decltype(storage), is_plain()>,
           Grid{call.targets.rows, threads}, stream, call);
  });
}

}  // namespace nanochat::kernels

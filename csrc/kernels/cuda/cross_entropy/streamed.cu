// Rows that nothing on the chip holds, and losses without a gradient: a block a row, the logits
// read from memory for the sum and, where there is a gradient, once more for it.
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/row.cuh"

namespace nanochat::kernels {
namespace {

constexpr int threads = 512;
constexpr int at_once = 4;  // loads of a thread on their way together

// Calls body(raw, slot) for each of the thread's slots.
template <class S, class Body>
__device__ void for_slots(const Slots<S>& slots, const Body& body) {
  const std::int32_t count = slots.count();
  for (auto begin = static_cast<std::int32_t>(threadIdx.x); begin < count;
       begin += at_once * threads) {
    uint4 raw[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (begin + i * threads < count) raw[i] = slots.load(begin + i * threads);
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      if (begin + i * threads < count) body(raw[i], begin + i * threads);
    }
  }
}

template <class S, bool is_plain>
__global__ void __launch_bounds__(threads, 2)
    streamed_rows(const __grid_constant__ CrossEntropyCall call) {
  __shared__ RowSums shared[threads / warp_lanes];
  const Row<S, is_plain> row(call, blockIdx.x);
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (!row.has_token()) {
    fill_row(row, row.finish_empty(thread == 0), thread, threads);
    return;
  }
  RowSums sums{empty_sum(), 0.0f};
  for_slots(row.slots(), [&](const uint4& raw, std::int32_t slot) { row.add(sums, raw, slot); });
  sums = over_block<S, is_plain>(sums, shared);
  const RowSlopes slopes = row.finish(sums, thread == 0);
  if (!row.has_gradient()) return;
  const Slots<S> gradient = row.gradient();
  for_slots(row.slots(), [&](const uint4& raw, std::int32_t slot) {
    gradient.store(slot, row.differentiate(raw, slot, slopes));
  });
}

}  // namespace

void queue_streamed_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(call.of.rows);
  with_storage<Float32, BFloat16, Float16>(call.dtype, [&](auto storage) {
    using S = decltype(storage);
    if (is_plain(call.terms)) {
      streamed_rows<S, true><<<rows, threads, 0, stream>>>(call);
    } else {
      streamed_rows<S, false><<<rows, threads, 0, stream>>>(call);
    }
  });
  check_launch("cross-entropy kernel of streamed rows");
}

}  // namespace nanochat::kernels

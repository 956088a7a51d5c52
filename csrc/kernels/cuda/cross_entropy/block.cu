// Cross-entropy of rows that fit in one block's shared memory: one block per row.
#include "kernels/cuda/cross_entropy/held_launch.hpp"
#include "kernels/cuda/cross_entropy/held_share.cuh"

namespace nanochat::kernels {
namespace {

template <class S, bool is_plain>
__global__ void __launch_bounds__(most_threads, 2)
    block_rows(const __grid_constant__ CrossEntropyCall call) {
  __shared__ RowSums warp_sums[most_warps];
  const LossRow<S, is_plain> row(call, blockIdx.x);
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (!row.has_token()) {
    fill_gradient(row, row.finish_empty(thread == 0), thread,
                  static_cast<std::int32_t>(blockDim.x));
    return;
  }
  const HeldShare<S, is_plain> share(row, 0, row.slots().count(), dynamic_shared_memory());
  const RowSums sums = sum_over_block<S, is_plain>(share.sums(), warp_sums);
  const RowSlopes slopes = row.finish(sums, thread == 0);
  if (row.has_gradient()) share.differentiate(slopes);
}

}  // namespace

bool fits_in_block(const CrossEntropyCall& call) {
  return most_slots(call.targets.vocab, call.dtype) * slot_bytes <= most_shared();
}

void queue_block_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  const std::int64_t slots = most_slots(call.targets.vocab, call.dtype);
  const Grid grid{call.targets.rows, threads_for(slots),
                  static_cast<std::size_t>(slots * slot_bytes)};
  with_variant(call, [&](auto storage, auto is_plain) {
    const auto kernel = block_rows<decltype(storage), is_plain()>;
    allow_shared_memory(kernel);
    launch("cross-entropy kernel of one block per row", kernel, grid, stream, call);
  });
}

}  // namespace nanochat::kernels

// Middle vocabularies: a block a row, the row in shared memory.
#include "kernels/cuda/cross_entropy_held.cuh"

namespace nanochat::kernels {
namespace {

template <class S, bool is_plain>
__global__ void __launch_bounds__(most_threads, 2)
    block_rows(const __grid_constant__ CrossEntropyCall call) {
  extern __shared__ uint4 held[];
  __shared__ RowSums shared[most_warps];
  const Row<S, is_plain> row(call, blockIdx.x);
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (!row.has_token()) {
    fill_row(row, row.finish_empty(thread == 0), thread, static_cast<std::int32_t>(blockDim.x));
    return;
  }
  const HeldShare<S, is_plain> share(row, 0, row.slots().count(), held);
  const RowSums sums = over_block<S, is_plain>(share.sums(), shared);
  const RowSlopes slopes = row.finish(sums, thread == 0);
  if (row.has_gradient()) share.differentiate(slopes);
}

template <class S, bool is_plain>
void launch(const CrossEntropyCall& call, cudaStream_t stream) {
  const std::int64_t slots = most_slots(call.of.vocab, call.dtype);
  const auto bytes = static_cast<std::size_t>(slots * slot_bytes);
  check_cuda(
      cudaFuncSetAttribute(block_rows<S, is_plain>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(bytes)),
      "shared memory of the cross-entropy kernel");
  block_rows<S, is_plain>
      <<<static_cast<unsigned>(call.of.rows), threads_for(slots), bytes, stream>>>(call);
}

}  // namespace

bool fits_in_block(const CrossEntropyCall& call) {
  return most_slots(call.of.vocab, call.dtype) * slot_bytes <= most_shared();
}

void queue_block_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  with_storage<Float32, BFloat16, Float16>(call.dtype, [&](auto storage) {
    using S = decltype(storage);
    if (is_plain(call.terms)) {
      launch<S, true>(call, stream);
    } else {
      launch<S, false>(call, stream);
    }
  });
  check_launch("cross-entropy kernel of a block a row");
}

}  // namespace nanochat::kernels

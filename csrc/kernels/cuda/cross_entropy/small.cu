// Cross-entropy of small vocabularies: a few lanes of a warp per row, which hold its logits in
// registers.
#include <algorithm>

#include "kernels/cuda/cross_entropy/row.cuh"
#include "kernels/cuda/launch.hpp"

namespace nanochat::kernels {
namespace {

constexpr int threads = 128;

// held: slots per lane. Lanes after the last row take part in the exchanges of its warp with empty
// sums; they read no other row, which another warp may be overwriting by its gradient.
template <class S, bool is_plain, int held>
__global__ void __launch_bounds__(threads)
    small_rows(const __grid_constant__ CrossEntropyCall call, int lanes) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  const int lane = static_cast<int>(thread % lanes);
  const std::int64_t rows = call.targets.rows;
  if (thread - threadIdx.x % warp_lanes >= rows * lanes) return;  // the whole warp is after it
  const bool exists = thread / lanes < rows;
  const LossRow<S, is_plain> row(call, exists ? thread / lanes : rows - 1);
  const bool has_token = exists && row.has_token();
  uint4 raw[held];
  RowSums sums{empty_sum(), 0.0f};
  if (has_token) {
#pragma unroll
    for (int i = 0; i < held; ++i) {
      const std::int32_t slot = lane + i * lanes;
      if (slot < row.slots().count()) raw[i] = row.slots().load(slot);
    }
#pragma unroll
    for (int i = 0; i < held; ++i) {
      const std::int32_t slot = lane + i * lanes;
      if (slot < row.slots().count()) row.add(sums, raw[i], slot);
    }
  }
  sums = sum_over_lanes<S, is_plain>(sums, lanes);
  // All lanes have read the target's logit before a gradient in place overwrites it.
  __syncwarp();
  if (!exists) return;
  if (!has_token) {
    fill_gradient(row, row.finish_empty(lane == 0), lane, lanes);
    return;
  }
  const RowSlopes slopes = row.finish(sums, lane == 0);
  if (!row.has_gradient()) return;
  const Slots<S> gradient = row.gradient();
#pragma unroll
  for (int i = 0; i < held; ++i) {
    const std::int32_t slot = lane + i * lanes;
    if (slot < row.slots().count()) {
      gradient.store(slot, row.differentiate(raw[i], slot, slopes));
    }
  }
}

template <class S, bool is_plain>
void queue(const CrossEntropyCall& call, cudaStream_t stream) {
  // A row that begins inside a slot takes part of one more.
  const auto vocab = static_cast<std::int32_t>(call.targets.vocab);
  const std::int32_t most_slots = (vocab + slot_elements<S> - 2) / slot_elements<S> + 1;
  constexpr int few = 2, many = (small_vocab / slot_elements<S>) / warp_lanes + 1;
  int lanes = 4;
  while (lanes < warp_lanes && lanes * few < most_slots) lanes *= 2;
  const std::int64_t rows_per_block = threads / lanes;
  const Grid grid{(call.targets.rows + rows_per_block - 1) / rows_per_block, threads};
  const auto kernel =
      lanes * few >= most_slots ? small_rows<S, is_plain, few> : small_rows<S, is_plain, many>;
  launch("cross-entropy kernel of small rows", kernel, grid, stream, call, lanes);
}

}  // namespace

void queue_small_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  with_variant(call, [&](auto storage, auto is_plain) {
    queue<decltype(storage), is_plain()>(call, stream);
  });
}

}  // namespace nanochat::kernels

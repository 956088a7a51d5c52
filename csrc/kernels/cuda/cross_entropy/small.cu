// Small vocabularies: a row for every few lanes of a warp, its logits in their registers.
#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/row.cuh"

namespace nanochat::kernels {
namespace {

constexpr int threads = 128;

// held: slots a lane. Lanes beyond the last row take part in the exchanges with nothing to give.
template <class S, bool is_plain, int held>
__global__ void __launch_bounds__(threads)
    small_rows(const __grid_constant__ CrossEntropyCall call, int lanes) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  const int lane = static_cast<int>(thread % lanes);
  const bool exists = thread / lanes < call.of.rows;
  const Row<S, is_plain> row(call, exists ? thread / lanes : 0);
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
  sums = over_lanes<S, is_plain>(sums, lanes);
  // The target's logit has been read by all before its place may become the gradient's.
  __syncwarp();
  if (!exists) return;
  if (!has_token) {
    fill_row(row, row.finish_empty(lane == 0), lane, lanes);
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
void launch(const CrossEntropyCall& call, cudaStream_t stream) {
  // Rows that begin inside a slot take part of one more.
  const auto vocab = static_cast<std::int32_t>(call.of.vocab);
  const std::int32_t most_slots = (vocab + slot_elements<S> - 2) / slot_elements<S> + 1;
  constexpr int few = 2, many = (small_vocab / slot_elements<S>) / warp_lanes + 1;
  int lanes = 4;
  while (lanes < warp_lanes && lanes * few < most_slots) lanes *= 2;
  const std::int64_t rows_a_block = threads / lanes;
  const auto blocks = static_cast<unsigned>((call.of.rows + rows_a_block - 1) / rows_a_block);
  if (lanes * few >= most_slots) {
    small_rows<S, is_plain, few><<<blocks, threads, 0, stream>>>(call, lanes);
  } else {
    small_rows<S, is_plain, many><<<blocks, threads, 0, stream>>>(call, lanes);
  }
}

}  // namespace

void queue_small_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  with_storage<Float32, BFloat16, Float16>(call.dtype, [&](auto storage) {
    using S = decltype(storage);
    if (is_plain(call.terms)) {
      launch<S, true>(call, stream);
    } else {
      launch<S, false>(call, stream);
    }
  });
  check_launch("cross-entropy kernel of small rows");
}

}  // namespace nanochat::kernels

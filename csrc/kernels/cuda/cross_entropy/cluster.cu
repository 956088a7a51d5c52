// Cross-entropy of rows that fit in the shared memory of a cluster: one cluster of blocks per row,
// each block holding a share. Needs compute capability 9.0.
#include <cooperative_groups.h>

#include "kernels/cuda/checks.hpp"
#include "kernels/cuda/cross_entropy/held_launch.hpp"
#include "kernels/cuda/cross_entropy/held_share.cuh"

namespace nanochat::kernels {
namespace {

constexpr int most_blocks = 8;  // the largest cluster that every such device supports

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// Reads every block's sums in the order of the blocks. The second barrier keeps all blocks until
// the last has read: a block's shared memory ends with it, and a gradient in place overwrites the
// target's logit.
template <class S, bool is_plain>
__device__ RowSums sum_over_cluster(const RowSums& own, RowSums* shared) {
  const auto cluster = cooperative_groups::this_cluster();
  if (threadIdx.x == 0) *shared = own;
  cluster.sync();
  RowSums sums = *cluster.map_shared_rank(shared, 0);
  for (unsigned block = 1; block < cluster.num_blocks(); ++block) {
    sums = merged_sums<S, is_plain>(sums, *cluster.map_shared_rank(shared, block));
  }
  cluster.sync();
  return sums;
}
#endif

template <class S, bool is_plain>
__global__ void __launch_bounds__(most_threads, 2)
    cluster_rows(const __grid_constant__ CrossEntropyCall call) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __shared__ RowSums warp_sums[most_warps], block_sums;
  const auto cluster = cooperative_groups::this_cluster();
  const auto blocks = static_cast<std::int32_t>(cluster.num_blocks());
  const auto rank = static_cast<std::int32_t>(cluster.block_rank());
  const LossRow<S, is_plain> row(call, blockIdx.x / cluster.num_blocks());
  const auto threads = static_cast<std::int32_t>(blockDim.x);
  const std::int32_t thread = rank * threads + static_cast<std::int32_t>(threadIdx.x);
  if (!row.has_token()) {  // the same in all blocks of the cluster
    fill_gradient(row, row.finish_empty(thread == 0), thread, blocks * threads);
    return;
  }
  const std::int32_t slots = row.slots().count(), part = (slots + blocks - 1) / blocks;
  const HeldShare<S, is_plain> share(row, min(rank * part, slots), min((rank + 1) * part, slots),
                                     dynamic_shared_memory());
  const RowSums own = sum_over_block<S, is_plain>(share.sums(), warp_sums);
  const RowSums sums = sum_over_cluster<S, is_plain>(own, &block_sums);
  const RowSlopes slopes = row.finish(sums, thread == 0);
  if (row.has_gradient()) share.differentiate(slopes);
#endif
}

std::int64_t share_bytes(const CrossEntropyCall& call, int blocks) {
  return (most_slots(call.targets.vocab, call.dtype) + blocks - 1) / blocks * slot_bytes;
}

// As few blocks as possible, but two per multiprocessor: one reads while another writes.
int blocks_for(const CrossEntropyCall& call) {
  int blocks = 2;
  while (blocks < most_blocks && share_bytes(call, blocks) > most_shared() / 2) blocks *= 2;
  return blocks;
}

}  // namespace

bool fits_in_cluster(const CrossEntropyCall& call) {
  return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9 &&
         call.targets.rows <= most_rows / most_blocks &&
         share_bytes(call, most_blocks) <= most_shared();
}

void queue_cluster_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  const int blocks = blocks_for(call);
  const std::int64_t bytes = share_bytes(call, blocks);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config =
      launch_config({call.targets.rows * blocks, threads_for(bytes / slot_bytes),
                     static_cast<std::size_t>(bytes)},
                    stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  with_variant(call, [&](auto storage, auto is_plain) {
    const auto kernel = cluster_rows<decltype(storage), is_plain()>;
    allow_shared_memory(kernel);
    int clusters = 0;
    check_cuda(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config),
               "cudaOccupancyMaxActiveClusters");
    // A partition of a device may be too small for a cluster.
    if (clusters < 1) return queue_streamed_rows(call, stream);
    launch("cross-entropy kernel of one cluster per row", kernel, config, call);
  });
}

}  // namespace nanochat::kernels

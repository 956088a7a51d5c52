// Large vocabularies from compute capability 9.0 on: a cluster of blocks a row, a share of the row
// in the shared memory of each.
#include <cooperative_groups.h>

#include "kernels/cuda/cross_entropy_held.cuh"

namespace nanochat::kernels {
namespace {

constexpr int most_blocks = 8;  // that every device of this kind takes in a cluster

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// Reads every block's sums in the order of the blocks. No block writes its gradient or ends before
// all have read: its memory is theirs until then, and so is the target's logit.
template <class S, bool is_plain>
__device__ RowSums over_cluster(const RowSums& own, RowSums* shared) {
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
  extern __shared__ uint4 held[];
  __shared__ RowSums shared[most_warps], whole;
  const auto cluster = cooperative_groups::this_cluster();
  const auto blocks = static_cast<std::int32_t>(cluster.num_blocks());
  const auto rank = static_cast<std::int32_t>(cluster.block_rank());
  const Row<S, is_plain> row(call, blockIdx.x / cluster.num_blocks());
  const auto threads = static_cast<std::int32_t>(blockDim.x);
  const std::int32_t thread = rank * threads + static_cast<std::int32_t>(threadIdx.x);
  if (!row.has_token()) {  // the same in all blocks of the cluster
    fill_row(row, row.finish_empty(thread == 0), thread, blocks * threads);
    return;
  }
  const std::int32_t slots = row.slots().count(), part = (slots + blocks - 1) / blocks;
  const HeldShare<S, is_plain> share(row, min(rank * part, slots), min((rank + 1) * part, slots),
                                     held);
  const RowSums own = over_block<S, is_plain>(share.sums(), shared);
  const RowSums sums = over_cluster<S, is_plain>(own, &whole);
  const RowSlopes slopes = row.finish(sums, thread == 0);
  if (row.has_gradient()) share.differentiate(slopes);
#endif
}

std::int64_t share_bytes(const CrossEntropyCall& call, int blocks) {
  return (most_slots(call.of.vocab, call.dtype) + blocks - 1) / blocks * slot_bytes;
}

// Few blocks, but two to a multiprocessor, so that one reads while another writes.
int blocks_for(const CrossEntropyCall& call) {
  int blocks = 2;
  while (blocks < most_blocks && share_bytes(call, blocks) > most_shared() / 2) blocks *= 2;
  return blocks;
}

struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute cluster{};
};

void set_up(Launch& launch, const CrossEntropyCall& call, cudaStream_t stream) {
  const int blocks = blocks_for(call);
  const std::int64_t bytes = share_bytes(call, blocks);
  launch.cluster.id = cudaLaunchAttributeClusterDimension;
  launch.cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  launch.config.gridDim = dim3(static_cast<unsigned>(call.of.rows * blocks));
  launch.config.blockDim = dim3(static_cast<unsigned>(threads_for(bytes / slot_bytes)));
  launch.config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  launch.config.stream = stream;
  launch.config.attrs = &launch.cluster;
  launch.config.numAttrs = 1;
}

template <class S, bool is_plain>
void launch_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  Launch launch;
  set_up(launch, call, stream);
  check_cuda(
      cudaFuncSetAttribute(cluster_rows<S, is_plain>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(launch.config.dynamicSmemBytes)),
      "shared memory of the cross-entropy kernel");
  int clusters = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&clusters, cluster_rows<S, is_plain>, &launch.config),
             "cudaOccupancyMaxActiveClusters");
  // A part of a device may be too small for a cluster.
  if (clusters < 1) return queue_streamed_rows(call, stream);
  check_cuda(cudaLaunchKernelEx(&launch.config, cluster_rows<S, is_plain>, call),
             "cross-entropy kernel of a cluster a row");
}

}  // namespace

bool fits_in_cluster(const CrossEntropyCall& call) {
  return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9 &&
         call.of.rows <= most_rows / most_blocks && share_bytes(call, most_blocks) <= most_shared();
}

void queue_cluster_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  with_storage<Float32, BFloat16, Float16>(call.dtype, [&](auto storage) {
    using S = decltype(storage);
    if (is_plain(call.terms)) {
      launch_rows<S, true>(call, stream);
    } else {
      launch_rows<S, false>(call, stream);
    }
  });
}

}  // namespace nanochat::kernels

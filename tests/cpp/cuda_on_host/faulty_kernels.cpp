#include "faulty_kernels.hpp"

#include <cooperative_groups.h>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warp.cuh"

namespace faulty {
namespace {

using nanochat::kernels::whole_warp;

constexpr int most_threads = 1024;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), unsigned blocks, int threads,
                   std::size_t dynamic_bytes, unsigned cluster, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{cudaLaunchAttributeClusterDimension, {{cluster, 1, 1}}};
  const cudaLaunchConfig_t config{
      dim3(blocks), dim3(static_cast<unsigned>(threads)), dynamic_bytes, nullptr, &attribute, 1};
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

__global__ void neighbors_kernel(bool has_barrier, std::int32_t* result) {
  __shared__ std::int32_t elements[most_threads];
  elements[threadIdx.x] = static_cast<std::int32_t>(threadIdx.x);
  if (has_barrier) __syncthreads();
  result[threadIdx.x] = elements[(threadIdx.x + 1) % blockDim.x];
}

__global__ void lanes_kernel(bool has_barrier, std::int32_t* result) {
  __shared__ std::int32_t elements[nanochat::kernels::warp_lanes];
  elements[threadIdx.x] = static_cast<std::int32_t>(threadIdx.x);
  if (has_barrier) {
    __syncwarp();
  } else {
    __shfl_xor_sync(whole_warp, 1, 1);
  }
  result[threadIdx.x] = elements[threadIdx.x ^ 1U];
}

__global__ void copies_kernel(int pending, const uint4* from, uint4* result) {
  using namespace nanochat::kernels;
  uint4* const held = dynamic_shared_memory();
  const unsigned thread = threadIdx.x, threads = blockDim.x;
  for (unsigned slot = thread; slot < 2 * threads; slot += threads) {
    copy_async(&held[slot], &from[slot]);
    commit_copies();
  }
  if (pending == 0) wait_for_copies<0>();
  if (pending == 1) wait_for_copies<1>();
  for (unsigned slot = thread; slot < 2 * threads; slot += threads) result[slot] = held[slot];
  wait_for_copies<0>();
}

__global__ void missed_barrier_kernel(bool has_all, std::int32_t* result) {
  if (has_all || threadIdx.x != 0) __syncthreads();
  result[threadIdx.x] = 1;
}

__global__ void meeting_kernel(bool is_one, std::int32_t* result) {
  std::int32_t own = 1;
  if (is_one || threadIdx.x % 2 == 0) {
    own = __shfl_xor_sync(whole_warp, own, 1);
  } else {
    own = static_cast<std::int32_t>(__ballot_sync(whole_warp, true));
  }
  result[threadIdx.x] = own;
}

__global__ void unwritten_kernel(bool is_written, std::int32_t* result) {
  __shared__ std::int32_t fixed[most_threads];
  auto* const sized = reinterpret_cast<std::int32_t*>(nanochat::kernels::dynamic_shared_memory());
  if (is_written) fixed[threadIdx.x] = sized[threadIdx.x] = 3;
  result[threadIdx.x] = fixed[threadIdx.x] + sized[threadIdx.x];
}

__global__ void shifted_kernel(int distance, std::int32_t* result) {
  result[static_cast<int>(threadIdx.x) + distance] = 1;
}

__global__ void stored_kernel(std::int32_t* to) {
  nanochat::kernels::store_16_bytes(reinterpret_cast<uint4*>(to), {1, 2, 3, 4});
}

__global__ void ranks_kernel(bool has_first, bool has_last, std::int32_t* result) {
  __shared__ std::int32_t own;
  const auto cluster = cooperative_groups::this_cluster();
  const unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
  if (threadIdx.x == 0) own = static_cast<std::int32_t>(cluster.block_rank());
  if (has_first) cluster.sync();
  result[blockIdx.x * blockDim.x + threadIdx.x] = *cluster.map_shared_rank(&own, next);
  if (has_last) cluster.sync();
}

__global__ void counted_kernel(bool is_atomic, std::uint32_t* count) {
  if (is_atomic) {
    atomicAdd(count, 1);
  } else {
    *count = 1;
  }
}

__global__ void copied_kernel(const std::int32_t* from, std::int32_t* result) {
  result[threadIdx.x] = from[threadIdx.x];
}

__global__ void sized_kernel(std::int32_t* result) { *result = 5; }

}  // namespace

cudaError_t neighbors(bool has_barrier, int threads, std::int32_t* result) {
  return launch(neighbors_kernel, 1, threads, 0, 1, has_barrier, result);
}
cudaError_t lanes(bool has_barrier, std::int32_t* result) {
  return launch(lanes_kernel, 1, nanochat::kernels::warp_lanes, 0, 1, has_barrier, result);
}
cudaError_t copies(int pending, const uint4* from, int threads, uint4* result) {
  const auto bytes = 2 * static_cast<std::size_t>(threads) * sizeof *from;
  return launch(copies_kernel, 1, threads, bytes, 1, pending, from, result);
}
cudaError_t missed_barrier(bool has_all, int threads, std::int32_t* result) {
  return launch(missed_barrier_kernel, 1, threads, 0, 1, has_all, result);
}
cudaError_t meeting(bool is_one, std::int32_t* result) {
  return launch(meeting_kernel, 1, nanochat::kernels::warp_lanes, 0, 1, is_one, result);
}
cudaError_t unwritten(bool is_written, int threads, std::int32_t* result) {
  const auto bytes = static_cast<std::size_t>(threads) * sizeof *result;
  return launch(unwritten_kernel, 1, threads, bytes, 1, is_written, result);
}
cudaError_t shifted(int distance, int threads, std::int32_t* result) {
  return launch(shifted_kernel, 1, threads, 0, 1, distance, result);
}
cudaError_t stored(std::int32_t* to) { return launch(stored_kernel, 1, 1, 0, 1, to); }
cudaError_t ranks(bool has_first, bool has_last, unsigned blocks, int threads,
                  std::int32_t* result) {
  return launch(ranks_kernel, blocks, threads, 0, blocks, has_first, has_last, result);
}
cudaError_t counted(bool is_atomic, unsigned blocks, std::uint32_t* count) {
  return launch(counted_kernel, blocks, 1, 0, 1, is_atomic, count);
}
cudaError_t copied(const std::int32_t* from, int threads, std::int32_t* result) {
  return launch(copied_kernel, 1, threads, 0, 1, from, result);
}
cudaError_t sized(std::size_t bytes, std::int32_t* result) {
  return launch(sized_kernel, 1, 1, bytes, 1, result);
}
cudaError_t allow(int bytes) {
  return cudaFuncSetAttribute(sized_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
int allowed() {
  cudaFuncAttributes attributes{};
  cudaFuncGetAttributes(&attributes, sized_kernel);
  return attributes.maxDynamicSharedSizeBytes;
}

}  // namespace faulty

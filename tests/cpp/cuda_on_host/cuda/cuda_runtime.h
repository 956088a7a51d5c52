// Replaces CUDA's header of the same name, so a host compiler can build the kernels. The types and
// functions have CUDA's names and rules, as far as the kernels use them; host_gpu.hpp runs them.
#ifndef NANOCHAT_TESTS_CUDA_RUNTIME_H_
#define NANOCHAT_TESTS_CUDA_RUNTIME_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
// The static shared memory of a block is the thread-local memory of the library that holds the
// kernels: its place is known to the program, and two threads of the program can launch at once.
#define __shared__ static thread_local

#pragma GCC visibility push(default)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
};

using cudaStream_t = void*;
// Names and numbers as in CUDA.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchTimeout = 702,
  cudaErrorNotSupported = 801,
  cudaErrorUnknown = 999
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  std::size_t sharedSizeBytes;
  int maxDynamicSharedSizeBytes;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttributeValue {
  struct {
    unsigned x, y, z;
  } clusterDim;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace host_gpu {

// A kernel with its arguments: run(call) calls it.
struct KernelCall {
  const void* kernel;
  void (*run)(const void* call);
  const void* call;
  std::size_t call_bytes;
};
cudaError_t launch(const cudaLaunchConfig_t& config, const KernelCall& kernel);
cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t allow_shared_memory(const void* kernel, int bytes);
cudaError_t active_clusters(int* clusters);

// What the thread that runs asks for and does.
unsigned thread_index();
unsigned block_index();
unsigned block_size();
void synchronize_block();
void synchronize_warp(unsigned mask);
std::uint64_t shuffle(unsigned mask, std::uint64_t own, int from_lane);
unsigned ballot(unsigned mask, bool own);
int largest_of_warp(unsigned mask, int own);
unsigned lane_index();
unsigned add_atomically(unsigned* word, unsigned value);

template <class... Parameters>
struct BoundKernel {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;

  static void run(const void* call) {
    const auto& bound = *static_cast<const BoundKernel*>(call);
    std::apply(bound.kernel, bound.arguments);
  }
};

// A built-in variable: a function call, because the kernels' own accesses to memory are checked.
template <unsigned (*value)()>
struct BuiltIn {
  struct {
    operator unsigned() const { return value(); }  // NOLINT: implicit, like the variable
  } x;
};

template <class T>
T shuffled(unsigned mask, T own, int from_lane) {
  std::uint64_t bits = 0;
  static_assert(sizeof own <= sizeof bits);
  std::memcpy(&bits, &own, sizeof own);
  bits = shuffle(mask, bits, from_lane);
  std::memcpy(&own, &bits, sizeof own);
  return own;
}

}  // namespace host_gpu

#pragma GCC visibility pop

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const host_gpu::BoundKernel<Parameters...> bound{kernel, {std::forward<Arguments>(arguments)...}};
  return host_gpu::launch(
      *config, {reinterpret_cast<const void*>(kernel), &host_gpu::BoundKernel<Parameters...>::run,
                &bound, sizeof bound});
}
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Parameters...)) {
  return host_gpu::get_attributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return host_gpu::allow_shared_memory(reinterpret_cast<const void*>(kernel), value);
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*)(Parameters...),
                                           const cudaLaunchConfig_t*) {
  return host_gpu::active_clusters(clusters);
}

inline constexpr host_gpu::BuiltIn<host_gpu::thread_index> threadIdx{};
inline constexpr host_gpu::BuiltIn<host_gpu::block_index> blockIdx{};
inline constexpr host_gpu::BuiltIn<host_gpu::block_size> blockDim{};

using std::max;
using std::min;

inline void __syncthreads() { host_gpu::synchronize_block(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFU) { host_gpu::synchronize_warp(mask); }

template <class T>
T __shfl_sync(unsigned mask, T own, int lane) {
  return host_gpu::shuffled(mask, own, lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T own, int other) {
  return host_gpu::shuffled(mask, own, static_cast<int>(host_gpu::lane_index()) ^ other);
}
template <class T>
T __shfl_up_sync(unsigned mask, T own, unsigned below) {
  const unsigned lane = host_gpu::lane_index();
  return host_gpu::shuffled(mask, own, static_cast<int>(lane < below ? lane : lane - below));
}
inline unsigned __ballot_sync(unsigned mask, bool own) { return host_gpu::ballot(mask, own); }
inline int __reduce_max_sync(unsigned mask, int own) {
  return host_gpu::largest_of_warp(mask, own);
}

inline unsigned atomicAdd(unsigned* word, unsigned value) {
  return host_gpu::add_atomically(word, value);
}
inline int __popc(unsigned word) { return std::popcount(word); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }

#endif  // NANOCHAT_TESTS_CUDA_RUNTIME_H_

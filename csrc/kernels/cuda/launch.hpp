// Kernel launches, and errors of the CUDA runtime as failures.
#ifndef NANOCHAT_KERNELS_CUDA_LAUNCH_HPP_
#define NANOCHAT_KERNELS_CUDA_LAUNCH_HPP_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/status.hpp"

namespace nanochat::kernels {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error: the caller's next call must not report it again
  throw Failure(NCK_DEVICE, "%s: %s", what, cudaGetErrorString(error));
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

// The size of a launch, in one dimension.
struct Grid {
  std::int64_t blocks;
  int threads;                   // per block
  std::size_t shared_bytes = 0;  // dynamic shared memory per block
};

inline cudaLaunchConfig_t launch_config(const Grid& grid, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  return config;
}

// Lets a kernel take as much dynamic shared memory as the device has for it. The limit belongs to
// the kernel, not to the launch: another thread's smaller one would make this launch fail.
template <class... Parameters>
void allow_shared_memory(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, kernel), "attributes of a kernel");
  const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) -
                   static_cast<int>(attributes.sharedSizeBytes);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
             "shared memory of a kernel");
}

// Queues kernel(arguments…). name: what an error message calls the kernel.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const cudaLaunchConfig_t& config,
            const Arguments&... arguments) {
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Grid& grid, cudaStream_t stream,
            const Arguments&... arguments) {
  launch(name, kernel, launch_config(grid, stream), arguments...);
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_LAUNCH_HPP_

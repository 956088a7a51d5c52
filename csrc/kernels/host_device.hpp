// Marks a function that runs on the CPU and on a GPU; empty for a compiler without CUDA.
#ifndef NANOCHAT_KERNELS_HOST_DEVICE_HPP_
#define NANOCHAT_KERNELS_HOST_DEVICE_HPP_

#ifdef __CUDACC__
#define NCK_HOST_DEVICE __host__ __device__
#else
#define NCK_HOST_DEVICE
#endif

#endif  // NANOCHAT_KERNELS_HOST_DEVICE_HPP_

// Constants of a warp.
#ifndef NANOCHAT_KERNELS_CUDA_WARP_CUH_
#define NANOCHAT_KERNELS_CUDA_WARP_CUH_

namespace nanochat::kernels {

inline constexpr unsigned whole_warp = 0xFFFFFFFFU;
inline constexpr int warp_lanes = 32;

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_WARP_CUH_

// The kernels of one instruction set. Every file that includes this one is compiled once per set,
// as simd/vector.hpp explains, into a namespace named after the set.
#ifndef NANOCHAT_SCALAR_SIMD_KERNELS_HPP_
#define NANOCHAT_SCALAR_SIMD_KERNELS_HPP_

#include "scalar/simd/simd.hpp"

namespace nanochat::simd::NCLAB_SIMD {

// The numerics of simd.hpp: the element type, and whether products are fused with their sum.
struct Exact {
  using T = double;
  static constexpr bool fused = false;
};
struct Fast64 {
  using T = double;
  static constexpr bool fused = true;
};
struct Fast32 {
  using T = float;
  static constexpr bool fused = true;
};

// Defined for these three in gemm.cpp, sum.cpp, cross.cpp, map.cpp and optimizer.cpp.
template <class N>
void gemm(const Gemm<typename N::T>&) noexcept;
template <class N>
void sum(const Sum<typename N::T>&) noexcept;
template <class N>
void cross(const Cross<typename N::T>&) noexcept;
template <class N>
void fan(const Fan<typename N::T>&) noexcept;
template <class N>
void map(Map, typename N::T* dst, const typename N::T* src, std::size_t n, double c) noexcept;
template <class N>
void adamw(typename N::T* value, const typename N::T* grad, typename N::T* m, typename N::T* v,
           std::size_t n, const Adam&) noexcept;
template <class N>
void sgd(typename N::T* value, const typename N::T* grad, typename N::T* buffer, std::size_t n,
         const Sgd&) noexcept;
// Bit-identical in all numerics.
template <class T>
void largest(T* dst, const T* src, std::ptrdiff_t step, std::int32_t rows,
             std::int32_t lanes) noexcept;
template <class T>
void transpose(T* dst, std::ptrdiff_t dst_step, const T* src, std::ptrdiff_t src_step,
               std::int32_t rows, std::int32_t lanes) noexcept;

extern const Tables kernel_tables;

}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SCALAR_SIMD_KERNELS_HPP_

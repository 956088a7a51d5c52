// The tables of one instruction set. See kernels.hpp.
#include "scalar/simd/kernels.hpp"

#define NCLAB_NAME_OF(x) #x
#define NCLAB_NAME(x) NCLAB_NAME_OF(x)

namespace nanochat::simd::NCLAB_SIMD {
namespace {

template <class N>
constexpr Table<typename N::T> table = {
    &gemm<N>,
    &sum<N>,
    &cross<N>,
    &fan<N>,
    &map<N>,
    &largest<typename N::T>,
    &transpose<typename N::T>,
    &adamw<N>,
    &sgd<N>,
    NCLAB_NAME(NCLAB_SIMD),
    NCLAB_SIMD_BYTES / sizeof(typename N::T),
};

}  // namespace

constinit const Tables kernel_tables = {table<Exact>, table<Fast64>, table<Fast32>};

}  // namespace nanochat::simd::NCLAB_SIMD

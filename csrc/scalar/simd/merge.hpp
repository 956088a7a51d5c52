// The store of a part of a vector into a row of the replay's memory.
#ifndef NANOCHAT_SCALAR_SIMD_MERGE_HPP_
#define NANOCHAT_SCALAR_SIMD_MERGE_HPP_

#include "simd/vector.hpp"

namespace nanochat::simd::NCLAB_SIMD {
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// Stores the first `count` lanes of `v`. The other lanes keep their values but may be written, so
// no other thread may use them. Some processors take 10 times as long for a masked store of AVX2 as
// for a load, a blend and a store.
template <class V>
inline void merge_first(Element<V>* to, V v, int count) noexcept {
#if NCLAB_SIMD_BYTES == 64
  store_first(to, v, count);
#else
  store(to, keep_first(v, load<V>(to), count));
#endif
}

}  // namespace
}  // namespace nanochat::simd::NCLAB_SIMD

#endif  // NANOCHAT_SCALAR_SIMD_MERGE_HPP_

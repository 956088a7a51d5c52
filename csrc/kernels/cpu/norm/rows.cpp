// RMS norm over a few rows, forward and backward: one pass each, sums in a fixed order.
#include "kernels/cpu/norm/norm.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

template <class N>
inline N inverse_root(N x) noexcept {
  if constexpr (sizeof(N) == 8) {
    return 1 / __builtin_sqrt(x);
  } else {
    return 1 / __builtin_sqrtf(x);
  }
}

template <class S>
void rms_norm(const RmsNorm& call, std::int64_t first, std::int64_t last) noexcept {
  using N = Number<S>;
  using V = Whole<N>;
  const std::int64_t width = call.width;
  for (std::int64_t i = first; i < last; ++i) {
    const N* x = static_cast<const N*>(call.x) + i * width;
    V squares{};
    if (call.branch != nullptr) {
      const S* const branch = static_cast<const S*>(call.branch) + i * width;
      N* const sum = static_cast<N*>(call.sum) + i * width;
      for_vectors<V>(width, [&](std::int64_t at, int count) {
        const V v = load_at(x, at, count) + load_at(branch, at, count);
        store_at(sum, at, count, v);
        squares = fused_multiply_add(v, v, squares);
      });
      x = sum;
    } else {
      for_vectors<V>(width, [&](std::int64_t at, int count) {
        const V v = load_at(x, at, count);
        squares = fused_multiply_add(v, v, squares);
      });
    }
    const N mean = sum_of_lanes(squares) / static_cast<N>(width);
    const N inverse = inverse_root(mean + static_cast<N>(call.eps));
    static_cast<N*>(call.inverse)[i] = inverse;
    S* const normed = static_cast<S*>(call.normed) + i * width;
    for_vectors<V>(width, [&](std::int64_t at, int count) {
      store_at(normed, at, count, load_at(x, at, count) * inverse);
    });
  }
}

template <class S>
void rms_norm_backward(const RmsNormBackward& call, std::int64_t first,
                       std::int64_t last) noexcept {
  using N = Number<S>;
  using V = Whole<N>;
  const std::int64_t width = call.width;
  for (std::int64_t i = first; i < last; ++i) {
    const S* const gradient = static_cast<const S*>(call.gradient) + i * width;
    const N* const x = static_cast<const N*>(call.x) + i * width;
    const N* const onto = static_cast<const N*>(call.onto) + i * width;
    N* const result = static_cast<N*>(call.result) + i * width;
    const N inverse = static_cast<const N*>(call.inverse)[i];
    V products{};
    for_vectors<V>(width, [&](std::int64_t at, int count) {
      products = fused_multiply_add(load_at(gradient, at, count), load_at(x, at, count), products);
    });
    // With y = x · inverse: inverse · (dy − y · mean(dy · y)).
    const N mean = sum_of_lanes(products) / static_cast<N>(width);
    const V along = broadcast<V>(-mean * inverse * inverse * inverse),
            scale = broadcast<V>(inverse);
    S* const narrow = call.narrow == nullptr ? nullptr : static_cast<S*>(call.narrow) + i * width;
    for_vectors<V>(width, [&](std::int64_t at, int count) {
      const V straight =
          fused_multiply_add(load_at(gradient, at, count), scale, load_at(onto, at, count));
      const V v = fused_multiply_add(load_at(x, at, count), along, straight);
      store_at(result, at, count, v);
      if (narrow != nullptr) store_at(narrow, at, count, v);
    });
  }
}

}  // namespace

extern const NormTable norm_table;
const NormTable norm_table = {
    {&rms_norm<float>, &rms_norm<double>, &rms_norm<BFloat16>, &rms_norm<Float16>},
    {&rms_norm_backward<float>, &rms_norm_backward<double>, &rms_norm_backward<BFloat16>,
     &rms_norm_backward<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

// RMS norm over a few rows, forward and backward, in one pass each. Sums have a fixed order.
#include "kernels/cpu/dropout/mask.hpp"
#include "kernels/cpu/norm/norm.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

template <class A>
inline A inverse_root(A x) noexcept {
  if constexpr (sizeof(A) == 8) {
    return 1 / __builtin_sqrt(x);
  } else {
    return 1 / __builtin_sqrtf(x);
  }
}

template <class S>
void rms_norm(const RmsNorm& call, std::int64_t first, std::int64_t last) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  const std::int64_t hidden_size = call.hidden_size;
  const V scale = broadcast<V>(static_cast<A>(call.scale));
  for (std::int64_t i = first; i < last; ++i) {
    const A* x = static_cast<const A*>(call.x) + i * hidden_size;
    V squares{};
    if (call.branch != nullptr) {
      const S* const branch = static_cast<const S*>(call.branch) + i * hidden_size;
      A* const sum = static_cast<A*>(call.sum) + i * hidden_size;
      const std::uint8_t* const mask = row_of_mask(call.mask, i, hidden_size);
      for_vectors<V>(hidden_size, [&](std::int64_t at, int count) {
        V added = load_at(branch, at, count);
        if (mask != nullptr) {
          added = masked_product(added, scale, mask_bits<Traits<V>::lanes>(mask, at, count));
        }
        const V v = load_at(x, at, count) + added;
        store_at(sum, at, count, v);
        squares = fused_multiply_add(v, v, squares);
      });
      x = sum;
    } else {
      for_vectors<V>(hidden_size, [&](std::int64_t at, int count) {
        const V v = load_at(x, at, count);
        squares = fused_multiply_add(v, v, squares);
      });
    }
    const A mean = sum_of_lanes(squares) / static_cast<A>(hidden_size);
    const A inverse = inverse_root(mean + static_cast<A>(call.eps));
    static_cast<A*>(call.inverse)[i] = inverse;
    S* const normed = static_cast<S*>(call.normed) + i * hidden_size;
    for_vectors<V>(hidden_size, [&](std::int64_t at, int count) {
      store_at(normed, at, count, load_at(x, at, count) * inverse);
    });
  }
}

template <class S>
void rms_norm_backward(const RmsNormBackward& call, std::int64_t first,
                       std::int64_t last) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  const std::int64_t hidden_size = call.hidden_size;
  const V scale = broadcast<V>(static_cast<A>(call.scale));
  for (std::int64_t i = first; i < last; ++i) {
    const S* const gradient = static_cast<const S*>(call.gradient) + i * hidden_size;
    const A* const x = static_cast<const A*>(call.x) + i * hidden_size;
    const A* const onto = static_cast<const A*>(call.onto) + i * hidden_size;
    A* const result = static_cast<A*>(call.result) + i * hidden_size;
    const A inverse = static_cast<const A*>(call.inverse)[i];
    V products{};
    for_vectors<V>(hidden_size, [&](std::int64_t at, int count) {
      products = fused_multiply_add(load_at(gradient, at, count), load_at(x, at, count), products);
    });
    // With y = x · inverse, the gradient is inverse · (dy − y · mean(dy · y)).
    const A mean = sum_of_lanes(products) / static_cast<A>(hidden_size);
    const V x_factor = broadcast<V>(-mean * inverse * inverse * inverse),
            gradient_factor = broadcast<V>(inverse);
    S* const stored_result = call.stored_result == nullptr
                                 ? nullptr
                                 : static_cast<S*>(call.stored_result) + i * hidden_size;
    const std::uint8_t* const mask = row_of_mask(call.mask, i, hidden_size);
    for_vectors<V>(hidden_size, [&](std::int64_t at, int count) {
      const V sum = fused_multiply_add(load_at(gradient, at, count), gradient_factor,
                                       load_at(onto, at, count));
      const V v = fused_multiply_add(load_at(x, at, count), x_factor, sum);
      store_at(result, at, count, v);
      if (stored_result == nullptr) return;
      store_at(stored_result, at, count,
               mask == nullptr
                   ? v
                   : masked_product(v, scale, mask_bits<Traits<V>::lanes>(mask, at, count)));
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

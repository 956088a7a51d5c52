// RMS norm, activations and embeddings over a few rows, forward and backward: one pass each, sums
// in a fixed order.
#include "kernels/cpu/norm/blocks.hpp"
#include "kernels/cpu/embedding/embedded_rows.hpp"
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

template <class S>
void activation(const void* x, bool squared, void* result, std::int64_t first,
                std::int64_t last) noexcept {
  using V = Whole<Number<S>>;
  const S* const from = static_cast<const S*>(x) + first;
  S* const to = static_cast<S*>(result) + first;
  for_vectors<V>(last - first, [&](std::int64_t at, int count) {
    const V v = load_at(from, at, count);
    const V positive = v < 0 ? V{} : v;  // nan stays
    store_at(to, at, count, squared ? positive * positive : positive);
  });
}

template <class S>
void activation_backward(const void* x, bool squared, void* gradient, std::int64_t first,
                         std::int64_t last) noexcept {
  using V = Whole<Number<S>>;
  const S* const from = static_cast<const S*>(x) + first;
  S* const to = static_cast<S*>(gradient) + first;
  for_vectors<V>(last - first, [&](std::int64_t at, int count) {
    const V v = load_at(from, at, count), upstream = load_at(to, at, count);
    const V slope = squared ? v + v : broadcast<V>(1);
    store_at(to, at, count, v <= 0 ? V{} : upstream * slope);
  });
}

// visit(row) for each row of the table that token i adds up.
template <class Visit>
inline void for_rows_of(const Embed& call, std::int64_t i, const Visit& visit) noexcept {
  const std::int64_t start = call.starts == nullptr ? 0 : call.starts[i];
  const std::int64_t before = i % call.columns - start;
  for_embedded_rows(
      call.embeddings, call.tokens + i, [&](std::int64_t k) { return k <= before; }, visit);
}

template <class N>
void embed(const Embed& call, std::int64_t first, std::int64_t last) noexcept {
  const std::int64_t width = call.embeddings.width;
  const N* const table = static_cast<const N*>(call.from);
  for (std::int64_t i = first; i < last; ++i) {
    N* const sum = static_cast<N*>(call.to) + i * width;
    bool begun = false;
    for_rows_of(call, i, [&](std::int64_t row) {
      for_vectors<Whole<N>>(width, [&](std::int64_t at, int count) {
        const Whole<N> v = load_at(table + row * width, at, count);
        store_at(sum, at, count, begun ? v + load_at(sum, at, count) : v);
      });
      begun = true;
    });
  }
}

// Each thread has columns of its own, so that a row's sum has one order for any number of them.
template <class N>
void embed_backward(const Embed& call, std::int64_t first, std::int64_t last) noexcept {
  const std::int64_t width = call.embeddings.width;
  for (std::int64_t i = 0; i < call.rows * call.columns; ++i) {
    const N* const gradient = static_cast<const N*>(call.from) + i * width + first;
    for_rows_of(call, i, [&](std::int64_t row) {
      N* const sum = static_cast<N*>(call.to) + row * width + first;
      for_vectors<Whole<N>>(last - first, [&](std::int64_t at, int count) {
        store_at(sum, at, count, load_at(sum, at, count) + load_at(gradient, at, count));
      });
    });
  }
}

}  // namespace

extern const BlockTable block_table;
const BlockTable block_table = {
    {&rms_norm<float>, &rms_norm<double>, &rms_norm<BFloat16>, &rms_norm<Float16>},
    {&rms_norm_backward<float>, &rms_norm_backward<double>, &rms_norm_backward<BFloat16>,
     &rms_norm_backward<Float16>},
    {&activation<float>, &activation<double>, &activation<BFloat16>, &activation<Float16>},
    {&activation_backward<float>, &activation_backward<double>, &activation_backward<BFloat16>,
     &activation_backward<Float16>},
    {&embed<float>, &embed<double>},
    {&embed_backward<float>, &embed_backward<double>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

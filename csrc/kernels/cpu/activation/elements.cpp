// Activations over a range of elements, forward and backward.
#include "kernels/cpu/activation/activation.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

template <class S>
void activation(const void* x, bool squared, void* result, std::int64_t first,
                std::int64_t last) noexcept {
  using V = Whole<AccumType<S>>;
  const S* const from = static_cast<const S*>(x) + first;
  S* const to = static_cast<S*>(result) + first;
  for_vectors<V>(last - first, [&](std::int64_t at, int count) {
    const V v = load_at(from, at, count);
    const V positive = v < 0 ? V{} : v;  // NaN stays NaN
    store_at(to, at, count, squared ? positive * positive : positive);
  });
}

template <class S>
void activation_backward(const void* x, bool squared, void* gradient, std::int64_t first,
                         std::int64_t last) noexcept {
  using V = Whole<AccumType<S>>;
  const S* const from = static_cast<const S*>(x) + first;
  S* const to = static_cast<S*>(gradient) + first;
  for_vectors<V>(last - first, [&](std::int64_t at, int count) {
    const V v = load_at(from, at, count), upstream = load_at(to, at, count);
    const V slope = squared ? v + v : broadcast<V>(1);
    store_at(to, at, count, v <= 0 ? V{} : upstream * slope);
  });
}

}  // namespace

extern const ActivationTable activation_table;
const ActivationTable activation_table = {
    {&activation<float>, &activation<double>, &activation<BFloat16>, &activation<Float16>},
    {&activation_backward<float>, &activation_backward<double>, &activation_backward<BFloat16>,
     &activation_backward<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

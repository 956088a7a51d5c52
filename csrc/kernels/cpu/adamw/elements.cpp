// AdamW element by element: one pass reads values, gradients and both moments and writes them.
#include "kernels/cpu/adamw/adamw.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

using Doubles = Whole<double>;

inline Doubles as_doubles(Whole<double> v) noexcept { return v; }
inline Doubles as_doubles(Whole<float> v) noexcept {
  const Halves<Whole<float>> parts = halves(v);
  return __builtin_convertvector(parts.low, Doubles) + __builtin_convertvector(parts.high, Doubles);
}

template <class S>
double squares(const void* gradients, std::int64_t first, std::int64_t last) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  constexpr int lanes = width<A>;
  const A* const g = static_cast<const A*>(gradients);
  Doubles total{};
  std::int64_t at = first;
  // Few terms per sum in float: a small square loses less next to a large one.
  for (; at + 8 * lanes <= last; at += 8 * lanes) {
    V sums[2] = {};
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const V x = load<V>(g + at + i * lanes);
      sums[i % 2] = fused_multiply_add(x, x, sums[i % 2]);
    }
    total += as_doubles(sums[0]) + as_doubles(sums[1]);
  }
  for_vectors<V>(last - at, [&](std::int64_t offset, int count) {
    const V x = load_at(g + at, offset, count);
    total += as_doubles(x * x);
  });
  return sum_of_lanes(total);
}

template <class S>
void update(const AdamW& call, const AdamWRate& rate, std::int64_t first,
            std::int64_t last) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  A* const values = static_cast<A*>(call.values) + first;
  A* const gradients = static_cast<A*>(call.gradients) + first;
  A* const first_moments = static_cast<A*>(call.m) + first;
  A* const second_moments = static_cast<A*>(call.v) + first;
  const auto constant = [](double x) { return broadcast<V>(static_cast<A>(x)); };
  const V clip = constant(call.clip), decay = constant(rate.decay), eps = constant(call.eps);
  const V new_share = constant(1 - call.beta1), kept = constant(call.beta2);
  const V new_square = constant(1 - call.beta2);
  const V correction = constant(1 / call.root_correction_2), step = constant(-rate.step);
  const auto new_value = [&](std::int64_t at, int count) {
    const V g = load_at(gradients, at, count) * clip;
    V m = load_at(first_moments, at, count), v = load_at(second_moments, at, count);
    m = fused_multiply_add(new_share, g - m, m);
    v = fused_multiply_add(v, kept, new_square * g * g);
    const V root = fused_multiply_add(square_root(v), correction, eps);
    const V value = load_at(values, at, count) * decay + step * m / root;
    store_at(first_moments, at, count, m);
    store_at(second_moments, at, count, v);
    store_at(values, at, count, value);
    store_at(gradients, at, count, V{});
    return value;
  };
  const std::int64_t count = last - first;
  if (call.computed == nullptr) {
    for_vectors<V>(count, [&](std::int64_t at, int some) { new_value(at, some); });
    return;
  }
  // The copy may begin within these elements.
  std::int64_t plain = call.first_computed - first;
  plain = plain < 0 ? 0 : plain < count ? plain : count;
  for_vectors<V>(plain, [&](std::int64_t at, int some) { new_value(at, some); });
  S* const computed = static_cast<S*>(call.computed) + first;
  for_vectors<V>(count - plain, [&](std::int64_t at, int some) {
    store_at(computed, plain + at, some, new_value(plain + at, some));
  });
}

template <class S>
void clip(const AdamW& call, std::int64_t first, std::int64_t last) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  A* const gradients = static_cast<A*>(call.gradients) + first;
  const V factor = broadcast<V>(static_cast<A>(call.clip));
  for_vectors<V>(last - first, [&](std::int64_t at, int count) {
    store_at(gradients, at, count, load_at(gradients, at, count) * factor);
  });
}

}  // namespace

extern const AdamWTable adamw_table;
const AdamWTable adamw_table = {
    {&squares<float>, &squares<double>, &squares<BFloat16>, &squares<Float16>},
    {&update<float>, &update<double>, &update<BFloat16>, &update<Float16>},
    {&clip<float>, &clip<double>, &clip<BFloat16>, &clip<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

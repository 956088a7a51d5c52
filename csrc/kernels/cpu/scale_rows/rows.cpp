// Multiplies rows by one factor each.
#include "kernels/cpu/scale_rows/scale_rows.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

template <class S>
void scale_rows(const ScaleRows& call, std::int64_t first, std::int64_t last) noexcept {
  using V = Whole<AccumType<S>>;
  const auto* const factors = static_cast<const AccumType<S>*>(call.upstream);
  for (std::int64_t i = first; i < last; ++i) {
    const S* const from = static_cast<const S*>(call.matrix) + i * call.row_stride;
    S* const to = static_cast<S*>(call.result) + i * call.result_stride;
    const AccumType<S> factor = factors[i * call.upstream_stride];
    if (from == to && factor == AccumType<S>{1}) continue;
    for_vectors<V>(call.vocab, [&](std::int64_t at, int count) {
      store_at(to, at, count, load_at(from, at, count) * factor);
    });
  }
}

}  // namespace

extern const ScaleRowsTable scale_rows_table;
const ScaleRowsTable scale_rows_table = {
    {&scale_rows<float>, &scale_rows<double>, &scale_rows<BFloat16>, &scale_rows<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

// Embeddings over a few tokens or columns, forward and backward.
#include "kernels/cpu/embedding/embedded_rows.hpp"
#include "kernels/cpu/embedding/embedding.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

using namespace simd::NCLAB_SIMD;

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

extern const EmbedTable embed_table;
const EmbedTable embed_table = {
    {&embed<float>, &embed<double>},
    {&embed_backward<float>, &embed_backward<double>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

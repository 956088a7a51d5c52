// Embeddings over a few tokens or columns, forward and backward.
#include "kernels/cpu/embedding/embedded_rows.hpp"
#include "kernels/cpu/embedding/embedding.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

// Calls visit(row) for each table row of token i.
template <class Visit>
inline void for_rows_of_token(const Embed& call, std::int64_t i, const Visit& visit) noexcept {
  const std::int64_t start = call.starts == nullptr ? 0 : call.starts[i];
  const std::int64_t before = i % call.columns - start;
  for_embedded_rows(
      call.embeddings, call.tokens + i, [&](std::int64_t k) { return k <= before; }, visit);
}

template <class A>
void embed(const Embed& call, std::int64_t first, std::int64_t last) noexcept {
  const std::int64_t hidden_size = call.embeddings.hidden_size;
  const A* const table = static_cast<const A*>(call.input);
  for (std::int64_t i = first; i < last; ++i) {
    A* const sum = static_cast<A*>(call.output) + i * hidden_size;
    bool has_sum = false;
    for_rows_of_token(call, i, [&](std::int64_t row) {
      for_vectors<Whole<A>>(hidden_size, [&](std::int64_t at, int count) {
        const Whole<A> v = load_at(table + row * hidden_size, at, count);
        store_at(sum, at, count, has_sum ? v + load_at(sum, at, count) : v);
      });
      has_sum = true;
    });
  }
}

// Each thread has separate columns, so a row's sum has one order for any thread count.
template <class A>
void embed_backward(const Embed& call, std::int64_t first, std::int64_t last) noexcept {
  const std::int64_t hidden_size = call.embeddings.hidden_size;
  for (std::int64_t i = 0; i < call.rows * call.columns; ++i) {
    const A* const gradient = static_cast<const A*>(call.input) + i * hidden_size + first;
    for_rows_of_token(call, i, [&](std::int64_t row) {
      A* const sum = static_cast<A*>(call.output) + row * hidden_size + first;
      for_vectors<Whole<A>>(last - first, [&](std::int64_t at, int count) {
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

// Sorts contexts: by the newest token first, then within each bucket. Buckets are independent, so
// threads do not change the result.
#include <atomic>
#include <new>

#include "kernels/cpu/ngram/context_sorter.hpp"
#include "kernels/cpu/runtime/parallel.hpp"

namespace nanochat::kernels::ngram {

void sort_contexts(const std::vector<std::uint32_t>& stream, std::uint32_t vocab, int longest,
                   int threads, std::vector<std::uint32_t>& order,
                   std::vector<std::uint8_t>& shared) {
  const auto targets = static_cast<std::uint32_t>(stream.size()) - 1;
  order.resize(targets);
  shared.assign(targets, equal);
  std::vector<std::uint32_t> ends(static_cast<std::size_t>(vocab) + 1);
  for (std::uint32_t i = 0; i < targets; ++i) ++ends[stream[i] + 1];
  for (std::uint32_t token = 0; token < vocab; ++token) ends[token + 1] += ends[token];
  for (std::uint32_t i = 0; i < targets; ++i) order[ends[stream[i]]++] = i + 1;
  // ends[token] is now the end of the token's bucket, which begins at the end of the one before.
  for (std::uint32_t token = 0; token < vocab; ++token) {
    const std::uint32_t first = token == 0 ? 0 : ends[token - 1];
    if (first < ends[token]) shared[first] = 0;
  }
  if (longest < 2) return;
  std::atomic<bool> out_of_memory{false};
  parallel_for(vocab - 1, 1, threads, [&](std::int64_t begin, std::int64_t) {
    const auto bucket = static_cast<std::size_t>(begin);
    const std::uint32_t first = ends[bucket], last = ends[bucket + 1];
    if (last - first < 2) return;
    try {
      ContextSorter<std::uint32_t>(stream.data(), vocab, longest, order.data(), shared.data())
          .sort(first, last, 1);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace nanochat::kernels::ngram

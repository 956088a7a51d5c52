// One loop over numbered chunks, shared out among threads. Which thread runs a chunk is left to
// chance, so a result may depend on the chunks' bounds but on no thread.
#ifndef NANOCHAT_KERNELS_CPU_PARALLEL_HPP_
#define NANOCHAT_KERNELS_CPU_PARALLEL_HPP_

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace nanochat::kernels {

// More would only wait for each other; and where the OpenMP runtime cannot start as many threads as
// it is asked for, it ends the process.
inline constexpr std::int64_t most_threads = 1024;

// Calls member(context) on up to `threads` threads, this one among them, at the same time; returns
// when all have returned. Threads are those of the OpenMP runtime that the process has loaded
// already (torch's), so that two libraries do not compete for the cores, else our own. A child of
// fork(), which has neither, runs alone.
void run_team(int threads, void (*member)(void* context), void* context);

// body(first, last) for the chunks [0, chunk), [chunk, 2·chunk), … of [0, count), each once.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t chunk, int threads, const Body& body) noexcept {
  struct Loop {
    const Body& body;
    std::int64_t count, chunk;
    std::atomic<std::int64_t> next;
  };
  const std::int64_t chunks = count / chunk + (count % chunk != 0 ? 1 : 0);
  const int team = static_cast<int>(std::min({std::int64_t{threads}, chunks, most_threads}));
  if (team <= 1) {
    for (std::int64_t first = 0; first < count; first += std::min(chunk, count - first)) {
      body(first, first + std::min(chunk, count - first));
    }
    return;
  }
  Loop loop{body, count, chunk, {0}};
  run_team(
      team,
      [](void* context) {
        auto& own = *static_cast<Loop*>(context);
        for (;;) {
          const std::int64_t number = own.next.fetch_add(1, std::memory_order_relaxed);
          // In this order, for the product of a number beyond the last chunk could overflow.
          if (number > (own.count - 1) / own.chunk) return;
          const std::int64_t first = number * own.chunk;
          own.body(first, first + std::min(own.chunk, own.count - first));
        }
      },
      &loop);
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_PARALLEL_HPP_

// A parallel loop over numbered chunks. Any thread may run any chunk, so a result may depend on the
// bounds of the chunks but not on the threads.
#ifndef NANOCHAT_KERNELS_CPU_PARALLEL_HPP_
#define NANOCHAT_KERNELS_CPU_PARALLEL_HPP_

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace nanochat::kernels {

// More threads would only wait for each other. The OpenMP runtime ends the process if it cannot
// start the threads that a loop asks for.
inline constexpr std::int64_t most_threads = 1024;

// Calls member(context) on up to `threads` threads at the same time, the calling thread among them,
// and returns when all calls have returned. Uses the OpenMP runtime that the process has loaded
// (torch's), which keeps two thread pools from competing for the cores, or otherwise the library's
// threads. A child of fork() has neither and runs the call on one thread.
void run_team(int threads, void (*member)(void* context), void* context);

// Calls body(first, last) once for each of the chunks [0, chunk), [chunk, 2·chunk), … of [0,
// count).
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
          const std::int64_t index = own.next.fetch_add(1, std::memory_order_relaxed);
          // The comparison divides: the product of a chunk index past the end and the chunk size
          // may overflow.
          if (index > (own.count - 1) / own.chunk) return;
          const std::int64_t first = index * own.chunk;
          own.body(first, first + std::min(own.chunk, own.count - first));
        }
      },
      &loop);
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_PARALLEL_HPP_

// parallel_for and its teams run every chunk once, for any counts and callers.
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "kernels/cpu/runtime/parallel.hpp"
#include "testing.hpp"

namespace {

using nanochat::kernels::parallel_for;
using nanochat::kernels::run_team;

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

// The chunks that a loop received, as [first, last).
std::multiset<std::pair<std::int64_t, std::int64_t>> chunks_of(std::int64_t count,
                                                               std::int64_t chunk, int threads) {
  std::multiset<std::pair<std::int64_t, std::int64_t>> seen;
  std::mutex mutex;
  parallel_for(count, chunk, threads, [&](std::int64_t first, std::int64_t last) {
    const std::lock_guard<std::mutex> lock(mutex);
    seen.emplace(first, last);
  });
  return seen;
}

void check_cover(std::int64_t count, std::int64_t chunk, int threads) {
  const auto seen = chunks_of(count, chunk, threads);
  std::int64_t next = 0;
  for (const auto& [first, last] : seen) {
    CHECK(first == next);
    CHECK(last > first);
    CHECK(last - first == chunk || last == count);
    next = last;
  }
  CHECK(next == count);
}

TEST_CASE(every_chunk_runs_once_at_any_size) {
  for (const int threads : {1, 2, 3, 4, 7}) {
    for (std::int64_t count = 0; count < 40; ++count) {
      for (const std::int64_t chunk : {1, 2, 3, 7, 16, 39, 40, 1000}) {
        check_cover(count, chunk, threads);
      }
    }
  }
}

TEST_CASE(counts_near_the_largest_integer_do_not_overflow) {
  for (const int threads : {1, 2, 4}) {
    for (const std::int64_t chunk : {most, most - 1, most / 2, most / 2 + 1, most / 3, most / 7}) {
      check_cover(most, chunk, threads);
      check_cover(most - 1, chunk, threads);
    }
  }
}

TEST_CASE(an_empty_loop_calls_nothing) {
  for (const int threads : {1, 4}) CHECK(chunks_of(0, 5, threads).empty());
}

TEST_CASE(a_team_has_no_more_members_than_threads_asked_for_or_chunks) {
  for (const int threads : {2, 3, 5}) {
    for (const std::int64_t count : {2, 4, 100}) {
      std::set<std::thread::id> members;
      std::mutex mutex;
      parallel_for(count, 1, threads, [&](std::int64_t, std::int64_t) {
        const std::lock_guard<std::mutex> lock(mutex);
        members.insert(std::this_thread::get_id());
      });
      CHECK(members.size() <= static_cast<std::size_t>(threads));
      CHECK(members.size() <= static_cast<std::size_t>(count));
    }
  }
}

TEST_CASE(a_team_runs_its_member_and_returns_when_all_have_returned) {
  for (int turn = 0; turn < 200; ++turn) {
    struct State {
      std::atomic<int> begun{0}, ended{0};
    } state;
    run_team(
        4,
        [](void* context) {
          auto& own = *static_cast<State*>(context);
          ++own.begun;
          std::this_thread::yield();
          ++own.ended;
        },
        &state);
    CHECK(state.begun >= 1 && state.begun <= 4);
    CHECK(state.begun == state.ended);
  }
}

TEST_CASE(concurrent_callers_each_complete_their_loop) {
  constexpr int callers = 4, turns = 100;
  constexpr std::int64_t count = 1001;
  std::vector<int> wrong(callers, 0);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&wrong, caller] {
      for (int turn = 0; turn < turns; ++turn) {
        std::vector<std::atomic<int>> visits(count);
        // Teams of different sizes: the threads are started anew while other callers want them.
        parallel_for(count, 7, 2 + (turn + caller) % 5, [&](std::int64_t first, std::int64_t last) {
          for (std::int64_t i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        for (const auto& each : visits) wrong[static_cast<std::size_t>(caller)] += each != 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count_wrong : wrong) CHECK(count_wrong == 0);
}

}  // namespace

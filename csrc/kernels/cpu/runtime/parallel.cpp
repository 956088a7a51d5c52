#include "kernels/cpu/runtime/parallel.hpp"

#include <chrono>
#include <exception>
#include <memory>
#include <mutex>

#include "threads/workers.hpp"

#ifdef __linux__
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace nanochat::kernels {
namespace {

// GNU OpenMP's entry point, which a compiler calls for `#pragma omp parallel`.
using RunParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

// Finds the entry point only in a runtime that is already loaded: a second runtime would start more
// threads.
RunParallel loaded_openmp() noexcept {
#ifdef __linux__
  static std::atomic<RunParallel> found{nullptr};
  RunParallel run = found.load(std::memory_order_acquire);
  if (run != nullptr) return run;
  void* const library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  run = reinterpret_cast<RunParallel>(dlsym(library, "GOMP_parallel"));
  found.store(run, std::memory_order_release);
  return run;
#else
  return nullptr;
#endif
}

bool is_main_thread() noexcept {
#ifdef __linux__
  thread_local const bool is_main = syscall(SYS_gettid) == process_id();
  return is_main;
#else
  return true;  // OpenMP is not used
#endif
}

// The caller draws texts: between two tokens, it works alone for longer than a thread takes to
// wake.
constexpr std::chrono::microseconds patience{200};

// The library's threads, started by the first loop that needs them and then kept.
class OwnThreads {
 public:
  // Returns false if another caller's loop uses the threads or if they cannot be started.
  bool run(int threads, void (*member)(void*), void* context) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    if (!workers_ || workers_->threads() < threads - 1) {
      workers_.reset();
      try {
        workers_ = std::make_unique<Workers>(threads - 1, patience);
      } catch (const std::exception&) {  // no thread, or no memory for one
        return false;
      }
    }
    workers_->run(threads, [&](int) { member(context); });
    return true;
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<Workers> workers_;
};

OwnThreads& own_threads() {
  // Never destroyed: a thread may still wait for work when the process ends.
  static auto* const threads = new OwnThreads;
  return *threads;
}

// The process that loaded this library. A child of fork() must not use the OpenMP runtime: the
// parent's threads, which other code may have started, do not exist in the child.
const std::int64_t first_process = process_id();

}  // namespace

void run_team(int threads, void (*member)(void* context), void* context) {
  if (process_id() != first_process) return member(context);
  // OpenMP has threads for each thread that calls it, and lets all of them sleep as soon as they
  // are more than the processors.
  if (!is_main_thread() && own_threads().run(threads, member, context)) return;
  if (const RunParallel run = loaded_openmp()) {
    return run(member, context, static_cast<unsigned>(threads), 0);
  }
  if (!own_threads().run(threads, member, context)) member(context);
}

}  // namespace nanochat::kernels

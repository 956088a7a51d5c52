// Threads that share numbered tasks with the calling thread. Any thread may run any task, so
// results must not depend on the thread.
#ifndef NANOCHAT_THREADS_WORKERS_HPP_
#define NANOCHAT_THREADS_WORKERS_HPP_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nanochat {

// The id of this process; a child of fork() has another. 0 if the system has no fork().
std::int64_t process_id() noexcept;

class Workers {
 public:
  // `threads`: besides the calling thread. `patience`: how long a thread stays awake for the next
  // run; waking from sleep takes about as long as the default. Throws std::system_error if a thread
  // cannot be started.
  explicit Workers(int threads, std::chrono::microseconds patience = std::chrono::microseconds{30});
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Runs task(0) … task(count - 1) once each, on any threads, and returns when all are done. If
  // tasks throw, rethrows the exception of the lowest index. One caller at a time.
  void run(int count, const std::function<void(int)>& task);

  int threads() const noexcept { return static_cast<int>(threads_.size()); }
  // Returns whether this process is a child of fork(): it has the object but not the threads, and
  // must neither use nor destroy the object.
  bool is_forked() const noexcept;

 private:
  void work();
  void stop() noexcept;
  void take(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;  // guards the members below it
  std::condition_variable wake_, done_;
  const std::function<void(int)>* task_ = nullptr;
  int count_ = 0, next_ = 0, finished_ = 0;
  int failed_ = 0;  // the lowest task that threw
  std::exception_ptr error_;
  bool stopping_ = false;

  std::atomic<std::uint32_t> begun_{0};  // runs; read without the mutex before a thread sleeps
  std::int64_t process_;
  std::chrono::microseconds patience_;
  std::vector<std::thread> threads_;
};

}  // namespace nanochat

#endif  // NANOCHAT_THREADS_WORKERS_HPP_

// Threads that share out numbered tasks with the thread that asks. Which thread runs a task is left
// to chance, so no result may depend on it. Leaves out what the tasks are.
#ifndef NANOCHAT_THREADS_WORKERS_HPP_
#define NANOCHAT_THREADS_WORKERS_HPP_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nanochat {

// Of this process; a child of fork() has another. 0 where there is no fork().
std::int64_t process_id() noexcept;

class Workers {
 public:
  // `threads` besides the one that calls run(). Throws std::system_error where none can be had.
  explicit Workers(int threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // task(0) … task(count - 1), each once, on any thread; returns when all are done. Of several that
  // throw, the first one's exception is thrown here. One caller at a time.
  void run(int count, const std::function<void(int)>& task);

  int threads() const noexcept { return static_cast<int>(threads_.size()); }
  // A child of fork() has the object but not its threads: it may neither use nor destroy it.
  bool is_forked() const noexcept;

 private:
  void work();
  void stop() noexcept;
  void take(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;  // guards all that follows it
  std::condition_variable wake_, done_;
  const std::function<void(int)>* task_ = nullptr;
  int count_ = 0, next_ = 0, finished_ = 0;
  int failed_ = 0;  // the first task that threw
  std::exception_ptr error_;
  bool stopping_ = false;

  std::atomic<std::uint32_t> begun_{0};  // runs; watched without the mutex before a thread sleeps
  std::int64_t process_;
  std::vector<std::thread> threads_;
};

}  // namespace nanochat

#endif  // NANOCHAT_THREADS_WORKERS_HPP_

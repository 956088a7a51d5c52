// The calling thread takes tasks too: if no thread wakes in time on a busy machine, it does all the
// work. A task takes long compared with the lock around its index.
#include "threads/workers.hpp"

#include <unistd.h>

#include <utility>

namespace nanochat {

std::int64_t process_id() noexcept { return getpid(); }

Workers::Workers(int threads, std::chrono::microseconds patience)
    : process_(process_id()), patience_(patience) {
  threads_.reserve(static_cast<std::size_t>(threads));
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {
    stop();
    throw;
  }
}

Workers::~Workers() { stop(); }

bool Workers::is_forked() const noexcept { return process_ != process_id(); }

void Workers::stop() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::run(int count, const std::function<void(int)>& task) {
  std::unique_lock<std::mutex> lock(mutex_);
  task_ = &task;
  count_ = count;
  next_ = finished_ = 0;
  error_ = nullptr;
  begun_.fetch_add(1, std::memory_order_relaxed);
  lock.unlock();
  if (count == 2) {
    wake_.notify_one();
  } else if (count > 2) {
    wake_.notify_all();
  }
  lock.lock();
  while (next_ < count_) take(lock);
  done_.wait(lock, [this] { return finished_ == count_; });
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Runs the next task without holding the lock.
void Workers::take(std::unique_lock<std::mutex>& lock) {
  const int number = next_++;
  const std::function<void(int)>& task = *task_;
  lock.unlock();
  std::exception_ptr error;
  try {
    task(number);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  if (error && (!error_ || number < failed_)) {
    error_ = error;
    failed_ = number;
  }
  if (++finished_ == count_) done_.notify_one();
}

void Workers::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || next_ < count_; });
    if (stopping_) return;
    while (next_ < count_) take(lock);
    const std::uint32_t begun = begun_.load(std::memory_order_relaxed);
    lock.unlock();
    const auto end = std::chrono::steady_clock::now() + patience_;
    while (begun_.load(std::memory_order_relaxed) == begun &&
           std::chrono::steady_clock::now() < end) {
    }
    lock.lock();
  }
}

}  // namespace nanochat

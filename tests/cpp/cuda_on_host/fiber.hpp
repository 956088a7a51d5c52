// A function that can pause, with a stack of its own.
#ifndef NANOCHAT_TESTS_FIBER_HPP_
#define NANOCHAT_TESTS_FIBER_HPP_

#include <ucontext.h>

#include <cstddef>
#include <cstdint>

namespace host_gpu {

// Belongs to one thread of the program. The function must not throw.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Sets what the next resume() begins. The function before it must have ended.
  void set_function(void (*function)(void*), void* argument) {
    function_ = function;
    argument_ = argument;
    has_ended_ = false;
  }
  // Runs the function until it pauses or ends. Returns whether it has ended.
  bool resume();
  // Returns to the caller of resume(). Called by the function.
  void pause();

  bool owns(std::uintptr_t address) const { return address - stack_begin_ < stack_bytes; }

 private:
  // The kernels need a few KiB; a report of UndefinedBehaviorSanitizer takes more.
  static constexpr std::size_t stack_bytes = 64 * 1024;
  using Place = void* [5];  // of __builtin_setjmp

  static void run_functions();

  std::byte* memory_;  // a guard page, then the stack
  std::uintptr_t stack_begin_;
  ucontext_t start_;
  bool has_started_ = false, has_ended_ = true;
  Place inside_, outside_;
  void (*function_)(void*) = nullptr;
  void* argument_ = nullptr;
};

}  // namespace host_gpu

#endif  // NANOCHAT_TESTS_FIBER_HPP_

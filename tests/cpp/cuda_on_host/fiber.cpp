// Fibers switch by the compiler's setjmp and longjmp: swapcontext() costs two system calls, which
// would take most of the time of a test. ucontext only starts them.
#include "fiber.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace host_gpu {
namespace {

thread_local Fiber* starting = nullptr;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// A function cannot jump to a place that it has set itself.
[[gnu::noipa, noreturn]] void jump(void** place) { __builtin_longjmp(place, 1); }

[[gnu::noipa]] void leave(void** from, void** to) {
  if (__builtin_setjmp(from) == 0) jump(to);
}

[[gnu::noipa]] void start(void** from, const ucontext_t* to) {
  if (__builtin_setjmp(from) == 0) setcontext(to);
}

}  // namespace

Fiber::Fiber() {
  const std::size_t guard = page_bytes();
  void* const memory = mmap(nullptr, guard + stack_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory);
  mprotect(memory_, guard, PROT_NONE);
  stack_begin_ = reinterpret_cast<std::uintptr_t>(memory_ + guard);
  getcontext(&start_);
  start_.uc_stack.ss_sp = memory_ + guard;
  start_.uc_stack.ss_size = stack_bytes;
  start_.uc_link = nullptr;
  makecontext(&start_, &Fiber::run_functions, 0);
}

Fiber::~Fiber() { munmap(memory_, page_bytes() + stack_bytes); }

void Fiber::run_functions() {
  Fiber& self = *starting;
  for (;;) {
    self.function_(self.argument_);
    self.has_ended_ = true;
    self.pause();
  }
}

bool Fiber::resume() {
  if (has_started_) {
    leave(outside_, inside_);
  } else {
    has_started_ = true;
    starting = this;
    start(outside_, &start_);
  }
  return has_ended_;
}

void Fiber::pause() { leave(inside_, outside_); }

}  // namespace host_gpu

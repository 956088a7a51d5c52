#include "kernels/cpu/runtime/scratch.hpp"

#include <memory>
#include <new>

namespace nanochat::kernels {
namespace {

struct Free {
  void operator()(std::byte* memory) const noexcept {
    ::operator delete[](memory, std::align_val_t{64});
  }
};

}  // namespace

void* scratch(std::size_t bytes) noexcept {
  thread_local std::unique_ptr<std::byte[], Free> memory;
  thread_local std::size_t size = 0;
  if (bytes > size) {
    memory.reset(
        static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}, std::nothrow)));
    size = memory ? bytes : 0;
  }
  return memory.get();
}

}  // namespace nanochat::kernels

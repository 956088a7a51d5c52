// The compiler's ThreadSanitizer inserts a call before each access to memory. The kernels are
// compiled with it but not linked with its library: these functions take the calls.
#include <cstddef>

#include "memory.hpp"

using host_gpu::Access;
using host_gpu::check_access;

#pragma GCC visibility push(default)
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define ACCESSES_OF(bytes)                                                                      \
  void __tsan_read##bytes(void* at) { check_access(at, bytes, Access::read, true); }            \
  void __tsan_write##bytes(void* at) { check_access(at, bytes, Access::write, true); }          \
  void __tsan_unaligned_read##bytes(void* at) { check_access(at, bytes, Access::read, false); } \
  void __tsan_unaligned_write##bytes(void* at) { check_access(at, bytes, Access::write, false); }

ACCESSES_OF(1)
ACCESSES_OF(2)
ACCESSES_OF(4)
ACCESSES_OF(8)
ACCESSES_OF(16)

void __tsan_read_range(void* at, std::size_t bytes) {
  check_access(at, bytes, Access::read, false);
}
void __tsan_write_range(void* at, std::size_t bytes) {
  check_access(at, bytes, Access::write, false);
}

}  // extern "C"
#pragma GCC visibility pop

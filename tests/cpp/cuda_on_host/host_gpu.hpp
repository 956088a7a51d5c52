// A GPU on the CPU, as tests see it: the device's properties and memory, what was launched, and the
// faults that were found.
//
// One thread of the program runs the CUDA threads of its launches as fibers, in an order that looks
// random. Each access of a kernel to memory is checked (memory.hpp). Nothing is shared between
// threads of the program but the kernels' attributes, so several may launch at once.
#ifndef NANOCHAT_TESTS_HOST_GPU_HPP_
#define NANOCHAT_TESTS_HOST_GPU_HPP_

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#pragma GCC visibility push(default)
namespace host_gpu {

// What the device has. Set it while no kernel runs.
struct Device {
  int capability_major = 9;
  int shared_bytes = 232448;  // of a block, the most that a kernel may ask for
  int active_clusters = 4;    // of any kernel
};
Device& device();

// No host compiler tells how much static shared memory a kernel has. held_launch.hpp, which
// computes launch sizes, allows for this much.
inline constexpr int static_shared_bytes = 1024;
inline constexpr int default_dynamic_bytes = 48 * 1024;

// Memory that kernels may access. It begins `offset` bytes after an address that is aligned as
// cudaMalloc aligns. Belongs to the thread of the program that makes it. Kernels may read what a
// kernel has written, and everything after mark_written().
class DeviceMemory {
 public:
  DeviceMemory(const char* name, std::size_t bytes, std::size_t offset = 0);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  void mark_written();
  // Makes an access to these bytes a fault.
  void exclude(std::size_t offset, std::size_t bytes);

 private:
  std::byte* data_;
  std::size_t bytes_, offset_;
};

// The launches of this thread of the program since the last call.
struct Launch {
  unsigned blocks, threads, cluster;
  std::size_t dynamic_bytes;
  cudaStream_t stream;
};
std::vector<Launch> take_launches();

// The faults of this thread's launches since the last call, at most ten of each launch.
std::vector<std::string> take_faults();

// Lets a call of the CUDA runtime by this thread fail, after `calls` that succeed; negative: none.
void fail_after(int calls);

// Calls `action` when this thread launches next, before anything is checked: where another thread
// of the program may come between the calls of one.
void before_next_launch(std::function<void()> action);

}  // namespace host_gpu
#pragma GCC visibility pop

#endif  // NANOCHAT_TESTS_HOST_GPU_HPP_

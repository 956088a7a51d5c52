// The threads, warps, blocks and clusters of a launch while they run.
#ifndef NANOCHAT_TESTS_MACHINE_HPP_
#define NANOCHAT_TESTS_MACHINE_HPP_

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fiber.hpp"
#include "host_gpu.hpp"
#include "memory.hpp"

namespace host_gpu {

inline constexpr unsigned warp_lanes = 32;

struct Thread;
struct Cluster;

// Threads that wait for each other.
struct Barrier {
  std::uint32_t passed = 0;  // how often all threads have met
  std::vector<Thread*> waiting;
};

struct Warp {
  Barrier barrier;
  const char* operation = nullptr;  // what the waiting lanes do
  // What the lanes have given, for even and for odd numbers of `passed`: a lane that gives a value
  // for the next meeting leaves those that others still read.
  std::array<std::array<std::uint64_t, warp_lanes>, 2> values{};
  std::uint32_t synchronized = 0;  // barriers that order memory
};

struct Copy {
  uint4* to;
  const uint4* from;
};

struct Thread {
  Block* block;
  unsigned index;
  Fiber* fiber;
  std::vector<Copy> open_copies;
  std::vector<std::vector<Copy>> copy_groups;  // the oldest first

  Warp& warp() const;
  unsigned lane() const { return index % warp_lanes; }
  Moment now() const;
};

// The shared memory of a block. The static part lies in the thread-local memory of the kernels'
// library while the block runs, and in `parked` while another block of its cluster does.
struct SharedMemory {
  static constexpr std::size_t margin_slots = 16;  // before and after the dynamic part

  std::vector<std::byte> parked;
  std::vector<uint4> slots;
  std::vector<Cell> static_cells, dynamic_cells;

  uint4* dynamic() { return slots.data() + margin_slots; }
};

struct Block {
  Cluster* cluster;
  unsigned rank;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<Thread*> ready;
  unsigned left;  // threads that have not ended
  SharedMemory* memory;
  std::size_t dynamic_bytes;
  // One more than the cluster's barriers when another block last accessed this one's memory.
  std::uint32_t accessed_by_others = 0;

  unsigned index() const;  // in the grid
};

// Thread-local memory of the library that holds the kernels.
struct Segment {
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
};

// A launch.
struct Running {
  std::uint32_t number;
  const cudaLaunchConfig_t& config;
  const KernelCall& kernel;
  unsigned cluster_size;
  Segment segment;
};

struct Cluster {
  const Running* launch;
  unsigned index;
  std::vector<Block> blocks;
  Block* present = nullptr;  // whose static shared memory is in the segment
  Barrier barrier;
};

// What a thread of the program keeps between launches.
struct Machine {
  std::minstd_rand random;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::unique_ptr<SharedMemory>> memories;  // by rank
  std::vector<Launch> launches;
  std::vector<std::string> faults;
  std::size_t faults_before = 0;  // this launch
  bool is_stopped = false;        // this launch
  cudaError_t last_error = cudaSuccess;
  int calls_until_failure = -1;
  std::function<void()> before_launch;

  unsigned below(std::size_t count) { return static_cast<unsigned>(random() % count); }
};
Machine& machine();

// The thread that runs, or null.
extern constinit thread_local Thread* running;

// Ends the launch of the running thread, which does not go on: its next access could end the
// program.
void stop_launch();

// Runs all threads; returns false if some are left, because they wait for each other or because the
// launch was stopped.
bool run_cluster(Cluster& cluster);

// Stores the error of a call of the runtime for cudaGetLastError(), and returns it.
cudaError_t outcome(cudaError_t error);
// The most dynamic shared memory of the kernel's launches.
std::size_t most_dynamic_bytes(const void* kernel);

}  // namespace host_gpu

#endif  // NANOCHAT_TESTS_MACHINE_HPP_

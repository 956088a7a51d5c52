// Launches: checks of their sizes, and the clusters of a grid, one after the other.
#include <link.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <utility>

#include "kernels/cuda/ptx.cuh"
#include "machine.hpp"

namespace host_gpu {

constinit thread_local Thread* running = nullptr;

Machine& machine() {
  static thread_local Machine own;
  return own;
}

Warp& Thread::warp() const { return block->warps[index / warp_lanes]; }

Moment Thread::now() const {
  const Cluster& cluster = *block->cluster;
  return {cluster.launch->number,
          cluster.index,
          static_cast<std::uint16_t>(block->rank),
          static_cast<std::uint16_t>(index / warp_lanes),
          static_cast<std::uint16_t>(index),
          cluster.barrier.passed,
          block->barrier.passed,
          warp().synchronized};
}

unsigned Block::index() const { return cluster->index * cluster->launch->cluster_size + rank; }

namespace {

// All bits are set: NaN in every format, and −1.
constexpr std::byte garbage{0xFF};
constexpr uint4 garbage_slot{~0U, ~0U, ~0U, ~0U};

// Returns the thread-local memory of the library that has the kernel.
Segment segment_of(const void* kernel) {
  struct Search {
    std::uintptr_t kernel;
    Segment found;
  } search{reinterpret_cast<std::uintptr_t>(kernel), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* library, std::size_t, void* data) {
        Search& wanted = *static_cast<Search*>(data);
        bool has_kernel = false;
        std::size_t bytes = 0;
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          const ElfW(Phdr) & part = library->dlpi_phdr[i];
          if (part.p_type == PT_TLS) bytes = part.p_memsz;
          if (part.p_type == PT_LOAD &&
              wanted.kernel - (library->dlpi_addr + part.p_vaddr) < part.p_memsz) {
            has_kernel = true;
          }
        }
        if (!has_kernel) return 0;
        wanted.found = {static_cast<std::byte*>(library->dlpi_tls_data), bytes};
        return 1;
      },
      &search);
  return search.found;
}

void run_thread(void* argument) {
  Thread& self = *static_cast<Thread*>(argument);
  const KernelCall& kernel = self.block->cluster->launch->kernel;
  kernel.run(kernel.call);
  if (self.open_copies.empty() && self.copy_groups.empty()) return;
  report("thread %u of block %u ends while copies are on their way", self.index,
         self.block->index());
  close_copy_group();
  wait_for_copy_groups(0);
}

Fiber& fiber(std::size_t index) {
  auto& fibers = machine().fibers;
  while (fibers.size() <= index) fibers.push_back(std::make_unique<Fiber>());
  return *fibers[index];
}

SharedMemory& shared_memory(unsigned rank, const Running& launch) {
  auto& memories = machine().memories;
  while (memories.size() <= rank) memories.push_back(std::make_unique<SharedMemory>());
  SharedMemory& memory = *memories[rank];
  const std::size_t slots = (launch.config.dynamicSmemBytes + sizeof(uint4) - 1) / sizeof(uint4);
  memory.parked.assign(launch.segment.bytes, garbage);
  memory.slots.assign(slots + 2 * SharedMemory::margin_slots, garbage_slot);
  const auto grow = [](std::vector<Cell>& cells, std::size_t bytes) {
    cells.resize(std::max(cells.size(), bytes / cell_bytes + 1));
  };
  grow(memory.static_cells, launch.segment.bytes);
  grow(memory.dynamic_cells, launch.config.dynamicSmemBytes);
  return memory;
}

void fill_block(Block& block, Cluster& cluster, unsigned rank) {
  const Running& launch = *cluster.launch;
  const unsigned count = launch.config.blockDim.x;
  block.cluster = &cluster;
  block.rank = rank;
  block.left = count;
  block.memory = &shared_memory(rank, launch);
  block.dynamic_bytes = launch.config.dynamicSmemBytes;
  block.warps.resize((count + warp_lanes - 1) / warp_lanes);
  block.threads.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.index = i;
    thread.fiber = &fiber(std::size_t{rank} * count + i);
    thread.fiber->set_function(&run_thread, &thread);
    block.ready.push_back(&thread);
  }
}

bool run_grid(const Running& launch) {
  std::vector<unsigned> order(launch.config.gridDim.x / launch.cluster_size);
  std::iota(order.begin(), order.end(), 0U);
  std::shuffle(order.begin(), order.end(), machine().random);
  for (const unsigned index : order) {
    Cluster cluster{&launch, index, std::vector<Block>(launch.cluster_size), nullptr, {}};
    for (unsigned rank = 0; rank < launch.cluster_size; ++rank) {
      fill_block(cluster.blocks[rank], cluster, rank);
    }
    if (!run_cluster(cluster)) return false;
  }
  return true;
}

unsigned cluster_size_of(const cudaLaunchConfig_t& config) {
  unsigned size = 1;
  for (unsigned i = 0; i < config.numAttrs; ++i) size = config.attrs[i].val.clusterDim.x;
  return size;
}

cudaError_t check_sizes(const cudaLaunchConfig_t& config, const KernelCall& kernel) {
  constexpr unsigned most_threads = 1024, most_blocks = 0x7FFFFFFF, most_cluster = 8;
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const unsigned cluster = cluster_size_of(config);
  const bool are_sizes = grid.x >= 1 && grid.x <= most_blocks && block.x >= 1 &&
                         block.x <= most_threads && grid.y * grid.z * block.y * block.z == 1;
  if (!are_sizes) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > most_dynamic_bytes(kernel.kernel)) return cudaErrorInvalidValue;
  if (cluster == 1) return cudaSuccess;
  if (device().capability_major < 9) return cudaErrorNotSupported;
  const bool is_cluster = cluster >= 1 && cluster <= most_cluster && grid.x % cluster == 0 &&
                          device().active_clusters > 0;
  return is_cluster ? cudaSuccess : cudaErrorInvalidConfiguration;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, const KernelCall& kernel) {
  static std::atomic<std::uint32_t> launches{0};
  if (const auto action = std::exchange(machine().before_launch, nullptr)) action();
  const cudaError_t error = outcome(check_sizes(config, kernel));
  if (error != cudaSuccess) return error;
  const Running launch{++launches, config, kernel, cluster_size_of(config),
                       segment_of(kernel.kernel)};
  Machine& own = machine();
  own.faults_before = own.faults.size();
  own.is_stopped = false;
  own.launches.push_back({config.gridDim.x, config.blockDim.x, launch.cluster_size,
                          config.dynamicSmemBytes, config.stream});
  // The segment may also hold variables of the library's host code.
  const Segment& segment = launch.segment;
  const std::vector<std::byte> of_host(segment.begin, segment.begin + segment.bytes);
  const bool has_ended = run_grid(launch);
  std::copy(of_host.begin(), of_host.end(), segment.begin);
  if (has_ended) return cudaSuccess;
  own.fibers.clear();  // they cannot end
  own.memories.clear();
  return outcome(own.is_stopped ? cudaErrorIllegalAddress : cudaErrorLaunchTimeout);
}

}  // namespace host_gpu

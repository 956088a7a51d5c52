#include "memory.hpp"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "host_gpu.hpp"
#include "machine.hpp"

namespace host_gpu {
namespace {

// The smallest group that has both threads.
Group group_of(const Moment& a, const Moment& b) {
  if (a.cluster != b.cluster) return Group::launch;
  if (a.block != b.block) return Group::cluster;
  if (a.warp != b.warp) return Group::block;
  return a.thread == b.thread ? Group::thread : Group::warp;
}

bool has(const void* begin, std::size_t bytes, std::uintptr_t address) {
  return address - reinterpret_cast<std::uintptr_t>(begin) < bytes;
}

Region static_memory(Block& block) {
  const Segment& segment = block.cluster->launch->segment;
  const std::byte* const begin =
      block.cluster->present == &block ? segment.begin : block.memory->parked.data();
  return {"static shared memory",
          reinterpret_cast<std::uintptr_t>(begin),
          segment.bytes,
          block.memory->static_cells.data(),
          &block,
          0};
}

Region dynamic_memory(Block& block) {
  return {"dynamic shared memory",
          reinterpret_cast<std::uintptr_t>(block.memory->dynamic()),
          block.dynamic_bytes,
          block.memory->dynamic_cells.data(),
          &block,
          SharedMemory::margin_slots * sizeof(uint4)};
}

// Returns the memory that has the address, or a region without bytes.
Region region_of(const Thread& thread, std::uintptr_t address) {
  for (const Region& region : {static_memory(*thread.block), dynamic_memory(*thread.block)}) {
    if (region.has(address)) return region;
  }
  for (const Region& region : global_memory()) {
    if (region.has(address)) return region;
  }
  for (Block& other : thread.block->cluster->blocks) {
    if (&other == thread.block) continue;
    for (const Region& region : {static_memory(other), dynamic_memory(other)}) {
      if (region.has(address)) return region;
    }
  }
  return {};
}

// An access that is checked.
struct Checked {
  const Thread& thread;
  std::uintptr_t address;
  std::size_t bytes;
  Access access;
  Copying copying;
  Region region;
  Moment now;
};

[[gnu::format(printf, 2, 3)]] void report_access(const Checked& checked, const char* rule, ...) {
  char text[256];
  std::va_list values;
  va_start(values, rule);
  static_cast<void>(std::vsnprintf(text, sizeof text, rule, values));
  va_end(values);
  const char* const verb = checked.access == Access::read    ? "reads"
                           : checked.access == Access::write ? "writes"
                                                             : "adds to";
  report("thread %u of block %u %s %zu bytes of %s at offset %td, %s", checked.thread.index,
         checked.thread.block->index(), verb, checked.bytes, checked.region.name,
         static_cast<std::ptrdiff_t>(checked.address - checked.region.begin), text);
}

void report_race(const Checked& checked, const Accesses& earlier, const char* verb) {
  if (earlier.group != Group::thread) {
    return report_access(checked, "which other threads have %s, without a barrier in between",
                         verb);
  }
  const Moment& at = earlier.latest;
  const unsigned blocks = checked.thread.block->cluster->launch->cluster_size;
  report_access(checked, "which thread %u of block %u has %s, without a barrier in between",
                unsigned{at.thread}, at.cluster * blocks + at.block, verb);
}

// Forgets what another block has done: shared memory is used by one block after the other.
void forget_others(Accesses& accesses, const Moment& now) {
  if (accesses.latest.launch != now.launch || accesses.latest.cluster != now.cluster) {
    accesses = {};
  }
}

// Checks and updates one cell. Returns false after a fault.
bool check_cell(Cell& cell, const Checked& checked) {
  const bool is_shared = checked.region.owner != nullptr;
  if (is_shared) {
    forget_others(cell.reads, checked.now);
    forget_others(cell.writes, checked.now);
  }
  if (cell.is_outside) {
    report_access(checked, "between rows");
    return false;
  }
  if (checked.copying == Copying::ends) cell.is_copying = false;
  if (cell.is_copying) {
    report_access(checked, "while a copy to it is on its way");
    return false;
  }
  if (checked.copying == Copying::begins) cell.is_copying = true;
  const bool is_written = is_shared ? cell.writes.latest.launch != 0 : cell.is_written;
  if (checked.access != Access::write && !is_written) {
    report_access(checked, "which nothing has written");
    cell.reads.add(checked.now);  // a later write of another thread may be a race with it
    return false;
  }
  const bool are_atomic = checked.access == Access::atomic && cell.writes.is_atomic;
  const bool follows_writes = are_atomic || cell.writes.are_before(checked.now);
  const bool follows_reads = checked.access == Access::read || cell.reads.are_before(checked.now);
  if (!follows_writes) {
    report_race(checked, cell.writes, "written");
  } else if (!follows_reads) {
    report_race(checked, cell.reads, "read");
  }
  if (checked.access == Access::read) {
    cell.reads.add(checked.now);
  } else {
    if (!are_atomic) cell.writes = {};
    cell.writes.add(checked.now);
    cell.writes.is_atomic = checked.access == Access::atomic;
    cell.is_written = true;
  }
  return follows_writes && follows_reads;
}

// Blocks of a cluster may access each other's memory until its owner ends.
void check_owner(const Checked& checked) {
  Block* const owner = checked.region.owner;
  if (owner == nullptr || owner == checked.thread.block) return;
  if (owner->left == 0) report_access(checked, "but block %u has ended", owner->index());
  owner->accessed_by_others = owner->cluster->barrier.passed + 1;
}

bool is_parameter(const Checked& checked) {
  const KernelCall& kernel = checked.thread.block->cluster->launch->kernel;
  return checked.access == Access::read && has(kernel.call, kernel.call_bytes, checked.address);
}

}  // namespace

bool Accesses::are_before(const Moment& now) const {
  if (latest.launch != now.launch) return true;
  if (group == Group::launch || latest.cluster != now.cluster) return false;
  if (latest.cluster_barriers < now.cluster_barriers) return true;
  if (group == Group::cluster || latest.block != now.block) return false;
  if (latest.block_barriers < now.block_barriers) return true;
  if (group == Group::block || latest.warp != now.warp) return false;
  if (latest.warp_barriers < now.warp_barriers) return true;
  return group == Group::thread && latest.thread == now.thread;
}

void Accesses::add(const Moment& now) {
  group = are_before(now) ? Group::thread : std::max(group, group_of(latest, now));
  latest = now;
}

void check_access(const void* address, std::size_t bytes, Access access, bool is_aligned,
                  Copying copying) {
  const Thread* const thread = running;
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  if (thread == nullptr || thread->fiber->owns(at)) return;
  Checked checked{*thread, at, bytes, access, copying, {}, thread->now()};
  if (is_parameter(checked)) return;
  checked.region = region_of(*thread, at);
  if (checked.region.name == nullptr) {
    checked.region.name = "the program's memory";
    report_access(checked, "which is not the device's");
    return stop_launch();
  }
  if (is_aligned && at % bytes != 0) return report_access(checked, "which is not aligned");
  const std::size_t offset = at - checked.region.begin;  // large before the beginning
  if (offset >= checked.region.bytes || bytes > checked.region.bytes - offset) {
    return report_access(checked, "outside its %zu bytes", checked.region.bytes);
  }
  check_owner(checked);
  const std::size_t last = (offset + bytes - 1) / cell_bytes;
  for (std::size_t cell = offset / cell_bytes; cell <= last; ++cell) {
    if (!check_cell(checked.region.cells[cell], checked)) return;
  }
}

void report(const char* format, ...) {
  constexpr std::size_t most_per_launch = 10;
  Machine& own = machine();
  if (own.faults.size() >= own.faults_before + most_per_launch) return;
  char text[512];
  std::va_list values;
  va_start(values, format);
  static_cast<void>(std::vsnprintf(text, sizeof text, format, values));
  va_end(values);
  own.faults.emplace_back(text);
}

std::vector<Region>& global_memory() {
  static thread_local std::vector<Region> regions;
  return regions;
}

namespace {

constexpr std::size_t margin = 256;  // also the alignment

Region& region_at(const std::byte* begin) {
  const auto is_own = [&](const Region& region) {
    return region.begin == reinterpret_cast<std::uintptr_t>(begin);
  };
  auto& regions = global_memory();
  return *std::find_if(regions.begin(), regions.end(), is_own);
}

}  // namespace

DeviceMemory::DeviceMemory(const char* name, std::size_t bytes, std::size_t offset)
    : bytes_(bytes), offset_(offset) {
  void* const memory = ::operator new(margin + offset + bytes + margin, std::align_val_t{margin});
  data_ = static_cast<std::byte*>(memory) + margin + offset;
  global_memory().push_back({name, reinterpret_cast<std::uintptr_t>(data_), bytes,
                             new Cell[bytes / cell_bytes + 1], nullptr, margin});
}

DeviceMemory::~DeviceMemory() {
  Region& own = region_at(data_);
  delete[] own.cells;
  own = global_memory().back();
  global_memory().pop_back();
  ::operator delete(data_ - offset_ - margin, std::align_val_t{margin});
}

void DeviceMemory::mark_written() {
  Cell* const cells = region_at(data_).cells;
  for (std::size_t i = 0; i <= bytes_ / cell_bytes; ++i) cells[i].is_written = true;
}

void DeviceMemory::exclude(std::size_t offset, std::size_t bytes) {
  Cell* const cells = region_at(data_).cells;
  for (std::size_t i = 0; i < bytes; i += cell_bytes) {
    cells[(offset + i) / cell_bytes].is_outside = true;
  }
}

}  // namespace host_gpu

// What a CUDA thread can do: ask where it is, wait for others, exchange values, copy.
#include <cooperative_groups.h>

#include <algorithm>
#include <cstring>

#include "kernels/cuda/ptx.cuh"
#include "machine.hpp"

namespace host_gpu {
namespace {

constexpr unsigned whole_warp = 0xFFFFFFFFU;

// Adds the running thread to a barrier. Returns whether it is the last.
bool join(Barrier& barrier, std::size_t threads) {
  barrier.waiting.push_back(running);
  return barrier.waiting.size() == threads;
}

// All threads have met: all may go on, in any order.
void open(Barrier& barrier) {
  ++barrier.passed;
  for (Thread* const thread : barrier.waiting) thread->block->ready.push_back(thread);
  barrier.waiting.clear();
}

void pause() { running->fiber->pause(); }

// Waits for all lanes of the warp. Returns what each has given.
const std::array<std::uint64_t, warp_lanes>& meet(const char* operation, unsigned mask,
                                                  std::uint64_t own, bool synchronizes = false) {
  Thread& self = *running;
  Warp& warp = self.warp();
  const unsigned warp_begin = self.index - self.lane();
  if (mask != whole_warp || warp_begin + warp_lanes > self.block->threads.size()) {
    report("%s of a part of a warp, which the tests do not model", operation);
  }
  if (warp.barrier.waiting.empty()) warp.operation = operation;
  if (std::strcmp(warp.operation, operation) != 0) {
    report("lanes of warp %u meet in %s and in %s", self.index / warp_lanes, warp.operation,
           operation);
  }
  auto& values = warp.values[warp.barrier.passed % 2];
  values[self.lane()] = own;
  const std::size_t lanes =
      std::min<std::size_t>(warp_lanes, self.block->threads.size() - warp_begin);
  if (join(warp.barrier, lanes)) {
    if (synchronizes) ++warp.synchronized;
    open(warp.barrier);
  }
  pause();
  return values;
}

void finish_copy(const Copy& copy) {
  check_access(copy.from, sizeof *copy.from, Access::read, true, Copying::unchanged);
  check_access(copy.to, sizeof *copy.to, Access::write, true, Copying::ends);
  std::memcpy(copy.to, copy.from, sizeof *copy.to);
}

}  // namespace

unsigned thread_index() { return running->index; }
unsigned block_index() { return running->block->index(); }
unsigned block_size() { return static_cast<unsigned>(running->block->threads.size()); }
unsigned lane_index() { return running->lane(); }

void synchronize_block() {
  Block& block = *running->block;
  if (join(block.barrier, block.threads.size())) open(block.barrier);
  pause();
}

void synchronize_warp(unsigned mask) { meet("__syncwarp", mask, 0, true); }

std::uint64_t shuffle(unsigned mask, std::uint64_t own, int from_lane) {
  return meet("a shuffle", mask, own)[static_cast<unsigned>(from_lane) % warp_lanes];
}

unsigned ballot(unsigned mask, bool own) {
  const auto& values = meet("a ballot", mask, own ? 1 : 0);
  unsigned all = 0;
  for (unsigned lane = 0; lane < warp_lanes; ++lane) {
    all |= static_cast<unsigned>(values[lane]) << lane;
  }
  return all;
}

int largest_of_warp(unsigned mask, int own) {
  const auto& values = meet("a maximum", mask, static_cast<unsigned>(own));
  int largest = own;
  for (const std::uint64_t value : values) {
    largest = std::max(largest, static_cast<int>(static_cast<unsigned>(value)));
  }
  return largest;
}

unsigned add_atomically(unsigned* word, unsigned value) {
  check_access(word, sizeof *word, Access::atomic, true);
  const unsigned old = *word;
  *word = old + value;
  return old;
}

unsigned cluster_size() { return running->block->cluster->launch->cluster_size; }
unsigned rank_in_cluster() { return running->block->rank; }

void synchronize_cluster() {
  Cluster& cluster = *running->block->cluster;
  if (join(cluster.barrier, cluster.blocks.size() * running->block->threads.size())) {
    open(cluster.barrier);
  }
  pause();
}

void* in_block(void* own, unsigned rank) {
  const Block& self = *running->block;
  const auto address = static_cast<std::byte*>(own);
  if (rank >= self.cluster->blocks.size()) {
    report("shared memory of block %u of a cluster of %zu", rank, self.cluster->blocks.size());
    return own;
  }
  const Block& other = self.cluster->blocks[rank];
  if (&other == &self) return own;
  const Segment& segment = self.cluster->launch->segment;
  if (address >= segment.begin && address < segment.begin + segment.bytes) {
    return other.memory->parked.data() + (address - segment.begin);
  }
  auto* const from = reinterpret_cast<std::byte*>(self.memory->dynamic());
  auto* const to = reinterpret_cast<std::byte*>(other.memory->dynamic());
  return to + (address - from);
}

uint4* dynamic_shared_memory() { return running->block->memory->dynamic(); }

void start_copy(uint4* shared, const uint4* global) {
  check_access(global, sizeof *global, Access::read, true);
  check_access(shared, sizeof *shared, Access::write, true, Copying::begins);
  running->open_copies.push_back({shared, global});
}

void close_copy_group() {
  Thread& self = *running;
  self.copy_groups.push_back(std::move(self.open_copies));
  self.open_copies.clear();
}

void wait_for_copy_groups(int pending) {
  auto& groups = running->copy_groups;
  while (groups.size() > static_cast<std::size_t>(pending)) {
    for (const Copy& copy : groups.front()) finish_copy(copy);
    groups.erase(groups.begin());
  }
}

void store_16_bytes(uint4* global, const uint4& value) {
  check_access(global, sizeof *global, Access::write, true);
  std::memcpy(global, &value, sizeof value);
}

}  // namespace host_gpu

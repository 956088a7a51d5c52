// Runs the threads of a cluster until all have ended, in an order that looks random: a thread that
// can go on is drawn, and runs until it waits or ends.
#include <algorithm>

#include "machine.hpp"

namespace host_gpu {
namespace {

// Exchanges the static shared memory of the block that ran last for that of `block`.
void bring(Cluster& cluster, Block& block) {
  if (cluster.present == &block) return;
  const Segment& segment = cluster.launch->segment;
  if (cluster.present != nullptr) {
    std::copy_n(segment.begin, segment.bytes, cluster.present->memory->parked.begin());
  }
  std::copy_n(block.memory->parked.begin(), segment.bytes, segment.begin);
  cluster.present = &block;
}

// Returns a block with a thread that can go on, or null.
Block* draw_block(Cluster& cluster) {
  const std::size_t count = cluster.blocks.size(), first = machine().below(count);
  for (std::size_t i = 0; i < count; ++i) {
    Block& block = cluster.blocks[(first + i) % count];
    if (!block.ready.empty()) return &block;
  }
  return nullptr;
}

Thread& draw_thread(Block& block) {
  std::swap(block.ready[machine().below(block.ready.size())], block.ready.back());
  Thread& thread = *block.ready.back();
  block.ready.pop_back();
  return thread;
}

void end_thread(Block& block) {
  if (--block.left > 0) return;
  if (block.accessed_by_others > block.cluster->barrier.passed) {
    report("block %u ends while others may still access its shared memory", block.index());
  }
}

// Runs threads of a block while there are any, or for a while if there are other blocks.
void run_block(Block& block) {
  constexpr std::size_t mean_turn = 1000;
  const bool is_alone = block.cluster->blocks.size() == 1;
  do {
    Thread& thread = draw_thread(block);
    running = &thread;
    const bool has_ended = thread.fiber->resume();
    running = nullptr;
    if (machine().is_stopped) return;
    if (has_ended) end_thread(block);
  } while (!block.ready.empty() && (is_alone || machine().below(mean_turn) != 0));
}

void report_deadlock(const Cluster& cluster) {
  for (const Block& block : cluster.blocks) {
    if (block.left == 0) continue;
    report("deadlock: %u of the %zu threads of block %u wait for threads that never come",
           block.left, block.threads.size(), block.index());
  }
}

}  // namespace

void stop_launch() {
  machine().is_stopped = true;
  running->fiber->pause();
}

bool run_cluster(Cluster& cluster) {
  while (Block* const block = draw_block(cluster)) {
    bring(cluster, *block);
    run_block(*block);
    if (machine().is_stopped) return false;
  }
  const bool has_ended = std::all_of(cluster.blocks.begin(), cluster.blocks.end(),
                                     [](const Block& block) { return block.left == 0; });
  if (!has_ended) report_deadlock(cluster);
  return has_ended;
}

}  // namespace host_gpu

// Checks of a kernel's accesses to memory: bounds, alignment, memory that nobody has written,
// copies that are still on their way, and races.
//
// Two accesses of different threads to the same bytes, of which one writes, are a race unless a
// barrier of both separates them. This depends on the program only, not on the order in which the
// fibers happen to run. Shuffles and ballots are no barriers: CUDA does not promise that they order
// memory.
#ifndef NANOCHAT_TESTS_MEMORY_HPP_
#define NANOCHAT_TESTS_MEMORY_HPP_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace host_gpu {

struct Block;

// A thread and the number of barriers that it has passed.
struct Moment {
  std::uint32_t launch = 0;  // counts from 1
  std::uint32_t cluster = 0;
  std::uint16_t block = 0, warp = 0, thread = 0;  // the block's rank in the cluster
  std::uint32_t cluster_barriers = 0, block_barriers = 0, warp_barriers = 0;
};

// The smallest group of threads that has made some accesses.
enum class Group : std::uint8_t { thread, warp, block, cluster, launch };

// Accesses of a kind that no barrier separates.
struct Accesses {
  Moment latest;
  Group group = Group::thread;
  bool is_atomic = false;

  // Whether barriers order all of them before `now`.
  bool are_before(const Moment& now) const;
  // Adds an access; forgets those that are before it.
  void add(const Moment& now);
};

// What is known of two bytes, the smallest element of the kernels.
inline constexpr std::size_t cell_bytes = 2;
struct Cell {
  Accesses reads, writes;
  bool is_written = false;  // by the host or a kernel; not used in shared memory
  bool is_copying = false;  // a cp.async to it has not been waited for
  bool is_outside = false;  // between the rows of a matrix
};

// A piece of memory. Nobody owns global memory. margin: bytes before and after it that are not used
// otherwise; an access to them is a fault.
struct Region {
  const char* name;
  std::uintptr_t begin;
  std::size_t bytes;
  Cell* cells;
  Block* owner;
  std::size_t margin;

  bool has(std::uintptr_t address) const { return address - (begin - margin) < bytes + 2 * margin; }
};

enum class Access : std::uint8_t { read, write, atomic };
enum class Copying : std::uint8_t { unchanged, begins, ends };

// Checks an access of the running thread; does nothing if none runs. is_aligned: the address must
// be a multiple of the size.
void check_access(const void* address, std::size_t bytes, Access access, bool is_aligned,
                  Copying copying = Copying::unchanged);

// Reports a fault of the running thread's launch; the arguments are those of printf.
[[gnu::format(printf, 1, 2)]] void report(const char* format, ...);

// The global memory of this thread of the program.
std::vector<Region>& global_memory();

}  // namespace host_gpu

#endif  // NANOCHAT_TESTS_MEMORY_HPP_

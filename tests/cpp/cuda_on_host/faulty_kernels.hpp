// Small kernels, each with a fault that a flag mends: tests of the tests. result: one element per
// thread of the grid.
#ifndef NANOCHAT_TESTS_FAULTY_KERNELS_HPP_
#define NANOCHAT_TESTS_FAULTY_KERNELS_HPP_

#include <cuda_runtime.h>

#include <cstdint>

#pragma GCC visibility push(default)
namespace faulty {

// Each thread writes an element of shared memory and reads the next one.
cudaError_t neighbors(bool has_barrier, int threads, std::int32_t* result);
// The same in one warp; between writing and reading is a shuffle or a __syncwarp.
cudaError_t lanes(bool has_barrier, std::int32_t* result);
// Each thread copies two slots of `from` in two groups by cp.async, and waits until at most
// `pending` groups are on their way.
cudaError_t copies(int pending, const uint4* from, int threads, uint4* result);
// Thread 0 leaves the barrier out.
cudaError_t missed_barrier(bool has_all, int threads, std::int32_t* result);
// Half of a warp's lanes vote while the others shuffle.
cudaError_t meeting(bool is_one, std::int32_t* result);
// Reads static and dynamic shared memory.
cudaError_t unwritten(bool is_written, int threads, std::int32_t* result);
// Writes element thread + distance.
cudaError_t shifted(int distance, int threads, std::int32_t* result);
// Stores 16 bytes.
cudaError_t stored(std::int32_t* to);
// Each block reads the rank of the next block of its cluster in that block's shared memory.
cudaError_t ranks(bool has_first, bool has_last, unsigned blocks, int threads,
                  std::int32_t* result);
// All blocks write the same element.
cudaError_t counted(bool is_atomic, unsigned blocks, std::uint32_t* count);
// Copies elements.
cudaError_t copied(const std::int32_t* from, int threads, std::int32_t* result);
// Takes dynamic shared memory.
cudaError_t sized(std::size_t bytes, std::int32_t* result);
cudaError_t allow(int bytes);
int allowed();

}  // namespace faulty
#pragma GCC visibility pop

#endif  // NANOCHAT_TESTS_FAULTY_KERNELS_HPP_

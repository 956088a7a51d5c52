// A block's share of a row, held in its shared memory between the sum and the gradient.
#ifndef NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_CUH_
#define NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_CUH_

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/row.cuh"

namespace nanochat::kernels {

inline constexpr int most_threads = 512;
inline constexpr int most_warps = most_threads / warp_lanes;
// Parts of a share whose loads are waited for one after another: the sum of one is taken while the
// later ones are on their way.
inline constexpr int stages = 4;

// Slots first … last − 1 of a row at held[0] …; each thread sees only the slots that it copies.
template <class S, bool is_plain>
class HeldShare {
 public:
  __device__ HeldShare(const Row<S, is_plain>& row, std::int32_t first, std::int32_t last,
                       uint4* held)
      : row_(row),
        begin_(first),
        first_(first + static_cast<std::int32_t>(threadIdx.x)),
        last_(last),
        held_(held),
        turns_((last - first + stages * threads() - 1) / (stages * threads())) {}

  __device__ RowSums sums() const {
    for (int stage = 0; stage < stages; ++stage) {
      each(stage, [&](std::int32_t slot) { copy(slot); });
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
    RowSums result{empty_sum(), 0.0f};
    asm volatile("cp.async.wait_group 3;" ::: "memory");
    add(0, result);
    asm volatile("cp.async.wait_group 2;" ::: "memory");
    add(1, result);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    add(2, result);
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    add(3, result);
    return result;
  }

  __device__ void differentiate(const RowSlopes& slopes) const {
    const Slots<S> gradient = row_.gradient();
#pragma unroll 2
    for (std::int32_t slot = first_; slot < last_; slot += threads()) {
      gradient.store(slot, row_.differentiate(place(slot), slot, slopes));
    }
  }

 private:
  __device__ static std::int32_t threads() { return static_cast<std::int32_t>(blockDim.x); }

  __device__ uint4& place(std::int32_t slot) const { return held_[slot - begin_]; }

  template <class Body>
  __device__ void each(int stage, const Body& body) const {
    const std::int32_t begin = first_ + stage * turns_ * threads();
    for (std::int32_t turn = 0; turn < turns_; ++turn) {
      const std::int32_t slot = begin + turn * threads();
      if (slot < last_) body(slot);
    }
  }

  __device__ void copy(std::int32_t slot) const {
    const Slots<S>& slots = row_.slots();
    if (slots.is_whole(slot)) {
      const auto to = static_cast<unsigned>(__cvta_generic_to_shared(&place(slot)));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(slots.at(slot))
                   : "memory");
    } else {
      place(slot) = slots.load_elements(slot);
    }
  }

  __device__ void add(int stage, RowSums& sums) const {
    each(stage, [&](std::int32_t slot) { row_.add(sums, place(slot), slot); });
  }

  const Row<S, is_plain>& row_;
  std::int32_t begin_, first_, last_;  // of the share, of this thread, past the share
  uint4* held_;
  std::int32_t turns_;
};

// Of a row at its worst place in memory.
inline std::int64_t most_slots(std::int64_t vocab, std::int32_t dtype) {
  const std::int64_t elements = slot_bytes / element_bytes(dtype);
  return (vocab + elements - 2) / elements + 1;
}

// Threads that have a few slots each.
inline int threads_for(std::int64_t slots) {
  return slots <= 1024 ? 128 : slots <= 3072 ? 256 : 512;
}

// The largest dynamic shared memory of a block beside the kernels' own.
inline std::int64_t most_shared() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 1024;
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_CUH_

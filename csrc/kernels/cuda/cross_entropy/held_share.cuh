// A block's share of a row, held in shared memory between the sum and the gradient.
#ifndef NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_SHARE_CUH_
#define NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_SHARE_CUH_

#include "kernels/cuda/cross_entropy/row.cuh"
#include "kernels/cuda/ptx.cuh"

namespace nanochat::kernels {

inline constexpr int most_threads = 512;
inline constexpr int most_warps = most_threads / warp_lanes;

// Slots first … last − 1 of a row, at held[0] …. Each thread reads only the slots that it copied,
// so the threads need no barrier.
template <class S, bool is_plain>
class HeldShare {
 public:
  __device__ HeldShare(const LossRow<S, is_plain>& row, std::int32_t first, std::int32_t last,
                       uint4* held)
      : row_(row),
        begin_(first),
        first_(first + static_cast<std::int32_t>(threadIdx.x)),
        last_(last),
        held_(held),
        turns_((last - first + stages * threads() - 1) / (stages * threads())) {}

  // The share is copied in four stages: a stage is summed while the later ones are on their way.
  __device__ RowSums sums() const {
    for (int stage = 0; stage < stages; ++stage) {
      for_slots(stage, [&](std::int32_t slot) { copy(slot); });
      commit_copies();
    }
    RowSums result{empty_sum(), 0.0f};
    wait_for_copies<3>();
    add(0, result);
    wait_for_copies<2>();
    add(1, result);
    wait_for_copies<1>();
    add(2, result);
    wait_for_copies<0>();
    add(3, result);
    return result;
  }

  __device__ void differentiate(const RowSlopes& slopes) const {
    const Slots<S> gradient = row_.gradient();
#pragma unroll 2
    for (std::int32_t slot = first_; slot < last_; slot += threads()) {
      gradient.store(slot, row_.differentiate(held(slot), slot, slopes));
    }
  }

 private:
  static constexpr int stages = 4;

  __device__ static std::int32_t threads() { return static_cast<std::int32_t>(blockDim.x); }

  __device__ uint4& held(std::int32_t slot) const { return held_[slot - begin_]; }

  // Calls body(slot) for the thread's slots of a stage.
  template <class Body>
  __device__ void for_slots(int stage, const Body& body) const {
    const std::int32_t begin = first_ + stage * turns_ * threads();
    for (std::int32_t turn = 0; turn < turns_; ++turn) {
      const std::int32_t slot = begin + turn * threads();
      if (slot < last_) body(slot);
    }
  }

  __device__ void copy(std::int32_t slot) const {
    const Slots<S>& slots = row_.slots();
    if (slots.is_whole(slot)) {
      copy_async(&held(slot), slots.at(slot));
    } else {
      held(slot) = slots.load_elements(slot);
    }
  }

  __device__ void add(int stage, RowSums& sums) const {
    for_slots(stage, [&](std::int32_t slot) { row_.add(sums, held(slot), slot); });
  }

  const LossRow<S, is_plain>& row_;
  std::int32_t begin_;  // the first slot of the share
  std::int32_t first_;  // the first slot of this thread
  std::int32_t last_;   // the slot after the share
  uint4* held_;
  std::int32_t turns_;  // slots of a thread in each stage
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_HELD_SHARE_CUH_

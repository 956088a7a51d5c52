// A row as 16-byte slots of memory. It may share its first and last slot with its neighbors: those
// are read and written element by element, the others at once.
#ifndef NANOCHAT_KERNELS_CUDA_SLOTS_CUH_
#define NANOCHAT_KERNELS_CUDA_SLOTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/nck.h"

namespace nanochat::kernels {

inline constexpr int slot_bytes = 16;

// Element types. is_fast: the approximate exponential is accurate enough.
struct Float32 {
  using Bits = std::uint32_t;
  static constexpr bool is_fast = false;
  static __device__ float to_float(Bits bits) { return __uint_as_float(bits); }
  static __device__ Bits from_float(float x) { return __float_as_uint(x); }
};

struct BFloat16 {
  using Bits = std::uint16_t;
  static constexpr bool is_fast = true;
  static __device__ float to_float(Bits bits) {
    return __uint_as_float(static_cast<std::uint32_t>(bits) << 16U);
  }
  static __device__ Bits from_float(float x) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  }
};

struct Float16 {
  using Bits = std::uint16_t;
  static constexpr bool is_fast = true;
  static __device__ float to_float(Bits bits) { return __half2float(__ushort_as_half(bits)); }
  static __device__ Bits from_float(float x) { return __half_as_ushort(__float2half_rn(x)); }
};

template <class S>
inline constexpr int slot_elements = slot_bytes / static_cast<int>(sizeof(typename S::Bits));

inline __device__ std::uint32_t word_of(const uint4& slot, int i) {
  return i == 0 ? slot.x : i == 1 ? slot.y : i == 2 ? slot.z : slot.w;
}

inline __device__ void set_word(uint4& slot, int i, std::uint32_t word) {
  (i == 0 ? slot.x : i == 1 ? slot.y : i == 2 ? slot.z : slot.w) = word;
}

// The loops here and below are unrolled, so every index of a register is a constant.
template <class S>
__device__ inline void unpack(const uint4& slot, float (&z)[slot_elements<S>]) {
#pragma unroll
  for (int i = 0; i < slot_elements<S>; ++i) {
    if constexpr (sizeof(typename S::Bits) == 4) {
      z[i] = S::to_float(word_of(slot, i));
    } else {
      const std::uint32_t word = word_of(slot, i / 2) >> (i % 2 * 16);
      z[i] = S::to_float(static_cast<std::uint16_t>(word & 0xFFFFU));
    }
  }
}

template <class S>
__device__ inline uint4 packed(const float (&z)[slot_elements<S>]) {
  uint4 slot;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(typename S::Bits) == 4) {
      set_word(slot, i, S::from_float(z[i]));
    } else {
      const std::uint32_t high = S::from_float(z[2 * i + 1]);
      set_word(slot, i, high << 16U | S::from_float(z[2 * i]));
    }
  }
  return slot;
}

// A row whose slots begin `phase` elements before it.
template <class S>
class Slots {
  using Bits = typename S::Bits;

 public:
  static constexpr int elements = slot_elements<S>;

  __device__ Slots(const void* row, std::int32_t vocab)
      : Slots(row, vocab,
              static_cast<int>(reinterpret_cast<std::uintptr_t>(row) % slot_bytes / sizeof(Bits))) {
  }
  // Takes the phase of another row: a slot then has the same elements in both.
  __device__ Slots(const void* row, std::int32_t vocab, int phase)
      : row_(static_cast<const Bits*>(row)),
        vocab_(vocab),
        phase_(phase),
        is_aligned_(reinterpret_cast<std::uintptr_t>(row) % slot_bytes ==
                    static_cast<unsigned>(phase) * sizeof(Bits)) {}

  __device__ int phase() const { return phase_; }
  __device__ std::int32_t count() const { return (phase_ + vocab_ + elements - 1) / elements; }
  // The index of a slot's first element; negative in a first slot that is shared.
  __device__ std::int32_t index(std::int32_t slot) const { return slot * elements - phase_; }
  // Whether all elements of a slot belong to the row and are aligned as one piece.
  __device__ bool is_whole(std::int32_t slot) const { return is_aligned_ && is_inside(slot); }
  __device__ bool is_inside(std::int32_t slot) const {
    return index(slot) >= 0 && index(slot) + elements <= vocab_;
  }
  __device__ const uint4* at(std::int32_t slot) const {
    return reinterpret_cast<const uint4*>(row_ + index(slot));
  }

  // Elements outside the row read as 0.
  __device__ uint4 load(std::int32_t slot) const {
    return is_whole(slot) ? *at(slot) : load_elements(slot);
  }

  __device__ uint4 load_elements(std::int32_t slot) const {
    uint4 result{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < elements; ++i) {
      const std::int32_t j = index(slot) + i;
      const std::uint32_t bits = j >= 0 && j < vocab_ ? row_[j] : Bits{0};
      constexpr int per_word = 4 / static_cast<int>(sizeof(Bits));
      const std::uint32_t shifted = bits << (i % per_word * 16);
      set_word(result, i / per_word, word_of(result, i / per_word) | shifted);
    }
    return result;
  }

  __device__ void store(std::int32_t slot, const uint4& value) const {
    if (is_whole(slot)) {
      store_16_bytes(const_cast<uint4*>(at(slot)), value);
      return;
    }
    Bits* const to = const_cast<Bits*>(row_);
#pragma unroll
    for (int i = 0; i < elements; ++i) {
      const std::int32_t j = index(slot) + i;
      constexpr int per_word = 4 / static_cast<int>(sizeof(Bits));
      const std::uint32_t bits = word_of(value, i / per_word) >> (i % per_word * 16);
      if (j >= 0 && j < vocab_) to[j] = static_cast<Bits>(bits);
    }
  }

 private:
  const Bits* row_;
  std::int32_t vocab_;
  int phase_;
  bool is_aligned_;
};

// Calls body with the storage type of a dtype that check_cuda_sizes accepted.
template <class Body>
void with_storage(std::int32_t dtype, const Body& body) {
  if (dtype == NCK_FLOAT32) {
    body(Float32{});
  } else if (dtype == NCK_BFLOAT16) {
    body(BFloat16{});
  } else {
    body(Float16{});
  }
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_SLOTS_CUH_

// A row as 16-byte slots of memory, the first and the last of which it may share with its
// neighbours: whole slots are read and written at once, shared ones element by element.
#ifndef NANOCHAT_KERNELS_CUDA_SLOTS_CUH_
#define NANOCHAT_KERNELS_CUDA_SLOTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace nanochat::kernels {

inline constexpr int slot_bytes = 16;

struct Float32 {
  using Bits = std::uint32_t;
  static constexpr bool is_fast = false;
  static __device__ float number(Bits bits) { return __uint_as_float(bits); }
  static __device__ Bits bits(float x) { return __float_as_uint(x); }
};

struct BFloat16 {
  using Bits = std::uint16_t;
  static constexpr bool is_fast = true;
  static __device__ float number(Bits bits) {
    return __uint_as_float(static_cast<std::uint32_t>(bits) << 16U);
  }
  static __device__ Bits bits(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
};

struct Float16 {
  using Bits = std::uint16_t;
  static constexpr bool is_fast = true;
  static __device__ float number(Bits bits) { return __half2float(__ushort_as_half(bits)); }
  static __device__ Bits bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
};

template <class S>
inline constexpr int slot_elements = slot_bytes / static_cast<int>(sizeof(typename S::Bits));

inline __device__ std::uint32_t word_of(const uint4& slot, int i) {
  return i == 0 ? slot.x : i == 1 ? slot.y : i == 2 ? slot.z : slot.w;
}

inline __device__ void set_word(uint4& slot, int i, std::uint32_t word) {
  (i == 0 ? slot.x : i == 1 ? slot.y : i == 2 ? slot.z : slot.w) = word;
}

// All indices of registers are constants once the loops are unrolled; so they are below.
template <class S>
__device__ inline void unpack(const uint4& slot, float (&z)[slot_elements<S>]) {
#pragma unroll
  for (int i = 0; i < slot_elements<S>; ++i) {
    if constexpr (sizeof(typename S::Bits) == 4) {
      z[i] = S::number(word_of(slot, i));
    } else {
      const std::uint32_t word = word_of(slot, i / 2) >> (i % 2 * 16);
      z[i] = S::number(static_cast<std::uint16_t>(word & 0xFFFFU));
    }
  }
}

template <class S>
__device__ inline uint4 packed(const float (&z)[slot_elements<S>]) {
  uint4 slot;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(typename S::Bits) == 4) {
      set_word(slot, i, S::bits(z[i]));
    } else {
      const std::uint32_t high = S::bits(z[2 * i + 1]);
      set_word(slot, i, high << 16U | S::bits(z[2 * i]));
    }
  }
  return slot;
}

// Not an assignment, which the compiler takes apart into four stores of a word.
inline __device__ void store_whole(uint4* to, const uint4& value) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
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
  // With another row's slots, so that one index means the same elements in both.
  __device__ Slots(const void* row, std::int32_t vocab, int phase)
      : row_(static_cast<const Bits*>(row)),
        vocab_(vocab),
        phase_(phase),
        is_aligned_(reinterpret_cast<std::uintptr_t>(row) % slot_bytes ==
                    static_cast<unsigned>(phase) * sizeof(Bits)) {}

  __device__ int phase() const { return phase_; }
  __device__ std::int32_t count() const { return (phase_ + vocab_ + elements - 1) / elements; }
  // Of a slot's first element; below 0 in a first slot that is shared.
  __device__ std::int32_t index(std::int32_t slot) const { return slot * elements - phase_; }
  // Whether all its elements are the row's and lie in one aligned piece of memory.
  __device__ bool is_whole(std::int32_t slot) const { return is_aligned_ && is_inside(slot); }
  __device__ bool is_inside(std::int32_t slot) const {
    return index(slot) >= 0 && index(slot) + elements <= vocab_;
  }
  __device__ const uint4* at(std::int32_t slot) const {
    return reinterpret_cast<const uint4*>(row_ + index(slot));
  }

  // Elements outside the row are 0.
  __device__ uint4 load(std::int32_t slot) const {
    return is_whole(slot) ? *at(slot) : load_elements(slot);
  }

  __device__ uint4 load_elements(std::int32_t slot) const {
    uint4 result{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < elements; ++i) {
      const std::int32_t j = index(slot) + i;
      const std::uint32_t bits = j >= 0 && j < vocab_ ? row_[j] : Bits{0};
      constexpr int a_word = 4 / static_cast<int>(sizeof(Bits));
      const std::uint32_t placed = bits << (i % a_word * 16);
      set_word(result, i / a_word, word_of(result, i / a_word) | placed);
    }
    return result;
  }

  __device__ void store(std::int32_t slot, const uint4& value) const {
    if (is_whole(slot)) {
      store_whole(const_cast<uint4*>(at(slot)), value);
      return;
    }
    Bits* const to = const_cast<Bits*>(row_);
#pragma unroll
    for (int i = 0; i < elements; ++i) {
      const std::int32_t j = index(slot) + i;
      constexpr int a_word = 4 / static_cast<int>(sizeof(Bits));
      const std::uint32_t bits = word_of(value, i / a_word) >> (i % a_word * 16);
      if (j >= 0 && j < vocab_) to[j] = static_cast<Bits>(bits);
    }
  }

 private:
  const Bits* row_;
  std::int32_t vocab_;
  int phase_;
  bool is_aligned_;
};

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_SLOTS_CUH_

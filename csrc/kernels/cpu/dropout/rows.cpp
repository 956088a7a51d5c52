// Draws masks by Philox4x32-10, eight blocks at a time, and applies them to rows.
#include "kernels/cpu/dropout/dropout.hpp"
#include "kernels/cpu/dropout/mask.hpp"
#include "simd/lanes.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

using namespace simd::NCLAB_SIMD;

constexpr std::uint32_t dropout_stream = 5;  // Stream.DROPOUT of philox.py
constexpr std::uint64_t low_half = 0xffffffffU;

// One Philox word of several blocks, in the low halves of 64-bit lanes. The high halves may hold
// anything: only the low halves enter products.
#if NCLAB_SIMD_BYTES == 64
using Lanes = Vector<std::uint64_t, 8>;
inline Lanes product(Lanes a, std::uint64_t b) noexcept {
  return (Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64((std::int64_t)b));
}
#elif NCLAB_SIMD_BYTES == 32
using Lanes = Vector<std::uint64_t, 4>;
inline Lanes product(Lanes a, std::uint64_t b) noexcept {
  return (Lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x((std::int64_t)b));
}
#else
using Lanes = std::uint64_t;
inline Lanes product(Lanes a, std::uint64_t b) noexcept { return (a & low_half) * b; }
#endif

struct Words {
  Lanes a, b, c, d;
};

inline Words philox(Words w, std::uint32_t key0, std::uint32_t key1) noexcept {
  for (int round = 0; round < 10; ++round) {
    const Lanes p0 = product(w.a, 0xD2511F53U), p1 = product(w.c, 0xCD9E8D57U);
    w = {(p1 >> 32U) ^ w.b ^ std::uint64_t{key0}, p1, (p0 >> 32U) ^ w.d ^ std::uint64_t{key1}, p0};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return w;
}

struct Drawn {
  std::uint32_t place, microbatch, step, seed, most;

  Words words(Lanes block) const noexcept {
    const Lanes zero = block ^ block;
    return philox({block, zero + place, zero + microbatch, zero + step}, seed, dropout_stream);
  }
};

// Returns the decisions of blocks first … first + 7, one byte per block. `first` is a multiple of 8
// and the block numbers fit in 32 bits.
#if NCLAB_SIMD_BYTES == 64
inline std::uint64_t eight_blocks(const Drawn& drawn, std::uint64_t first) noexcept {
  // In this order of lanes, the interleaved pairs below come out in the order of the blocks.
  constexpr Lanes order = {0, 4, 1, 5, 2, 6, 3, 7};
  const Words w = drawn.words(order + first);
  const __m512i one = (__m512i)((w.a & low_half) | w.b << 32U);
  const __m512i two = (__m512i)((w.c & low_half) | w.d << 32U);
  const __m512i most = _mm512_set1_epi16(static_cast<std::int16_t>(drawn.most));
  const std::uint64_t low =
      _mm512_cmple_epu16_mask(_mm512_maskz_unpacklo_epi64(0xff, one, two), most);
  const std::uint64_t high =
      _mm512_cmple_epu16_mask(_mm512_maskz_unpackhi_epi64(0xff, one, two), most);
  return low | high << 32U;
}
#elif NCLAB_SIMD_BYTES == 32
inline std::uint64_t four_blocks(const Drawn& drawn, std::uint64_t first) noexcept {
  constexpr Lanes order = {0, 1, 2, 3};
  const Words w = drawn.words(order + first);
  const __m256i one = (__m256i)((w.a & low_half) | w.b << 32U);
  const __m256i two = (__m256i)((w.c & low_half) | w.d << 32U);
  const __m256i most = _mm256_set1_epi16(static_cast<std::int16_t>(drawn.most));
  const auto kept = [&](__m256i halves) {
    return _mm256_cmpeq_epi16(_mm256_subs_epu16(halves, most), _mm256_setzero_si256());
  };
  const __m256i bytes = _mm256_packs_epi16(kept(_mm256_unpacklo_epi64(one, two)),
                                           kept(_mm256_unpackhi_epi64(one, two)));
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
}
inline std::uint64_t eight_blocks(const Drawn& drawn, std::uint64_t first) noexcept {
  return four_blocks(drawn, first) | four_blocks(drawn, first + 4) << 32U;
}
#else
inline std::uint64_t eight_blocks(const Drawn& drawn, std::uint64_t first) noexcept {
  std::uint64_t bits = 0;
  for (unsigned block = 0; block < 8; ++block) {
    const Words w = drawn.words(first + block);
    const std::uint64_t words[4] = {w.a, w.b, w.c, w.d};
    for (unsigned half = 0; half < 8; ++half) {
      const std::uint64_t number = words[half / 2] >> 16U * (half % 2) & 0xffffU;
      bits |= std::uint64_t{number <= drawn.most} << (8 * block + half);
    }
  }
  return bits;
}
#endif

void draw(const DropoutMasks& call, std::uint32_t place, std::int64_t first,
          std::int64_t last) noexcept {
  const Drawn drawn{place | call.rank << 16U, call.microbatch, call.step, call.seed, call.most};
  std::uint8_t* const mask = call.masks + place * call.bytes;
  for (std::int64_t at = first; at < last; at += 8) {
    const std::uint64_t bits = eight_blocks(drawn, static_cast<std::uint64_t>(at));
    const std::int64_t count = last - at < 8 ? last - at : 8;
    for (std::int64_t i = 0; i < count; ++i) {
      mask[at + i] = static_cast<std::uint8_t>(bits >> static_cast<unsigned>(8 * i));
    }
  }
}

template <class S>
void apply(const Dropout& call, std::int64_t first, std::int64_t last) noexcept {
  using A = AccumType<S>;
  using V = Whole<A>;
  const std::int64_t hidden_size = call.hidden_size;
  const V scale = broadcast<V>(static_cast<A>(call.scale));
  for (std::int64_t i = first; i < last; ++i) {
    const S* const x = static_cast<const S*>(call.x) + i * hidden_size;
    const A* const onto =
        call.onto == nullptr ? nullptr : static_cast<const A*>(call.onto) + i * hidden_size;
    S* const result = static_cast<S*>(call.result) + i * hidden_size;
    const std::uint8_t* const mask = row_of_mask(call.mask, i, hidden_size);
    for_vectors<V>(hidden_size, [&](std::int64_t at, int count) {
      V v = masked_product(load_at(x, at, count), scale,
                           mask_bits<Traits<V>::lanes>(mask, at, count));
      if (onto != nullptr) v = load_at(onto, at, count) + v;
      store_at(result, at, count, v);
    });
  }
}

}  // namespace

extern const DropoutTable dropout_table;
const DropoutTable dropout_table = {
    &draw,
    {&apply<float>, &apply<double>, &apply<BFloat16>, &apply<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

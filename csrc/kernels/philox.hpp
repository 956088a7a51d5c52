// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), with the same numbers as nanochat/philox.py: a
// pure function of (seed, stream, item, index).
#ifndef NANOCHAT_KERNELS_PHILOX_HPP_
#define NANOCHAT_KERNELS_PHILOX_HPP_

#include <cstdint>

#include "kernels/host_device.hpp"

namespace nanochat::kernels {

inline constexpr std::uint32_t sampling_stream = 3;  // Stream.SAMPLING of philox.py

struct PhiloxWords {
  std::uint32_t word[4];
};

NCK_HOST_DEVICE inline PhiloxWords philox4x32(PhiloxWords counter, std::uint32_t key0,
                                              std::uint32_t key1) noexcept {
  PhiloxWords c = counter;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c.word[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c.word[2];
    c = {{static_cast<std::uint32_t>(p1 >> 32U) ^ c.word[1] ^ key0, static_cast<std::uint32_t>(p1),
          static_cast<std::uint32_t>(p0 >> 32U) ^ c.word[3] ^ key1,
          static_cast<std::uint32_t>(p0)}};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return c;
}

// Integer `index` of an item; two integers share a block.
NCK_HOST_DEVICE inline std::uint64_t random_u64(std::uint64_t seed, std::uint32_t stream,
                                                std::uint64_t item, std::uint64_t index) noexcept {
  const std::uint64_t block = index / 2;
  const PhiloxWords counter{
      {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32U),
       static_cast<std::uint32_t>(item), static_cast<std::uint32_t>(item >> 32U)}};
  const PhiloxWords words = philox4x32(counter, static_cast<std::uint32_t>(seed), stream);
  const std::uint32_t high = index % 2 == 0 ? words.word[0] : words.word[2];
  const std::uint32_t low = index % 2 == 0 ? words.word[1] : words.word[3];
  return std::uint64_t{high} << 32U | low;
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_PHILOX_HPP_

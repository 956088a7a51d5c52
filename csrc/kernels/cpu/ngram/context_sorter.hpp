// Sorts contexts within a bucket by as many tokens at a time as fit in 64 bits.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_CONTEXT_SORTER_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_CONTEXT_SORTER_HPP_

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "kernels/cpu/ngram/table.hpp"

namespace nanochat::kernels::ngram {

struct Keyed {
  std::uint64_t key;
  std::uint32_t position;
};

// Below this many elements, std::sort is faster than radix passes over 256 counters.
inline constexpr std::size_t radix_from = 256;
// A pair of neighbours whose contexts are equal, or equal so far.
inline constexpr std::uint8_t equal = 255;

// Sorts by key; equal keys keep their order. `other` has the same size and is overwritten.
inline void radix_sort(std::vector<Keyed>& elements, std::vector<Keyed>& other, int bits) {
  for (int shift = 0; shift < bits; shift += 8) {
    std::array<std::uint32_t, 256> next{};
    for (const Keyed& each : elements) ++next[each.key >> static_cast<unsigned>(shift) & 255U];
    if (next[elements[0].key >> static_cast<unsigned>(shift) & 255U] == elements.size()) continue;
    std::uint32_t sum = 0;
    for (std::uint32_t& each : next) sum += std::exchange(each, sum);
    for (const Keyed& each : elements) {
      other[next[each.key >> static_cast<unsigned>(shift) & 255U]++] = each;
    }
    elements.swap(other);
  }
}

template <class Token>
class ContextSorter {
 public:
  ContextSorter(const Token* stream, std::uint32_t vocab, int longest, std::uint32_t* order,
                std::uint8_t* shared)
      : stream_(stream),
        longest_(longest),
        token_bits_(std::max(static_cast<int>(std::bit_width(vocab - 1)), 1)),
        order_(order),
        shared_(shared) {}

  // Sorts order[first … last − 1], whose contexts share their first `depth` tokens, without BOS.
  void sort(std::uint32_t first, std::uint32_t last, int depth) {
    const int tokens = std::min(64 / token_bits_, longest_ - depth);
    if (tokens <= 0) {
      std::fill(shared_ + first + 1, shared_ + last, equal);
      return;
    }
    sort_by_key(first, last, depth, tokens);
    for (std::uint32_t i = first + 1; i < last; ++i) {
      if (shared_[i] != equal) continue;
      std::uint32_t end = i + 1;
      while (end < last && shared_[end] == equal) ++end;
      if (depth + tokens < longest_ && !has_bos(order_[i], depth, tokens)) {
        sort(i - 1, end, depth + tokens);
      }
      i = end - 1;
    }
  }

 private:
  // The tokens of the key, the newest one highest. After BOS all are 0, which is BOS.
  std::uint64_t key(std::uint32_t position, int depth, int tokens) const noexcept {
    std::uint64_t packed = 0;
    const Token* token = stream_ + position - 1 - depth;
    for (int i = 0; i < tokens; ++i) {
      const auto value = static_cast<std::uint32_t>(*token);
      packed = packed << static_cast<unsigned>(token_bits_) | value;
      if (value == bos) {
        const int rest = (tokens - 1 - i) * token_bits_;
        return rest == 0 ? packed : packed << static_cast<unsigned>(rest);
      }
      --token;
    }
    return packed;
  }

  bool has_bos(std::uint32_t position, int depth, int tokens) const noexcept {
    // From the newest token on: the text may begin before the oldest one.
    const Token* token = stream_ + position - 1 - depth;
    for (int i = 0; i < tokens; ++i, --token) {
      if (*token == bos) return true;
    }
    return false;
  }

  void sort_by_key(std::uint32_t first, std::uint32_t last, int depth, int tokens) {
    elements_.resize(last - first);
    for (std::uint32_t i = first; i < last; ++i) {
      elements_[i - first] = {key(order_[i], depth, tokens), order_[i]};
    }
    const int bits = tokens * token_bits_;
    if (elements_.size() >= radix_from) {
      other_.resize(elements_.size());
      radix_sort(elements_, other_, bits);
    } else {
      std::sort(elements_.begin(), elements_.end(), [](const Keyed& a, const Keyed& b) {
        return a.key != b.key ? a.key < b.key : a.position < b.position;
      });
    }
    order_[first] = elements_[0].position;
    for (std::uint32_t i = first + 1; i < last; ++i) {
      const Keyed& each = elements_[i - first];
      order_[i] = each.position;
      const std::uint64_t differing = each.key ^ elements_[i - first - 1].key;
      const int same_bits = std::countl_zero(differing) - (64 - bits);
      shared_[i] =
          differing == 0 ? equal : static_cast<std::uint8_t>(depth + same_bits / token_bits_);
    }
  }

  const Token* stream_;
  int longest_, token_bits_;
  std::uint32_t* order_;
  std::uint8_t* shared_;
  std::vector<Keyed> elements_, other_;
};

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_CONTEXT_SORTER_HPP_

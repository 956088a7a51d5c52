// Finds elements of an array by the pair of numbers that each holds, by open addressing.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_PAIR_INDEX_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_PAIR_INDEX_HPP_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanochat::kernels::ngram {

inline constexpr std::uint32_t none = ~std::uint32_t{0};

// Elements have the members `first` and `second`. The array belongs to the caller.
class PairIndex {
 public:
  // Returns the index of the element with this pair, or `none`.
  template <class Elements>
  std::uint32_t find(const Elements& elements, std::uint32_t first,
                     std::uint32_t second) const noexcept {
    if (places_.empty()) return none;
    for (std::size_t place = hash(first, second);; ++place) {
      const std::uint32_t index = places_[place & mask_];
      if (index == none) return none;
      const auto& element = elements[index];
      if (element.first == first && element.second == second) return index;
    }
  }

  // Makes the last element of the array known. Throws std::bad_alloc.
  template <class Elements>
  void enter_last(const Elements& elements) {
    if (2 * elements.size() > places_.size()) {
      places_.assign(places_.empty() ? 64 : 2 * places_.size(), none);
      mask_ = places_.size() - 1;
      for (std::size_t i = 0; i + 1 < elements.size(); ++i) enter(elements, i);
    }
    enter(elements, elements.size() - 1);
  }

  std::size_t bytes() const noexcept { return places_.capacity() * sizeof(std::uint32_t); }

 private:
  static std::size_t hash(std::uint32_t first, std::uint32_t second) noexcept {
    std::uint64_t key = ((std::uint64_t{first} << 32U) | second) * 0x9E3779B97F4A7C15U;
    key = (key ^ (key >> 32U)) * 0xD6E8FEB86659FD93U;
    return static_cast<std::size_t>(key >> 20U);
  }

  template <class Elements>
  void enter(const Elements& elements, std::size_t index) noexcept {
    std::size_t place = hash(elements[index].first, elements[index].second);
    while (places_[place & mask_] != none) ++place;
    places_[place & mask_] = static_cast<std::uint32_t>(index);
  }

  std::vector<std::uint32_t> places_;
  std::size_t mask_ = 0;
};

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_PAIR_INDEX_HPP_

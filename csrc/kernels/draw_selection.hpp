// The draw of a token by many threads, without sorting; the tokens are those of
// nanochat/sampling/draw.py. All sums are of integers, so their order cannot change a token.
//
// The threads are a Team. All its threads call its functions in the same order:
//   each(count, read, visit)       calls visit(i, read(i)) for all i < count; ends with a barrier
//   largest(count, read)           returns the largest std::int32_t
//   parts(begin, end, size, read, value)
//                                  sums value(i, read(i)) by pieces of `size`; returns the total
//   locate(target)                 returns the first piece at which the running sum exceeds target
//   clear_bins(), add_to_bin(bin, value), bin(i)
//                                  draw_bins sums; all threads may add at the same time
#ifndef NANOCHAT_KERNELS_DRAW_SELECTION_HPP_
#define NANOCHAT_KERNELS_DRAW_SELECTION_HPP_

#include <cstdint>

#include "kernels/draw_arithmetic.hpp"
#include "kernels/host_device.hpp"

namespace nanochat::kernels {

inline constexpr int draw_pieces = 32;
inline constexpr int draw_digit_bits = 11;  // three rounds for the 32 bits of a rank
inline constexpr int draw_bins = 1 << draw_digit_bits;

struct DrawOptions {
  float scale;          // of the logits: 1 / temperature, at most the largest float
  std::int64_t top_k;   // 0: all
  std::uint64_t share;  // ⌊top_p · 2³²⌋
};

inline DrawOptions draw_options(double temperature, std::int64_t top_k, double top_p) noexcept {
  return {inverse_temperature(temperature), kept_at(temperature, top_k), share_of(top_p)};
}

inline constexpr std::int32_t order_of_nan = 0x7FFFFFFF;  // above that of +∞
inline constexpr std::int32_t order_of_infinity = 0x7F800000;
inline constexpr std::int32_t order_of_minus_infinity = -0x7F800001;

// Integers in the order of a draw: larger logits first; −0 equals +0.
NCK_HOST_DEVICE inline std::uint32_t rank_of(float logit) noexcept {
  return static_cast<std::uint32_t>(order_of(logit + 0.0f)) ^ 0x7FFFFFFFU;
}
NCK_HOST_DEVICE inline float logit_of(std::uint32_t rank) noexcept {
  return float_of(static_cast<std::int32_t>(rank ^ 0x7FFFFFFFU));
}

// The integer weight of a token, given the row's largest logit.
struct Weigher {
  float largest, scale;
  bool is_infinite;  // the largest is +∞: only logits equal to it weigh anything

  NCK_HOST_DEVICE std::uint64_t operator()(float logit) const noexcept {
    if (is_infinite) return logit == largest ? std::uint64_t{1} << 40U : 0;
    return integer_weight(float_weight(logit, largest, scale));
  }
};

// The tokens that are kept: the ranks before `rank`, and those of `rank` before index `end`.
struct Cut {
  std::uint32_t rank;
  std::int32_t end;

  NCK_HOST_DEVICE bool keeps(std::int32_t i, float logit) const noexcept {
    const std::uint32_t own = rank_of(logit);
    return own < rank || (own == rank && i < end);
  }
};

struct Found {
  std::int32_t index;
  std::uint64_t before;  // the sum of everything before it
};

// Adds to a 64-bit sum in two 32-bit words, because shared memory has no fast 64-bit addition.
// fetch_add(word, value) returns the previous value. The number of overflows of the low word does
// not depend on the order.
template <class FetchAdd>
NCK_HOST_DEVICE inline void add_split(std::uint32_t* low, std::uint32_t* high, std::uint64_t value,
                                      const FetchAdd& fetch_add) noexcept {
  const auto below = static_cast<std::uint32_t>(value);
  const std::uint32_t old = fetch_add(low, below);
  const std::uint32_t carry = old + below < old ? 1 : 0;
  const std::uint32_t above = static_cast<std::uint32_t>(value >> 32U) + carry;
  if (above != 0) fetch_add(high, above);
}

// Returns the first i < count at which the running sum of value(i, read(i)) exceeds
// target_of(total).
template <class Team, class Read, class Value, class TargetOf>
NCK_HOST_DEVICE inline Found find(Team& team, std::int32_t count, const Read& read,
                                  const Value& value, const TargetOf& target_of) noexcept {
  std::int32_t begin = 0, end = count;
  std::uint64_t before = 0, target = 0;
  bool is_whole = true;
  do {
    const std::int32_t size = (end - begin + draw_pieces - 1) / draw_pieces;
    const std::uint64_t total = team.parts(begin, end, size, read, value);
    if (is_whole) target = target_of(total);
    is_whole = false;
    const Found piece = team.locate(target - before);
    before += piece.before;
    begin += piece.index * size;
    end = begin + size < end ? begin + size : end;
  } while (end - begin > 1);
  return {begin, before};
}

struct Selected {
  std::uint32_t rank;
  std::uint64_t before;  // the sum over all ranks before it
};

// Returns the first rank at which the running sum of measure(i, logit), in the order of ranks,
// reaches `goal`, digit by digit from the highest. goal: at least 1 and at most the sum over the
// row.
template <class Team, class Read, class Measure>
NCK_HOST_DEVICE inline Selected select_rank(Team& team, std::int32_t vocab, const Read& read,
                                            const Measure& measure, std::uint64_t goal) noexcept {
  std::uint32_t prefix = 0;
  std::uint64_t before = 0;
  int unknown = 32;
  while (unknown > 0) {
    const int width = unknown < draw_digit_bits ? unknown : draw_digit_bits;
    const int shift = unknown - width;
    const std::uint32_t known = prefix;
    const bool is_first = unknown == 32;
    team.clear_bins();
    team.each(vocab, read, [&](std::int32_t i, float logit) {
      const std::uint32_t rank = rank_of(logit);
      if (!is_first && rank >> static_cast<unsigned>(unknown) != known) return;
      const std::uint32_t digit = rank >> static_cast<unsigned>(shift) & ((1U << width) - 1U);
      const std::uint64_t amount = measure(i, logit);
      if (amount != 0) team.add_to_bin(digit, amount);
    });
    const std::uint64_t target = goal - 1 - before;
    const Found digit = find(
        team, 1 << width, [&](std::int32_t i) { return team.bin(i); },
        [](std::int32_t, std::uint64_t sum) { return sum; },
        [target](std::uint64_t) { return target; });
    before += digit.before;
    prefix = prefix << static_cast<unsigned>(width) | static_cast<std::uint32_t>(digit.index);
    unknown = shift;
  }
  return {prefix, before};
}

// Returns the cut after the first `ties` tokens of a rank; ties is at least 1.
template <class Team, class Read>
NCK_HOST_DEVICE inline Cut cut_after(Team& team, std::int32_t vocab, const Read& read,
                                     std::uint32_t rank, std::uint64_t ties) noexcept {
  const Found last = find(
      team, vocab, read,
      [rank](std::int32_t, float logit) {
        return rank_of(logit) == rank ? std::uint64_t{1} : std::uint64_t{0};
      },
      [ties](std::uint64_t) { return ties - 1; });
  return {rank, last.index + 1};
}

template <class Team, class Read>
NCK_HOST_DEVICE inline Cut top_k_cut(Team& team, std::int32_t vocab, const Read& read,
                                     std::uint64_t top_k) noexcept {
  const Selected last =
      select_rank(team, vocab, read, [](std::int32_t, float) { return std::uint64_t{1}; }, top_k);
  return cut_after(team, vocab, read, last.rank, top_k - last.before);
}

template <class Team, class Read>
NCK_HOST_DEVICE inline Cut top_p_cut(Team& team, std::int32_t vocab, const Read& read,
                                     const Weigher& weigh, const Cut& cut,
                                     std::uint64_t share) noexcept {
  const auto kept_weight = [&](std::int32_t i, float logit) {
    return cut.keeps(i, logit) ? weigh(logit) : 0;
  };
  const std::uint64_t total =
      team.parts(0, vocab, (vocab + draw_pieces - 1) / draw_pieces, read, kept_weight);
  const std::uint64_t part = part_of(share, total), needed = part == 0 ? 1 : part;
  const Selected last = select_rank(team, vocab, read, kept_weight, needed);
  // Equal logits have equal weights, which are not 0: the sum exceeded the target at one of them.
  const std::uint64_t weight = weigh(logit_of(last.rank));
  const std::uint64_t ties = (needed - last.before + weight - 1) / weight;
  return cut_after(team, vocab, read, last.rank, ties);
}

// read(i): logit i of `vocab`, at most 2²⁰.
template <class Team, class Read>
NCK_HOST_DEVICE inline std::int64_t draw_token(Team& team, std::int32_t vocab, const Read& read,
                                               std::uint64_t random,
                                               const DrawOptions& options) noexcept {
  const std::int32_t order = team.largest(vocab, [&](std::int32_t i) {
    const float logit = read(i);
    return logit != logit ? order_of_nan : order_of(logit);
  });
  if (order == order_of_nan) return token_of_nan;
  if (order == order_of_minus_infinity) return token_of_all_minus_infinity;
  const Weigher weigh{float_of(order), options.scale, order == order_of_infinity};
  Cut cut{0xFFFFFFFFU, vocab};
  const bool is_first_k = options.top_k > 0 && options.top_k < vocab;
  if (is_first_k) {
    cut = top_k_cut(team, vocab, read, static_cast<std::uint64_t>(options.top_k));
  }
  if (options.share < std::uint64_t{1} << 32U) {
    cut = top_p_cut(team, vocab, read, weigh, cut, options.share);
  }
  const Found token = find(
      team, vocab, read,
      [&](std::int32_t i, float logit) { return cut.keeps(i, logit) ? weigh(logit) : 0; },
      [random](std::uint64_t total) { return multiply_high(random, total); });
  return token.index;
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_DRAW_SELECTION_HPP_

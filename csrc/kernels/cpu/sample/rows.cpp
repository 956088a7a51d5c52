// The token draw over a few rows. No row is sorted: top-k and top-p find the key of the last token
// that they keep, among the few that a vector compare lets through. Rows of other types are rounded
// to floats first, so that all else is one code.
#include "kernels/cpu/sample/order.hpp"
#include "kernels/cpu/sample/passes.hpp"
#include "kernels/cpu/sample/sample.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

// Working space; each array has room for a row and sample_pad more.
struct Space {
  std::uint64_t* keys;
  std::uint64_t* spare_keys;
  std::uint64_t* sums;
  float* rounded;
  float* maxima;
  float* weights;            // of the row's tokens
  float* values;             // logits of the candidates, in the order of their places
  float* candidate_weights;  // of `values`
  float* spare_weights;
  std::uint32_t* places;

  Space(void* memory, std::int64_t vocab) noexcept {
    const std::int64_t room = (vocab + sample_pad) / 16 * 16;
    keys = static_cast<std::uint64_t*>(memory);
    spare_keys = keys + room;
    sums = spare_keys + room;
    rounded = reinterpret_cast<float*>(sums + room);
    maxima = rounded + room;
    weights = maxima + room;
    values = weights + room;
    candidate_weights = values + room;
    spare_weights = candidate_weights + room;
    places = reinterpret_cast<std::uint32_t*>(spare_weights + room);
  }
};

// One row's draw.
class Draw {
 public:
  Draw(const Sample& call, const Space& space, const float* x, Ahead ahead) noexcept
      : call_(call), space_(space), x_(x), vocab_(call.vocab), ahead_(ahead) {}

  std::int64_t token(std::uint64_t random) noexcept {
    const Scan found = scan(x_, vocab_, space_.maxima);
    if (found.has_nan) return token_of_nan;
    if (found.largest == -infinity) return token_of_all_minus_infinity;
    weigh_ = {found.largest, call_.scale};
    if (call_.top_k > 0) return from_largest(random);
    const std::uint64_t total = weigh(x_, vocab_, space_.weights, ahead_);
    if (call_.share < whole_share) return from_share(total, random);
    return pick(space_.weights, vocab_, space_.sums, total, random);
  }

 private:
  // Weights and their sums, in locals: a store of a float could change members.
  std::uint64_t weigh(const float* from, std::int64_t count, float* weights,
                      Ahead ahead) const noexcept {
    const Weigher weigher = weigh_;
    return sum_chunks(count, space_.sums, [=](std::int64_t at) mutable {
      const Floats w = weigher(load_logits(from + at, count - at));
      store(weights + at, w);
      ahead(NCLAB_SIMD_BYTES);
      return w;
    });
  }

  void gather_from(Window window, Ahead ahead) noexcept {
    count_ = gather(x_, vocab_, window, space_.maxima, space_.values, space_.places, ahead);
  }

  void make_keys() noexcept {
    for (std::int64_t i = 0; i < count_; ++i) {
      space_.keys[i] = key_of(space_.values[i], space_.places[i]);
    }
  }

  std::int64_t from_largest(std::uint64_t random) noexcept {
    // What is not finite and below weighs nothing, whether it is kept or not.
    Window window;
    if (call_.top_k * 16 <= vocab_) window.floor = reached_by_largest();
    gather_from(window, ahead_);
    const bool some = call_.share < whole_share;
    if (some || count_ > call_.top_k) make_keys();
    if (count_ > call_.top_k) {
      keep_candidates(boundary_key(space_.keys, Ones{}, count_,
                                   static_cast<std::uint64_t>(call_.top_k), space_.spare_keys,
                                   space_.spare_weights));
    }
    std::uint64_t total =
        weigh(space_.values, count_, space_.candidate_weights, {nullptr, nullptr});
    if (some) total = keep_share(total);
    return space_.places[pick(space_.candidate_weights, count_, space_.sums, total, random)];
  }

  // A logit little less than the k-th largest: k maxima of separate tokens reach it, and for a k
  // that is small beside their number hardly more tokens.
  float reached_by_largest() const noexcept {
    const std::int64_t count = (vocab_ + block - 1) / block * lanes;
    const std::int64_t enough = call_.top_k * 16 > 1024 ? call_.top_k * 16 : std::int64_t{1024};
    const std::int64_t times = count / enough;
    if (times < 2) return reached_by(call_.top_k, space_.maxima, count, weigh_.largest);
    float* const merged = space_.candidate_weights;
    return reached_by(call_.top_k, merged, merge(space_.maxima, count, times, merged),
                      weigh_.largest);
  }

  // Leaves out the candidates whose keys come later.
  void keep_candidates(std::uint64_t last) noexcept {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < count_; ++i) {
      const std::uint64_t key = space_.keys[i];
      space_.keys[kept] = key;
      space_.values[kept] = space_.values[i];
      space_.places[kept] = space_.places[i];
      kept += key <= last ? 1 : 0;
    }
    count_ = kept;
  }

  // What top-p asks for of a sum, at least one: the likeliest token is always kept.
  std::uint64_t needed_of(std::uint64_t total) const noexcept {
    const std::uint64_t needed = part_of(call_.share, total);
    return needed > 1 ? needed : 1;
  }

  std::uint64_t last_key(const float* weights, std::int64_t count,
                         std::uint64_t needed) const noexcept {
    return boundary_key(space_.keys, Weights{weights}, count, needed, space_.spare_keys,
                        space_.spare_weights);
  }

  // Weighs nothing what top-p does not keep of the candidates; the sum of the others.
  std::uint64_t keep_share(std::uint64_t total) noexcept {
    float* const weights = space_.candidate_weights;
    const std::uint64_t last = last_key(weights, count_, needed_of(total));
    for (std::int64_t i = 0; i < count_; ++i) {
      if (space_.keys[i] > last) weights[i] = 0;
    }
    return sum_chunks(count_, space_.sums,
                      [=](std::int64_t at) { return load<Floats>(weights + at); });
  }

  std::int64_t from_share(std::uint64_t total, std::uint64_t random) noexcept {
    const std::uint64_t needed = needed_of(total);
    std::uint64_t above = weigh_window(likely_window(total, needed));
    if (above >= needed || above + candidates().sum(count_) < needed) above = weigh_window({});
    make_keys();
    const std::uint64_t last = last_key(space_.candidate_weights, count_, needed - above);
    total = leave_out_after(logit_of(last), static_cast<std::int32_t>(last & 0xFFFFFFFFU), x_,
                            vocab_, space_.weights, space_.sums);
    return pick(space_.weights, vocab_, space_.sums, total, random);
  }

  Weights candidates() const noexcept { return {space_.candidate_weights}; }

  // Makes the window's tokens the candidates; the sum of the weights above it.
  std::uint64_t weigh_window(Window window) noexcept {
    gather_from(window, {nullptr, nullptr});
    for (std::int64_t i = 0; i < count_; ++i) {
      space_.candidate_weights[i] = space_.weights[space_.places[i]];
    }
    return sum_above(x_, vocab_, window.ceiling, space_.weights, space_.sums);
  }

  // Where the last token that top-p keeps is likely to lie: a guess from a sample of the row.
  Window likely_window(std::uint64_t total, std::uint64_t needed) noexcept {
    constexpr std::int64_t pieces = 64, piece = 16, count = pieces * piece;
    if (vocab_ < 4 * count) return {};
    const float floor = dispensable_below(total - needed);
    std::int64_t reaching = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t place = i / piece * (vocab_ / pieces) + i % piece;
      space_.keys[i] = key_of(x_[place], static_cast<std::uint32_t>(i));
      space_.candidate_weights[i] = space_.weights[place];
      reaching += x_[place] >= floor ? 1 : 0;
    }
    if (reaching <= count / 8) return {floor, infinity};
    constexpr double margin = 0.06;  // some three standard errors where few weights dwarf the rest
    const double share = static_cast<double>(needed) / static_cast<double>(total);
    const std::uint64_t sum = candidates().sum(count);
    const auto logit_at = [&](double part) {
      const auto reached = static_cast<std::uint64_t>(part * static_cast<double>(sum));
      return logit_of(last_key(space_.candidate_weights, count, reached > 1 ? reached : 1));
    };
    Window window{floor, infinity};
    if (sum > 0 && share + margin < 1) window.floor = logit_at(share + margin);
    if (sum > 0 && share - margin > 0) window.ceiling = logit_at(share - margin);
    return window;
  }

  // A logit so low that all tokens below it together weigh less than `spare`.
  float dispensable_below(std::uint64_t spare) const noexcept {
    const float each = static_cast<float>(spare) / static_cast<float>(vocab_) * 0x1p-40f;
    const float z = each > 0x1p-41f ? __builtin_logf(each) : -28.5f;
    const float floor = weigh_.largest + z / call_.scale;
    return floor > -largest_finite && floor < largest_finite ? floor : -largest_finite;
  }

  const Sample& call_;
  const Space& space_;
  const float* x_;
  std::int64_t vocab_;
  Ahead ahead_;
  Weigher weigh_{};
  std::int64_t count_ = 0;  // candidates
};

template <class S>
void sample(const Sample& call, std::int64_t first, std::int64_t last, const std::uint64_t* random,
            void* scratch) noexcept {
  const Space space(scratch, call.vocab);
  const auto* const logits = static_cast<const S*>(call.logits);
  for (std::int64_t i = first; i < last; ++i) {
    const S* const row = logits + i * call.row_stride;
    Ahead ahead{nullptr, nullptr};
    if (i + 1 < last) {
      ahead.next = reinterpret_cast<const char*>(row + call.row_stride);
      ahead.end = reinterpret_cast<const char*>(row + call.row_stride + call.vocab);
    }
    Draw draw(call, space, as_floats(row, call.vocab, space.rounded), ahead);
    call.tokens[i] = draw.token(random[i - first]);
  }
}

}  // namespace

extern const SampleTable sample_table;
const SampleTable sample_table = {&sample<float>, &sample<double>, &sample<BFloat16>,
                                  &sample<Float16>};

}  // namespace nanochat::kernels::NCLAB_SIMD

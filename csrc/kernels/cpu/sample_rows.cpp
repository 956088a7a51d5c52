// The token draw over a few rows. No row is sorted: top-k and top-p find the key of the last token
// that they keep, among the few that a vector compare lets through. Rows of other types are rounded
// to floats first, so that all else is one code.
#include "kernels/cpu/rows.hpp"
#include "kernels/cpu/sample_order.hpp"
#include "kernels/cpu/sample_passes.hpp"

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
  float* values;   // logits of the candidates, in the order of their places
  float* weights;  // of the row's tokens, or of the candidates
  float* spare_weights;
  std::uint32_t* places;

  Space(void* memory, std::int64_t vocab) noexcept {
    const std::int64_t room = (vocab + sample_pad) / 16 * 16;
    keys = static_cast<std::uint64_t*>(memory);
    spare_keys = keys + room;
    sums = spare_keys + room;
    rounded = reinterpret_cast<float*>(sums + room);
    maxima = rounded + room;
    values = maxima + room;
    weights = values + room;
    spare_weights = weights + room;
    places = reinterpret_cast<std::uint32_t*>(spare_weights + room);
  }
};

// One row's draw.
class Draw {
 public:
  Draw(const Sample& call, const Space& space, const float* x, Ahead ahead) noexcept
      : call_(call), space_(space), x_(x), vocab_(call.vocab), ahead_(ahead) {}

  std::int64_t token(std::uint64_t random) noexcept {
    const std::int64_t segment = segment_of();
    const Scan found = scan(x_, vocab_, segment, space_.maxima);
    if (found.has_nan) return holds_nan;
    if (found.largest == -infinity) return all_minus_infinity;
    weigh_ = {found.largest, call_.scale};
    if (call_.top_k > 0) return from_largest(segment, random);
    const std::uint64_t total = weigh_row();
    if (call_.share < whole_share) return from_share(total, random);
    return pick(space_.weights, vocab_, space_.sums, total, random);
  }

 private:
  // Elements to a segment of scan(): for a small k so many segments that k of their maxima are
  // little less than the k largest logits.
  std::int64_t segment_of() const noexcept {
    constexpr std::int64_t least = 4 * lanes, whole = max_vocab + least;
    if (call_.top_k == 0 || call_.top_k * maxima_for_each > vocab_) return whole / least * least;
    const std::int64_t wanted =
        call_.top_k * maxima_for_each > 1024 ? call_.top_k * maxima_for_each : std::int64_t{1024};
    const std::int64_t tokens = vocab_ / wanted * lanes / least * least;
    return tokens > least ? tokens : least;
  }

  std::uint64_t weigh_row() noexcept {
    return sum_chunks(vocab_, space_.sums, [&](std::int64_t at) {
      const Floats w = weigh_(load_logits(x_ + at, vocab_ - at));
      store(space_.weights + at, w);
      ahead_(NCLAB_SIMD_BYTES);
      return w;
    });
  }

  std::uint64_t weigh_candidates() noexcept {
    return sum_chunks(count_, space_.sums, [&](std::int64_t at) {
      const Floats w = weigh_(load_logits(space_.values + at, count_ - at));
      store(space_.weights + at, w);
      return w;
    });
  }

  void gather_from(float floor) noexcept {
    count_ = gather(x_, vocab_, floor, space_.values, space_.places, ahead_);
  }

  void make_keys() noexcept {
    for (std::int64_t i = 0; i < count_; ++i) {
      space_.keys[i] = key_of(space_.values[i], space_.places[i]);
    }
  }

  std::int64_t from_largest(std::int64_t segment, std::uint64_t random) noexcept {
    const std::int64_t segments = (vocab_ + segment - 1) / segment;
    // What is not finite and below weighs nothing, whether it is kept or not.
    gather_from(segments > 1
                    ? reached_by(call_.top_k, space_.maxima, segments * lanes, weigh_.largest)
                    : -largest_finite);
    const bool some = call_.share < whole_share;
    if (some || count_ > call_.top_k) make_keys();
    if (count_ > call_.top_k) {
      keep_candidates(boundary_key(space_.keys, Ones{}, count_,
                                   static_cast<std::uint64_t>(call_.top_k), space_.spare_keys,
                                   space_.spare_weights));
    }
    std::uint64_t total = weigh_candidates();
    if (some) total = keep_share(total);
    return pick_candidate(total, random);
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

  // Weighs nothing what top-p does not keep of the candidates, whose weights and keys are there and
  // sum to what is needed at least; the new sum.
  std::uint64_t keep_share(std::uint64_t total) noexcept {
    const std::uint64_t needed = part_of(call_.share, total);
    const std::uint64_t last =
        boundary_key(space_.keys, Weights{space_.weights}, count_, needed > 1 ? needed : 1,
                     space_.spare_keys, space_.spare_weights);
    for (std::int64_t i = 0; i < count_; ++i) {
      if (space_.keys[i] > last) space_.weights[i] = 0;
    }
    return sum_chunks(count_, space_.sums,
                      [&](std::int64_t at) { return load<Floats>(space_.weights + at); });
  }

  std::int64_t from_share(std::uint64_t total, std::uint64_t random) noexcept {
    const std::uint64_t needed = part_of(call_.share, total);
    for (float floor = likely_floor(total, total - needed);; floor = -largest_finite) {
      gather_from(floor);
      if (weigh_candidates() >= needed) break;
    }
    make_keys();
    return pick_candidate(keep_share(total), random);
  }

  // A logit so low that all tokens below it together weigh less than `spare`. Only a guess.
  float likely_floor(std::uint64_t total, std::uint64_t spare) const noexcept {
    static_cast<void>(total);
    const float each = static_cast<float>(spare) / static_cast<float>(vocab_) * 0x1p-40f;
    const float z = each > 0x1p-41f ? __builtin_logf(each) : -28.5f;
    const float floor = weigh_.largest + z / call_.scale;
    return floor > -largest_finite && floor < largest_finite ? floor : -largest_finite;
  }

  std::int64_t pick_candidate(std::uint64_t total, std::uint64_t random) const noexcept {
    return space_.places[pick(space_.weights, count_, space_.sums, total, random)];
  }

  static constexpr std::int64_t maxima_for_each = 16;

  const Sample& call_;
  const Space& space_;
  const float* x_;
  std::int64_t vocab_;
  Ahead ahead_;
  Weigher weigh_{};
  std::int64_t count_ = 0;  // candidates
};

}  // namespace

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

extern const SampleTable sample_table;
const SampleTable sample_table = {&sample<float>, &sample<double>, &sample<BFloat16>,
                                  &sample<Float16>};

}  // namespace nanochat::kernels::NCLAB_SIMD

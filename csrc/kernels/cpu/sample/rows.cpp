// The token draw over a few rows. Rows are not sorted: top-k and top-p find the key of the last
// token to keep, among the few logits that pass a vector comparison. Rows of other dtypes are first
// rounded to floats.
#include "kernels/cpu/sample/order.hpp"
#include "kernels/cpu/sample/passes.hpp"
#include "kernels/cpu/sample/sample.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// The working space; each array has room for a row and sample_pad more elements.
struct Workspace {
  std::uint64_t* keys;
  std::uint64_t* spare_keys;
  std::uint64_t* sums;
  float* rounded;
  float* maxima;
  float* weights;            // of the row's tokens
  float* values;             // logits of the candidates, in the order of their indices
  float* candidate_weights;  // of `values`
  float* spare_weights;
  std::uint32_t* indices;

  Workspace(void* memory, std::int64_t vocab) noexcept {
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
    indices = reinterpret_cast<std::uint32_t*>(spare_weights + room);
  }
};

// The draw of one row.
class RowDraw {
 public:
  RowDraw(const Sample& call, const Workspace& workspace, const float* x,
          Prefetcher prefetch) noexcept
      : call_(call), workspace_(workspace), x_(x), vocab_(call.vocab), prefetch_(prefetch) {}

  std::int64_t token(std::uint64_t random) noexcept {
    const Scan found = scan(x_, vocab_, workspace_.maxima);
    if (found.has_nan) return token_of_nan;
    if (found.largest == -infinity) return token_of_all_minus_infinity;
    weigh_ = {found.largest, call_.scale};
    if (call_.top_k > 0) return from_largest(random);
    const std::uint64_t total = weigh(x_, vocab_, workspace_.weights, prefetch_);
    if (call_.share < whole_share) return from_share(total, random);
    return pick(workspace_.weights, vocab_, workspace_.sums, total, random);
  }

 private:
  // Writes weights and their sums. Locals: a store of a float could alias members.
  std::uint64_t weigh(const float* from, std::int64_t count, float* weights,
                      Prefetcher prefetch) const noexcept {
    const Weigher weigher = weigh_;
    return sum_chunks(count, workspace_.sums, [=](std::int64_t at) mutable {
      const Floats w = weigher(load_logits(from + at, count - at));
      store(weights + at, w);
      prefetch(NCLAB_SIMD_BYTES);
      return w;
    });
  }

  void gather_from(Window window, Prefetcher prefetch) noexcept {
    count_ = gather(x_, vocab_, window, workspace_.maxima, workspace_.values, workspace_.indices,
                    prefetch);
  }

  void make_keys() noexcept {
    for (std::int64_t i = 0; i < count_; ++i) {
      workspace_.keys[i] = key_of(workspace_.values[i], workspace_.indices[i]);
    }
  }

  std::int64_t from_largest(std::uint64_t random) noexcept {
    // Logits below the smallest finite one weigh 0, so it does not matter whether they are kept.
    Window window;
    if (call_.top_k * 16 <= vocab_) window.floor = reached_by_largest();
    gather_from(window, prefetch_);
    const bool has_top_p = call_.share < whole_share;
    if (has_top_p || count_ > call_.top_k) make_keys();
    if (count_ > call_.top_k) {
      keep_candidates(boundary_key(workspace_.keys, Ones{}, count_,
                                   static_cast<std::uint64_t>(call_.top_k), workspace_.spare_keys,
                                   workspace_.spare_weights));
    }
    std::uint64_t total =
        weigh(workspace_.values, count_, workspace_.candidate_weights, {nullptr, nullptr});
    if (has_top_p) total = keep_share(total);
    return workspace_
        .indices[pick(workspace_.candidate_weights, count_, workspace_.sums, total, random)];
  }

  // Returns a logit slightly below the k-th largest: k of the maxima reach it, which belong to
  // separate tokens. For a small k few other tokens do.
  float reached_by_largest() const noexcept {
    const std::int64_t count = (vocab_ + block - 1) / block * lanes;
    const std::int64_t enough = call_.top_k * 16 > 1024 ? call_.top_k * 16 : std::int64_t{1024};
    const std::int64_t times = count / enough;
    if (times < 2) return floor_reached_by(call_.top_k, workspace_.maxima, count, weigh_.largest);
    float* const merged = workspace_.candidate_weights;
    return floor_reached_by(call_.top_k, merged, merge(workspace_.maxima, count, times, merged),
                            weigh_.largest);
  }

  // Removes the candidates whose keys come after `last`.
  void keep_candidates(std::uint64_t last) noexcept {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < count_; ++i) {
      const std::uint64_t key = workspace_.keys[i];
      workspace_.keys[kept] = key;
      workspace_.values[kept] = workspace_.values[i];
      workspace_.indices[kept] = workspace_.indices[i];
      kept += key <= last ? 1 : 0;
    }
    count_ = kept;
  }

  // The part of a sum that top-p asks for, at least 1: the most likely token is always kept.
  std::uint64_t needed_of(std::uint64_t total) const noexcept {
    const std::uint64_t needed = part_of(call_.share, total);
    return needed > 1 ? needed : 1;
  }

  std::uint64_t last_key(const float* weights, std::int64_t count,
                         std::uint64_t needed) const noexcept {
    return boundary_key(workspace_.keys, Weights{weights}, count, needed, workspace_.spare_keys,
                        workspace_.spare_weights);
  }

  // Sets the weights of the candidates that top-p removes to 0. Returns the sum of the others.
  std::uint64_t keep_share(std::uint64_t total) noexcept {
    float* const weights = workspace_.candidate_weights;
    const std::uint64_t last = last_key(weights, count_, needed_of(total));
    for (std::int64_t i = 0; i < count_; ++i) {
      if (workspace_.keys[i] > last) weights[i] = 0;
    }
    return sum_chunks(count_, workspace_.sums,
                      [=](std::int64_t at) { return load<Floats>(weights + at); });
  }

  std::int64_t from_share(std::uint64_t total, std::uint64_t random) noexcept {
    const std::uint64_t needed = needed_of(total);
    std::uint64_t above = weigh_window(likely_window(total, needed));
    if (above >= needed || above + candidates().sum(count_) < needed) above = weigh_window({});
    make_keys();
    const std::uint64_t last = last_key(workspace_.candidate_weights, count_, needed - above);
    total = leave_out_after(logit_of(last), static_cast<std::int32_t>(last & 0xFFFFFFFFU), x_,
                            vocab_, workspace_.weights, workspace_.sums);
    return pick(workspace_.weights, vocab_, workspace_.sums, total, random);
  }

  Weights candidates() const noexcept { return {workspace_.candidate_weights}; }

  // Makes the tokens of the window the candidates. Returns the sum of the weights above it.
  std::uint64_t weigh_window(Window window) noexcept {
    gather_from(window, {nullptr, nullptr});
    for (std::int64_t i = 0; i < count_; ++i) {
      workspace_.candidate_weights[i] = workspace_.weights[workspace_.indices[i]];
    }
    return sum_above(x_, vocab_, window.ceiling, workspace_.weights, workspace_.sums);
  }

  // Guesses from a sample of the row where the last token that top-p keeps lies.
  Window likely_window(std::uint64_t total, std::uint64_t needed) noexcept {
    constexpr std::int64_t pieces = 64, piece = 16, count = pieces * piece;
    if (vocab_ < 4 * count) return {};
    const float floor = dispensable_below(total - needed);
    std::int64_t reaching = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t index = i / piece * (vocab_ / pieces) + i % piece;
      workspace_.keys[i] = key_of(x_[index], static_cast<std::uint32_t>(i));
      workspace_.candidate_weights[i] = workspace_.weights[index];
      reaching += x_[index] >= floor ? 1 : 0;
    }
    if (reaching <= count / 8) return {floor, infinity};
    constexpr double margin = 0.06;  // about three standard errors if few weights dominate
    const double share = static_cast<double>(needed) / static_cast<double>(total);
    const std::uint64_t sum = candidates().sum(count);
    const auto logit_at = [&](double part) {
      const auto reached = static_cast<std::uint64_t>(part * static_cast<double>(sum));
      return logit_of(last_key(workspace_.candidate_weights, count, reached > 1 ? reached : 1));
    };
    Window window{floor, infinity};
    if (sum > 0 && share + margin < 1) window.floor = logit_at(share + margin);
    if (sum > 0 && share - margin > 0) window.ceiling = logit_at(share - margin);
    return window;
  }

  // Returns a logit so low that the tokens below it together weigh less than `spare`.
  float dispensable_below(std::uint64_t spare) const noexcept {
    const float each = static_cast<float>(spare) / static_cast<float>(vocab_) * 0x1p-40f;
    const float z = each > 0x1p-41f ? __builtin_logf(each) : -28.5f;
    const float floor = weigh_.largest + z / call_.scale;
    return floor > -largest_finite && floor < largest_finite ? floor : -largest_finite;
  }

  const Sample& call_;
  const Workspace& workspace_;
  const float* x_;
  std::int64_t vocab_;
  Prefetcher prefetch_;
  Weigher weigh_{};
  std::int64_t count_ = 0;  // of candidates
};

template <class S>
void sample(const Sample& call, std::int64_t first, std::int64_t last, const std::uint64_t* random,
            void* scratch) noexcept {
  const Workspace workspace(scratch, call.vocab);
  const auto* const logits = static_cast<const S*>(call.logits);
  for (std::int64_t i = first; i < last; ++i) {
    const S* const row = logits + i * call.row_stride;
    Prefetcher prefetch{nullptr, nullptr};
    if (i + 1 < last) {
      prefetch.next = reinterpret_cast<const char*>(row + call.row_stride);
      prefetch.end = reinterpret_cast<const char*>(row + call.row_stride + call.vocab);
    }
    RowDraw draw(call, workspace, as_floats(row, call.vocab, workspace.rounded), prefetch);
    call.tokens[i] = draw.token(random[i - first]);
  }
}

}  // namespace

extern const SampleTable sample_table;
const SampleTable sample_table = {&sample<float>, &sample<double>, &sample<BFloat16>,
                                  &sample<Float16>};

}  // namespace nanochat::kernels::NCLAB_SIMD

// The mixture's loss over a few rows in three passes: the exponentials of the tokens' logits; what
// both losses and the gradient need of each row, for several rows in one vector; the gradient. And
// the mixture's probabilities of all tokens, for decoding.
#include <cmath>

#include "kernels/cpu/cross_entropy/passes.hpp"
#include "kernels/cpu/mixture/mixture.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

constexpr int padded_rows = short_rows + width<double>;

// log(1 + exp(−|x|)), and the share that x as a logit has against 0: 1 / (1 + exp(−x)).
struct Against0 {
  Doubles rest, share;
};
inline Against0 against_0(Doubles x) noexcept {
  const Doubles zero{};
  const Doubles small = vector_exp(x > zero ? -x : x);
  const Doubles sum = small + 1.0;
  return {vector_log(sum), (x > zero ? broadcast<Doubles>(1) : small) / sum};
}

// What is known of some rows: in from the exponentials, out for losses and gradients. With m the
// largest logit of a token, exponentials are exp(z − m).
struct RowNumbers {
  // In.
  double others[padded_rows];   // Σ of the exponentials without the target's
  double own[padded_rows];      // the target's
  double above[padded_rows];    // m − z[target]
  double last[padded_rows];     // z[last] − m
  double counted[padded_rows];  // p_counts[target]
  // Out.
  double mixed[padded_rows], network[padded_rows];
  double factor[padded_rows];     // of a token's exponential in the gradient
  double at_target[padded_rows];  // the target's gradient
  double at_last[padded_rows];    // that of the share of the counts
};

// With g = softmax(z)[last], own the target's probability among the tokens and q the part of the
// target's probability that comes from the counts:
//   network = −log own,  mixed = −log((1 − g) · own + g · p_counts)
//   the gradient of mixed + w · network: (1 − g + w) · p for a token's probability p among the
//   tokens, less 1 − q + w at the target, and g − q at the last output.
inline void finish(RowNumbers& rows, int at, double network_weight) noexcept {
  const Doubles others = load<Doubles>(rows.others + at), own = load<Doubles>(rows.own + at);
  const Doubles sum = others + own;
  const Doubles log_sum = vector_log(sum);
  const Doubles network = load<Doubles>(rows.above + at) + log_sum;
  const Doubles gate = load<Doubles>(rows.last + at) - log_sum;  // log(g / (1 − g))
  const Doubles counted = gate + vector_log(load<Doubles>(rows.counted + at));
  const Doubles more = counted + network;  // log(q / (1 − q))
  const Against0 g = against_0(gate), q = against_0(more);
  const Doubles zero{};
  const Doubles below = gate > zero ? gate : zero;
  const Doubles mixed = (below + g.rest) + (more > zero ? -counted : network) - q.rest;
  const Doubles rest = others / sum;  // 1 − own, with its digits
  const Doubles w = broadcast<Doubles>(network_weight);
  const Doubles kept = 1.0 - g.share;
  store(rows.mixed + at, mixed);
  store(rows.network + at, network);
  store(rows.factor + at, (kept + w) / sum);
  store(rows.at_target + at, (q.share - g.share) - (kept + w) * rest);
  store(rows.at_last + at, g.share - q.share);
}

template <class S>
class MixtureRows {
  using A = AccumType<S>;

 public:
  MixtureRows(const Mixture& call, void* scratch) noexcept
      : call_(call),
        tokens_(call.outputs - 1),
        exponentials_(static_cast<A*>(scratch)),
        capped_(exponentials_ + (call.outputs + line) / line * line),
        stride_((call.outputs / width<A> + 2) * width<A>) {
    const std::int64_t fitting =
        short_rows_bytes / (stride_ * static_cast<std::int64_t>(sizeof(A)));
    together_ = call.softcap > 0 || fitting < 2 ? 1 : fitting < short_rows ? fitting : short_rows;
  }

  void run(std::int64_t first, std::int64_t last, MixtureResult& result) const noexcept {
    for (std::int64_t at = first; at < last; at += together_) {
      some(at, last - at < together_ ? last : at + together_, at - first, result);
    }
  }

 private:
  const S* logits_of(std::int64_t i) const noexcept {
    return static_cast<const S*>(call_.logits) + i * call_.row_stride;
  }
  S* gradient_of(std::int64_t i) const noexcept {
    return static_cast<S*>(call_.gradient) + i * call_.gradient_stride;
  }
  bool is_ignored(std::int64_t i) const noexcept { return call_.targets[i] == call_.ignore_index; }

  // Computes rows first … last − 1, whose results begin at k.
  void some(std::int64_t first, std::int64_t last, std::int64_t k,
            MixtureResult& result) const noexcept {
    RowNumbers rows;
    const int count = static_cast<int>(last - first);
    for (int row = 0; row < count + width<double> - 1; ++row) {
      rows.others[row] = rows.own[row] = rows.counted[row] = 1;
      rows.above[row] = rows.last[row] = 0;
      if (row < count && !is_ignored(first + row)) exponentials(first + row, row, rows);
    }
    for (int at = 0; at < count; at += width<double>) finish(rows, at, call_.network_weight);
    for (int row = 0; row < count; ++row) {
      const bool ignored = is_ignored(first + row);
      result.mixed[k + row] = ignored ? 0 : rows.mixed[row];
      result.network[k + row] = ignored ? 0 : rows.network[row];
      if (call_.gradient != nullptr) write(first + row, row, rows);
    }
  }

  void exponentials(std::int64_t i, int row, RowNumbers& rows) const noexcept {
    const std::int64_t target = call_.targets[i];
    const S* const logits = logits_of(i);
    A* const exponentials = exponentials_ + row * stride_;
    const Prefetcher<S> nothing{nullptr, 0};
    A maximum = 0;
    double z_target = value_at(logits + target), z_last = value_at(logits + tokens_);
    if (call_.softcap > 0) {
      static_cast<void>(cap_row(logits, call_.outputs, call_.softcap, capped_));
      maximum = row_maximum(capped_, tokens_);
      z_target = static_cast<double>(capped_[target]);
      z_last = static_cast<double>(capped_[tokens_]);
      rows.others[row] =
          exponentials_of<S>(capped_, tokens_, target, maximum, exponentials, nothing);
    } else if (tokens_ <= most_vectors * width<A>) {
      rows.others[row] = short_row<S>(logits, tokens_, target, maximum, exponentials);
    } else {
      maximum = row_maximum(logits, tokens_);
      rows.others[row] =
          exponentials_of<S>(logits, tokens_, target, maximum, exponentials, nothing);
    }
    rows.own[row] = static_cast<double>(exponentials[target]);
    rows.above[row] = static_cast<double>(maximum) - z_target;
    rows.last[row] = z_last + call_.share_offset - static_cast<double>(maximum);
    rows.counted[row] = static_cast<double>(call_.by_counts[i]);
  }

  void write(std::int64_t i, int row, const RowNumbers& rows) const noexcept {
    S* const gradient = gradient_of(i);
    if (is_ignored(i)) {
      fill(gradient, call_.outputs, A{0});
      return;
    }
    const std::int64_t target = call_.targets[i];
    const A* const exponentials = exponentials_ + row * stride_;
    const Prefetcher<S> nothing{nullptr, 0};
    double at_target = rows.at_target[row], at_last = rows.at_last[row];
    if (call_.softcap > 0) {
      const Slope slope{rows.factor[row], 0, 0};
      write_gradient<S>(RowBuffers<S>{tokens_, exponentials, capped_}, slope, call_.softcap,
                        nullptr, gradient, nothing);
      at_target *= slope_of_cap(target);
      at_last *= slope_of_cap(tokens_);
    } else {
      write_gradient_plain<S>(exponentials, tokens_, static_cast<A>(rows.factor[row]), gradient,
                              false, nothing);
    }
    set_value(gradient + target, at_target);
    set_value(gradient + tokens_, at_last);
  }

  double slope_of_cap(std::int64_t output) const noexcept {
    const double t = static_cast<double>(capped_[output]) / call_.softcap;
    return 1 - t * t;
  }

  const Mixture& call_;
  std::int64_t tokens_;
  A* exponentials_;
  A* capped_;
  std::int64_t stride_;    // of the rows' exponentials, padded by one vector
  std::int64_t together_;  // how many rows fit in the working space; with a soft-cap 1
};

template <class S>
void mixture(const Mixture& call, std::int64_t first, std::int64_t last, void* scratch,
             MixtureResult& result) noexcept {
  const MixtureRows<S> rows(call, scratch);
  rows.run(first, last, result);
}

inline Doubles load_doubles(const double* from, int count) noexcept {
  return load_at(from, 0, count);
}
inline Doubles load_doubles(const float* from, int count) noexcept {
  using Half = Vector<float, width<double>>;
  const Half v = count == width<double> ? load<Half>(from) : load_first<Half>(from, count);
  return __builtin_convertvector(v, Doubles);
}

// With m the largest logit of a token, sums exp(z − m), which gives the share of the counts, and
// then replaces p_counts with the logarithm of the mixture.
template <class S>
void log_probabilities(const void* row, std::int64_t tokens, const Share& share,
                       double* probabilities) noexcept {
  const auto* const logits = static_cast<const S*>(row);
  const auto largest = static_cast<double>(row_maximum(logits, tokens));
  const Doubles maximum = broadcast<Doubles>(largest);
  Doubles sums{};
  for_vectors<Doubles>(tokens, [&](std::int64_t at, int count) {
    const Doubles own = exp_of_nonpositive(load_doubles(logits + at, count) - maximum);
    sums += keep_first(own, Doubles{}, count);
  });
  const double sum = sum_of_lanes(sums), log_sum = largest + std::log(sum);
  const double gate = share.scale * (static_cast<double>(logits[tokens]) - log_sum) + share.offset;
  const Doubles of_counts = broadcast<Doubles>(1 / (1 + std::exp(-gate)));
  const Doubles of_tokens = broadcast<Doubles>(1 / ((1 + std::exp(gate)) * sum));
  for_vectors<Doubles>(tokens, [&](std::int64_t at, int count) {
    const Doubles own = exp_of_nonpositive(load_doubles(logits + at, count) - maximum);
    const Doubles counted = load_at(probabilities, at, count);
    store_at(probabilities, at, count, vector_log(own * of_tokens + of_counts * counted));
  });
}

}  // namespace

extern const MixtureTable mixture_table;
const MixtureTable mixture_table = {
    {&mixture<float>, &mixture<double>, &mixture<BFloat16>, &mixture<Float16>},
    {&log_probabilities<float>, &log_probabilities<double>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

// Predicts a text from adaptive counts, and with a network if there is one.
//
// Two counts predict together: those of the frozen text and the read text, and those of the read
// text alone, which has longer n-grams and repeats itself more. A gate gives each its share, and a
// second gate corrects the share that the network gives to the counts. Both learn from the targets.
#ifndef NANOCHAT_KERNELS_CPU_NGRAM_ADAPTIVE_MODEL_HPP_
#define NANOCHAT_KERNELS_CPU_NGRAM_ADAPTIVE_MODEL_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/ngram/adaptive.hpp"

namespace nanochat::kernels::ngram {

// Mixes two probabilities: ((1 − g) · p₀ + f · g · p₁) / (1 − g + f · g) for a given share g. The
// log of the factor f is a sum of biases, one for each feature of the place. They rise and fall
// with the slope of the log probability, as AdaGrad scales it.
class Gate {
 public:
  static constexpr std::size_t features = 3, values = 1024;
  using Place = std::array<std::uint32_t, features>;

  Gate();
  void enter(const Place& place) noexcept;
  double factor() const noexcept { return factor_; }
  // own: (1 − share) · p₀. other: p₁.
  double mixed(double own, double other, double share) const noexcept {
    const double raised = factor_ * share;
    return (own + raised * other) / (1 - share + raised);
  }
  void learn(double own, double other, double share, double rate) noexcept;

 private:
  struct Bias {
    double value = 0.0;
    double squares = 1e-2;  // sum of the squared slopes so far
  };
  std::vector<Bias> biases_;  // by feature and value
  Place place_{};
  double factor_ = 1.0;
};

class AdaptiveModel {
 public:
  // read_order: of the counts of the read text alone, or 0 for none. The rates are those of
  // learning; 0 learns nothing.
  AdaptiveModel(const View& table, int order, int read_order, bool begins, double discount_rate,
                double gate_rate);

  // Of a target: its probability, and that by the counts alone.
  struct Scored {
    double mixed, counted;
  };

  // Scores a target, then counts it. network: the target's share of the network's softmax and the
  // share of the counts, or null.
  Scored read(std::uint32_t target, const double* network);

  // Writes the probabilities of all tokens. network: the share of each, then that of the counts,
  // or null.
  void distribution(const double* network, double* result) const;

  std::uint32_t vocab() const noexcept { return vocab_; }
  std::int64_t tokens_read() const noexcept { return read_; }
  std::size_t bytes() const noexcept;

 private:
  void enter() noexcept;

  std::uint32_t vocab_, last_;
  double gate_rate_;
  std::int64_t read_ = 0;
  Adaptive joint_;                  // the counts of both texts
  std::optional<Adaptive> recent_;  // those of the read text
  Gate recent_gate_, network_gate_;
};

}  // namespace nanochat::kernels::ngram

#endif  // NANOCHAT_KERNELS_CPU_NGRAM_ADAPTIVE_MODEL_HPP_

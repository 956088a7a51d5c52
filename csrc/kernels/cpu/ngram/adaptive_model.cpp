#include "kernels/cpu/ngram/adaptive_model.hpp"

#include <algorithm>
#include <cmath>

namespace nanochat::kernels::ngram {
namespace {

// The share of the counts of the read text before the gate has learned: 1 / (1 + e⁴).
const double first_share = 1.0 / (1.0 + std::exp(4.0));

constexpr double largest_bias = 20.0;

View without_text(const View& table) noexcept {
  View view;
  view.vocab = table.vocab;
  return view;
}

// How many tokens of context the counts know, and how certain their followers are.
std::uint32_t match(const Adaptive& counts) noexcept {
  return static_cast<std::uint32_t>(counts.depths()) * 5 + std::min(counts.types(), 4U);
}

}  // namespace

Gate::Gate() : biases_(features * values) {}

void Gate::enter(const Place& place) noexcept {
  double bias = 0.0;
  for (std::size_t i = 0; i < features; ++i) {
    place_[i] = static_cast<std::uint32_t>(i * values) + place[i] % values;
    bias += biases_[place_[i]].value;
  }
  factor_ = std::exp(std::clamp(bias, -largest_bias, largest_bias));
}

void Gate::learn(double own, double other, double share, double rate) noexcept {
  const double p = mixed(own, other, share);
  if (p == 0) return;  // log p has no derivative; no bias would have predicted this target
  const double raised = factor_ * share;
  const double weight = raised / (1 - share + raised);
  const double slope = weight * (other / p - 1);
  for (const std::uint32_t index : place_) {
    Bias& bias = biases_[index];
    bias.squares += slope * slope;
    bias.value += rate * slope / std::sqrt(bias.squares);
    bias.value = std::clamp(bias.value, -largest_bias, largest_bias);
  }
}

AdaptiveModel::AdaptiveModel(const View& table, int order, int read_order, bool begins,
                             double discount_rate, double gate_rate)
    : vocab_(table.vocab),
      last_(bos),
      gate_rate_(gate_rate),
      joint_(table, order, begins, discount_rate) {
  if (read_order > 0) recent_.emplace(without_text(table), read_order, begins, discount_rate);
  enter();
}

void AdaptiveModel::enter() noexcept {
  const Gate::Place place{match(recent_ ? *recent_ : joint_), match(joint_), last_};
  recent_gate_.enter(place);
  network_gate_.enter(place);
}

AdaptiveModel::Scored AdaptiveModel::read(std::uint32_t target, const double* network) {
  double counted = joint_.score(target);
  if (recent_) {
    const double own = (1 - first_share) * counted, other = recent_->score(target);
    counted = recent_gate_.mixed(own, other, first_share);
    recent_gate_.learn(own, other, first_share, gate_rate_);
    recent_->read(target);
  }
  double result = counted;
  if (network != nullptr) {
    result = network_gate_.mixed(network[0], counted, network[1]);
    network_gate_.learn(network[0], counted, network[1], gate_rate_);
  }
  joint_.read(target);
  last_ = target;
  ++read_;
  enter();
  return {result, counted};
}

void AdaptiveModel::distribution(const double* network, double* result) const {
  joint_.distribution(result);
  if (recent_) {
    std::vector<double> other(vocab_);
    recent_->distribution(other.data());
    for (std::uint32_t i = 0; i < vocab_; ++i) {
      result[i] = recent_gate_.mixed((1 - first_share) * result[i], other[i], first_share);
    }
  }
  if (network == nullptr) return;
  for (std::uint32_t i = 0; i < vocab_; ++i) {
    result[i] = network_gate_.mixed(network[i], result[i], network[vocab_]);
  }
}

std::size_t AdaptiveModel::bytes() const noexcept {
  return sizeof(*this) - sizeof(joint_) + joint_.bytes() + (recent_ ? recent_->bytes() : 0) +
         2 * Gate::features * Gate::values * sizeof(double) * 2;
}

}  // namespace nanochat::kernels::ngram

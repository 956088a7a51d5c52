// See optimizer.hpp. The operations are in microgpt.py's order; another order changes bits.
#include "scalar/optimizer.hpp"

namespace nanochat {
namespace {

double stored(double x, Precision precision) noexcept {
  return precision == Precision::float32 ? static_cast<double>(static_cast<float>(x)) : x;
}

}  // namespace

void adamw_step(double* value, const double* grad, double* m, double* v, std::size_t n,
                const AdamWSettings& settings, Precision precision) noexcept {
  const double step = static_cast<double>(settings.step);
  const double correction1 = 1.0 - libm::pow(settings.beta1, step);
  const double correction2 = 1.0 - libm::pow(settings.beta2, step);
  const double decay = 1.0 - settings.lr * settings.weight_decay;
  for (std::size_t i = 0; i < n; ++i) {
    const double g = grad[i] * settings.grad_scale;
    const double mean = settings.beta1 * m[i] + (1.0 - settings.beta1) * g;
    const double square = settings.beta2 * v[i] + (1.0 - settings.beta2) * libm::pow(g, 2.0);
    const double mean_hat = mean / correction1;
    const double square_hat = square / correction2;
    const double update = settings.lr * mean_hat / (libm::pow(square_hat, 0.5) + settings.eps);
    value[i] = stored(value[i] * decay - update, precision);
    m[i] = stored(mean, precision);
    v[i] = stored(square, precision);
  }
}

void sgd_step(double* value, const double* grad, double* buffer, std::size_t n,
              const SgdSettings& settings, Precision precision) noexcept {
  const double decay = 1.0 - settings.lr * settings.weight_decay;
  for (std::size_t i = 0; i < n; ++i) {
    const double g = grad[i] * settings.grad_scale;
    const double velocity = settings.first ? g : settings.momentum * buffer[i] + g;
    value[i] = stored(value[i] * decay - settings.lr * velocity, precision);
    buffer[i] = stored(velocity, precision);
  }
}

double sum_of_squares(const double* grad, std::size_t n) noexcept {
  double total = 0.0;
  for (std::size_t i = 0; i < n; ++i) total += grad[i] * grad[i];
  return total;
}

}  // namespace nanochat

// Optimizer steps over contiguous arrays. Pure functions of their arguments. AdamW without weight
// decay is bit-identical to microgpt.py's Adam: powers are those of libm's pow, as for CPython's
// **. Weight decay is decoupled: value *= 1 - lr * weight_decay comes first.
#ifndef NANOCHAT_SCALAR_OPTIMIZER_HPP_
#define NANOCHAT_SCALAR_OPTIMIZER_HPP_

#include <cstddef>

#include "scalar/tape.hpp"

namespace nanochat {

struct AdamWSettings {
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  long long step;     // counts from 1
  double grad_scale;  // factor of every gradient, applied first
};

struct SgdSettings {
  double lr;
  double momentum;
  double weight_decay;
  bool first;         // first step: the buffer is set to the gradient (torch.optim.SGD)
  double grad_scale;  // factor of every gradient, applied first
};

// value, grad, m, v: n numbers each. With Precision::float32 the arithmetic is in double, and
// value, m and v are rounded to float at the end.
void adamw_step(double* value, const double* grad, double* m, double* v, std::size_t n,
                const AdamWSettings& settings, Precision precision) noexcept;

// value, grad, buffer: n numbers each; the buffer is read and written even at momentum 0.
void sgd_step(double* value, const double* grad, double* buffer, std::size_t n,
              const SgdSettings& settings, Precision precision) noexcept;

// Σ grad², added in order.
double sum_of_squares(const double* grad, std::size_t n) noexcept;

}  // namespace nanochat

#endif  // NANOCHAT_SCALAR_OPTIMIZER_HPP_

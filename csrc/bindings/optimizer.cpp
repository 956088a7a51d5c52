// Optimizer steps over a Matrix. The caller owns the state arrays.
#include "scalar/optimizer.hpp"

#include <pybind11/numpy.h>

#include "bindings/matrix.hpp"

namespace nanochat::bindings {
namespace {

using State = py::array_t<double, py::array::c_style>;

double* state_of(const Matrix& matrix, State& state, const char* name) {
  if (static_cast<std::size_t>(state.size()) != matrix.size()) {
    throw py::value_error(std::string(name) + " has " + std::to_string(state.size()) +
                          " elements, but the matrix has " + std::to_string(matrix.size()) +
                          " parameters");
  }
  if (!state.writeable()) throw py::value_error(std::string(name) + " is read-only");
  return state.mutable_data();
}

void adamw(const Matrix& matrix, State m, State v, double lr, double beta1, double beta2,
           double eps, double weight_decay, long long t, double grad_scale) {
  if (t < 1) throw py::value_error("t counts steps from 1, got " + std::to_string(t));
  adamw_step(matrix.values(), matrix.grads(), state_of(matrix, m, "m"), state_of(matrix, v, "v"),
             matrix.size(), {lr, beta1, beta2, eps, weight_decay, t, grad_scale},
             matrix.precision());
}

void sgd(const Matrix& matrix, State buf, double lr, double momentum, double weight_decay,
         bool first, double grad_scale) {
  sgd_step(matrix.values(), matrix.grads(), state_of(matrix, buf, "buf"), matrix.size(),
           {lr, momentum, weight_decay, first, grad_scale}, matrix.precision());
}

}  // namespace

void register_optimizer(py::module_& module) {
  module.def(
      "adamw_step", &adamw, py::arg("matrix"), py::arg("m").noconvert(), py::arg("v").noconvert(),
      py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
      py::arg("t"), py::arg("grad_scale") = 1.0,
      "adamw_step(matrix, m, v, lr, beta1, beta2, eps, weight_decay, t, grad_scale=1.0)\n--\n\n"
      "Update a Matrix in place by one AdamW step (Loshchilov & Hutter 2019; decoupled decay).\n\n"
      "Without weight decay the result is bit-identical to microgpt.py's Adam. On a float32 tape\n"
      "the parameters, m and v are rounded to float32 after the update.\n\n"
      "Args:\n"
      "    m, v: writable C-contiguous float64 arrays of rows * cols elements, updated in place.\n"
      "    t: the number of this step, from 1.\n"
      "    grad_scale: factor of every gradient, applied first.\n\n"
      "Raises ValueError for t < 1 or a state of the wrong size, TypeError for a state of another\n"
      "dtype or layout.");
  module.def(
      "sgd_step", &sgd, py::arg("matrix"), py::arg("buf").noconvert(), py::arg("lr"),
      py::arg("momentum"), py::arg("weight_decay"), py::arg("first"), py::arg("grad_scale") = 1.0,
      "sgd_step(matrix, buf, lr, momentum, weight_decay, first, grad_scale=1.0)\n--\n\n"
      "Update a Matrix in place by one SGD step with momentum and decoupled weight decay.\n\n"
      "Args:\n"
      "    buf: a writable C-contiguous float64 array of rows * cols elements. The first step\n"
      "        stores the gradient in it, later steps momentum * buf + grad, as torch.optim.SGD.\n"
      "    first: whether this is the first step.\n\n"
      "Raises the errors of adamw_step.");
  module.def(
      "grad_sum_of_squares",
      [](const Matrix& matrix) { return sum_of_squares(matrix.grads(), matrix.size()); },
      py::arg("matrix"),
      "grad_sum_of_squares(matrix)\n--\n\n"
      "Return the sum of the squared gradients, added in order, as a float.");
}

}  // namespace nanochat::bindings

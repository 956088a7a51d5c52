// Optimizer steps over a Matrix. State arrays belong to the caller; the step is told everything.
#include "scalar/optimizer.hpp"

#include <pybind11/numpy.h>

#include "bindings/matrix.hpp"

namespace nanochat::bindings {
namespace {

using State = py::array_t<double, py::array::c_style>;

double* state_of(const Matrix& matrix, State& state, const char* name) {
  if (static_cast<std::size_t>(state.size()) != matrix.size()) {
    throw py::value_error(std::string(name) + " has " + std::to_string(state.size()) +
                          " elements, needs " + std::to_string(matrix.size()) +
                          ", one for each parameter");
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
      "One AdamW step (Loshchilov & Hutter 2019; decoupled decay), in place.\n\n"
      "m, v: writable C-contiguous float64 arrays of rows * cols elements. t counts from 1.\n"
      "grad_scale multiplies every gradient first. Without weight decay the arithmetic is\n"
      "microgpt.py's, bit for bit; on a float32 tape parameters, m and v are rounded to\n"
      "float32 after the update. Raises ValueError for t < 1 or a state of the wrong size,\n"
      "TypeError for one of another dtype or layout.");
  module.def("sgd_step", &sgd, py::arg("matrix"), py::arg("buf").noconvert(), py::arg("lr"),
             py::arg("momentum"), py::arg("weight_decay"), py::arg("first"),
             py::arg("grad_scale") = 1.0,
             "One SGD step with momentum and decoupled weight decay, in place.\n\n"
             "buf: a writable C-contiguous float64 array of rows * cols elements; the first step\n"
             "stores the gradient in it, later ones momentum * buf + grad (as torch.optim.SGD).\n"
             "Errors as for adamw_step.");
  module.def(
      "grad_sum_of_squares",
      [](const Matrix& matrix) { return sum_of_squares(matrix.grads(), matrix.size()); },
      py::arg("matrix"), "Sum of squared gradients, a float, added in order.");
}

}  // namespace nanochat::bindings

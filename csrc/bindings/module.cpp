// nanochat._scalar: the Python module of csrc/scalar.
#include "bindings/bindings.hpp"

PYBIND11_MODULE(_scalar, module) {
  using namespace nanochat::bindings;
  // The docstrings carry their own signatures: C++ type names do not help a Python reader.
  nanochat::bindings::py::options options;
  options.disable_function_signatures();
  module.doc() =
      "Scalar autograd in C++: Value, Tape, Matrix, recorded programs and optimizer steps.\n"
      "Source: microgpt.py and micrograd (Karpathy). The arithmetic has the same order and the\n"
      "same bits.";
  register_value(module);
  register_tape(module);
  register_matrix(module);
  register_selection(module);
  register_optimizer(module);
  register_recorder(module);
  register_program(module);
  register_draw(module);
}

// nanochat._scalar: the Python face of csrc/scalar.
#include "bindings/bindings.hpp"

PYBIND11_MODULE(_scalar, module) {
  using namespace nanochat::bindings;
  module.doc() =
      "Scalar autograd in C++: Value, Tape, Matrix and optimizer steps over parameter blocks.\n"
      "Source: microgpt.py and micrograd (Karpathy); same arithmetic, same order, same bits.";
  register_value(module);
  register_selection(module);
  register_tape(module);
  register_matrix(module);
  register_optimizer(module);
  register_recorder(module);
  register_program(module);
  register_draw(module);
}

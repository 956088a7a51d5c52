// nanochat._scalar: the Python module of csrc/scalar.
#include <exception>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "bindings/bindings.hpp"

namespace {

// pybind11 throws a runtime_error where Python has no memory for a list, a tuple or a string.
void translate_missing_memory(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(std::move(thrown));
  } catch (const std::runtime_error& error) {
    if (!std::string_view(error.what()).starts_with("Could not allocate")) throw;
    PyErr_NoMemory();
  }
}

}  // namespace

PYBIND11_MODULE(_scalar, module) {
  using namespace nanochat::bindings;
  nanochat::bindings::py::register_local_exception_translator(&translate_missing_memory);
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

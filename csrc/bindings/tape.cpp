// Tape and its no_grad() context manager.
#include "bindings/matrix.hpp"

namespace nanochat::bindings {
namespace {

Precision precision_named(const std::string& dtype) {
  if (dtype == "float64") return Precision::float64;
  if (dtype == "float32") return Precision::float32;
  throw py::value_error("dtype must be 'float64' or 'float32', got '" + dtype + "'");
}

// `with tape.no_grad():` – restores on exit what it found on entry, so that it nests.
class NoGrad {
 public:
  explicit NoGrad(const TapeOwner& tape) : tape_(tape) {}
  void enter() {
    if (tape_->recorder != nullptr) {
      throw std::runtime_error("no_grad() inside a recorded function would freeze its numbers");
    }
    found_.push_back(tape_->recording());
    tape_->set_recording(false);
  }
  void exit() {
    if (found_.empty()) throw std::runtime_error("no_grad() was left without being entered");
    tape_->set_recording(found_.back());
    found_.pop_back();
  }

 private:
  TapeOwner tape_;
  std::vector<bool> found_;
};

py::object new_value(const TapeOwner& tape, py::handle data) {
  double number;
  switch (to_double(data.ptr(), number)) {
    case Conversion::failed:
      throw py::error_already_set();
    case Conversion::not_a_number:
      throw py::type_error(std::string("Tape.value(data) needs a number, got ") +
                           Py_TYPE(data.ptr())->tp_name);
    case Conversion::done:
      break;
  }
  PyObject* value = wrap_node(tape.get(), tape->leaf(number));
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

}  // namespace

void register_tape(py::module_& module) {
  py::class_<NoGrad>(module, "NoGrad", "Context manager: operations record no operands inside it.")
      .def("__enter__", &NoGrad::enter)
      .def("__exit__", [](NoGrad& self, const py::args&) { self.exit(); });

  py::class_<TapeOwner>(
      module, "Tape",
      "Tape(dtype='float64')\n\n"
      "Where Values live. Values of different tapes do not mix. With dtype 'float32' every value,\n"
      "local gradient, product and accumulated gradient is rounded to float32.")
      .def(py::init([](const std::string& dtype) {
             return TapeOwner(new SharedTape(precision_named(dtype)));
           }),
           py::arg("dtype") = "float64")
      .def("value", &new_value, py::arg("data") = 0.0, "A new Value without operands.")
      .def("matrix", &new_matrix, py::arg("rows"), py::arg("cols"),
           "A block of rows x cols parameters, zero at first, as a Matrix.\n"
           "Raises ValueError unless both are at least 1.")
      .def(
          "no_grad", [](const TapeOwner& self) { return NoGrad(self); },
          "Context manager: inside it, operations on this tape compute their value and record no\n"
          "operands, so that memory is freed as soon as a Value goes. It nests.")
      .def_property_readonly(
          "recording", [](const TapeOwner& self) { return self->recording(); },
          "False inside no_grad().")
      .def_property_readonly(
          "nodes", [](const TapeOwner& self) { return self->store().nodes(); },
          "Nodes alive: results, leaves and the parameters of living matrices.")
      .def_property_readonly(
          "segments", [](const TapeOwner& self) { return self->store().segments(); },
          "Segments of 4096 nodes allocated, those waiting to be used again included.")
      .def_property_readonly(
          "bytes", [](const TapeOwner& self) { return self->store().bytes(); },
          "Bytes allocated for nodes, recycled ones included: the most this tape has needed.\n"
          "backward() keeps a further 4 bytes for each node that it has ordered.")
      .def_property_readonly(
          "dtype",
          [](const TapeOwner& self) {
            return self->precision() == Precision::float32 ? "float32" : "float64";
          },
          "'float64' or 'float32'.")
      .def("__repr__", [](const TapeOwner& self) {
        return "Tape(dtype='" +
               std::string(self->precision() == Precision::float32 ? "float32" : "float64") +
               "', nodes=" + std::to_string(self->store().nodes()) +
               ", bytes=" + std::to_string(self->store().bytes()) + ")";
      });

  // One object for the process, never destroyed: the default tape outlives every module.
  static PyObject* const shared_default = py::cast(TapeOwner(default_tape())).release().ptr();
  module.def(
      "default_tape", [] { return py::reinterpret_borrow<py::object>(shared_default); },
      "The tape of Values made with Value(data): float64, one for the process.");
}

}  // namespace nanochat::bindings

// Tape and the context manager of Tape.no_grad().
#include "bindings/matrix.hpp"

namespace nanochat::bindings {

// `with tape.no_grad():`. Restores on exit the state that it found on entry, so it can be nested.
class NoGrad {
 public:
  explicit NoGrad(const TapeOwner& tape) : tape_(tape) {}
  void enter() {
    if (tape_->recorder != nullptr) {
      throw std::runtime_error(
          "no_grad() cannot be entered while a function is recorded: its results would become "
          "constants");
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

}  // namespace nanochat::bindings

NANOCHAT_BOUND_CLASS(nanochat::bindings::NoGrad);

namespace nanochat::bindings {
namespace {

Precision precision_named(const std::string& dtype) {
  if (dtype == "float64") return Precision::float64;
  if (dtype == "float32") return Precision::float32;
  throw py::value_error("dtype must be 'float64' or 'float32', got '" + dtype + "'");
}

py::object new_value(const TapeOwner& tape, py::handle data) {
  const double number = required_number(data, "Tape.value(data) needs a number");
  PyObject* value = wrap_node(tape.get(), tape->leaf(number));
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

}  // namespace

void register_tape(py::module_& module) {
  py::class_<NoGrad>(module, "NoGrad",
                     "The context manager of Tape.no_grad(): operations record no operands.")
      .def("__enter__", &NoGrad::enter)
      .def("__exit__", [](NoGrad& self, const py::args&) { self.exit(); });

  py::class_<TapeOwner>(
      module, "Tape",
      "Tape(dtype='float64'): the memory in which Values live.\n\n"
      "Values of different tapes cannot be combined. With dtype 'float32' every value, local\n"
      "gradient, product and accumulated gradient is rounded to float32.\n\n"
      "Raises ValueError for another dtype.\n\n"
      "Example:\n"
      "    >>> from nanochat.scalar.value import Tape\n"
      "    >>> tape = Tape()\n"
      "    >>> x = tape.value(3.0)\n"
      "    >>> with tape.no_grad():\n"
      "    ...     (x * x).children\n"
      "    ()")
      .def(py::init([](const std::string& dtype) {
             return TapeOwner(new SharedTape(precision_named(dtype)));
           }),
           py::arg("dtype") = "float64",
           "__init__(self, dtype='float64')\n--\n\nCreate an empty tape.")
      .def("value", &new_value, py::arg("data") = 0.0,
           "value(self, data=0.0)\n--\n\nReturn a new Value without operands.")
      .def("matrix", &new_matrix, py::arg("rows"), py::arg("cols"),
           "matrix(self, rows, cols)\n--\n\n"
           "Return a Matrix of rows x cols parameters, all zero.\n\n"
           "Raises ValueError unless both are at least 1, MemoryError beyond 2^31 nodes.")
      .def(
          "no_grad", [](const TapeOwner& self) { return NoGrad(self); },
          "no_grad(self)\n--\n\n"
          "Return a context manager inside which operations compute values and record no\n"
          "operands. A result is then freed as soon as its Value is. It can be nested.")
      .def_property_readonly(
          "recording", [](const TapeOwner& self) { return self->recording(); },
          "Whether operations record their operands. False inside no_grad().")
      .def_property_readonly(
          "nodes", [](const TapeOwner& self) { return self->store().nodes(); },
          "Number of live nodes: results, leaves and the parameters of live matrices.")
      .def_property_readonly(
          "segments", [](const TapeOwner& self) { return self->store().segments(); },
          "Number of allocated segments of 4096 nodes, including free ones.")
      .def_property_readonly(
          "bytes", [](const TapeOwner& self) { return self->store().bytes(); },
          "Bytes allocated for nodes, including free ones: the peak of this tape. backward()\n"
          "keeps 4 more bytes per node that it has ordered.")
      .def_property_readonly(
          "dtype",
          [](const TapeOwner& self) {
            return self->precision() == Precision::float32 ? "float32" : "float64";
          },
          "The dtype, 'float64' or 'float32'.")
      .def("__repr__", [](const TapeOwner& self) {
        return "Tape(dtype='" +
               std::string(self->precision() == Precision::float32 ? "float32" : "float64") +
               "', nodes=" + std::to_string(self->store().nodes()) +
               ", bytes=" + std::to_string(self->store().bytes()) + ")";
      });

  // Never destroyed: the default tape outlives every module.
  static PyObject* const shared_default = py::cast(TapeOwner(default_tape())).release().ptr();
  module.def(
      "default_tape", [] { return py::reinterpret_borrow<py::object>(shared_default); },
      "default_tape()\n--\n\n"
      "Return the tape of Value(data) and Matrix(rows): float64, one per process.");
}

}  // namespace nanochat::bindings

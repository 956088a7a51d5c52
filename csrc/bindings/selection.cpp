// select and detached_max: the two operations on a list of Values that are not arithmetic. Models
// use them instead of an index or .data, which a recording could not replay.
#include <string>

#include "bindings/recorder.hpp"

namespace nanochat::bindings {
namespace {

// The recorder of the first Value's tape, or null.
Recorder* recorder_of(const py::list& values) {
  for (const py::handle value : values) {
    if (is_value(value.ptr())) return as_value(value.ptr())->tape->recorder;
  }
  return nullptr;
}

// The index is read before the length: reading it may run Python code that changes the values.
py::object select_by_index(const py::sequence& values, py::handle token) {
  const Py_ssize_t index = PyNumber_AsSsize_t(token.ptr(), PyExc_IndexError);
  if (index == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  const auto length = static_cast<py::ssize_t>(py::len(values));
  if (index < 0 || index >= length) {
    throw py::index_error("index " + std::to_string(index) + " is out of range for " +
                          std::to_string(length) + " values");
  }
  return values[static_cast<std::size_t>(index)];
}

py::object select(const py::sequence& values, const py::object& index) {
  if (!PyLong_Check(index.ptr()) && py::isinstance<Token>(index)) {
    const py::list items = items_of(values);
    Recorder* recorder = recorder_of(items);
    if (recorder == nullptr) {
      throw std::runtime_error("select() by a Token takes Values of a tape that is being recorded");
    }
    return recorder->select(items, index.cast<const Token&>());
  }
  if (PyIndex_Check(index.ptr()) == 0) {
    throw py::type_error("select() needs an int or a Token as index, got " + type_name(index));
  }
  return select_by_index(values, index);
}

double number_of(py::handle object) {
  if (is_value(object.ptr())) {
    const ValueObject* value = as_value(object.ptr());
    return value->tape->value(value->id);
  }
  return required_number(object, "detached_max() takes Values and numbers");
}

py::object detached_max(const py::iterable& iterable) {
  const py::list values = items_of(iterable);
  bool empty = true;
  double largest = 0.0;
  for (const py::handle value : values) {
    const double number = number_of(value);
    if (empty || number > largest) largest = number;
    empty = false;
  }
  if (empty) throw py::value_error("detached_max() needs at least one value");
  Recorder* recorder = recorder_of(values);
  if (recorder != nullptr) return recorder->largest(values, largest);
  return py::float_(largest);
}

}  // namespace

void register_selection(py::module_& module) {
  module.def(
      "select", &select, py::arg("values"), py::arg("index"),
      "select(values, index)\n--\n\n"
      "Return values[index], the same Value object.\n\n"
      "In a function that compile() records, `index` may be a Token: the replay then selects the\n"
      "value of the token that it is given. A plain index of a list would be frozen into the\n"
      "program.\n\n"
      "Args:\n"
      "    values: a sequence of Values.\n"
      "    index: an int from 0 to len(values) - 1, or a Token.\n\n"
      "Raises:\n"
      "    IndexError: the index is out of range. A negative index does not count from the end.\n"
      "    TypeError: the index is neither an int nor a Token, or a value of a recorded selection\n"
      "        is not a Value.\n"
      "    RuntimeError: `index` is a Token and no function is being recorded.\n\n"
      "Example:\n"
      "    >>> from nanochat import Value, select\n"
      "    >>> select([Value(0.1), Value(0.7)], 1)\n"
      "    Value(data=0.7, grad=0.0)");
  module.def(
      "detached_max", &detached_max, py::arg("values"),
      "detached_max(values)\n--\n\n"
      "Return the largest number of `values` as a constant: no gradient flows through it.\n\n"
      "The result is a float, or in a function that compile() records a Value that each replay\n"
      "computes again. As with max(), a nan in the first place stays.\n\n"
      "Args:\n"
      "    values: an iterable of Values and numbers. While recording: of Values only.\n\n"
      "Raises:\n"
      "    ValueError: there are no values.\n"
      "    TypeError: an item is not a Value or a number.\n\n"
      "Example:\n"
      "    >>> from nanochat import Value, detached_max\n"
      "    >>> detached_max([Value(1.0), Value(3.0)])\n"
      "    3.0");
}

}  // namespace nanochat::bindings

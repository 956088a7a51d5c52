// select and detached_max: what a model does with a list of Values other than arithmetic. Models go
// through these two, never through an index or .data, so that they can be recorded.
#include <string>

#include "bindings/recorder.hpp"

namespace nanochat::bindings {
namespace {

py::object select(const py::sequence& values, py::ssize_t index) {
  const auto length = static_cast<py::ssize_t>(py::len(values));
  if (index < 0 || index >= length) {
    throw py::index_error("index " + std::to_string(index) + " is out of range for " +
                          std::to_string(length) + " values");
  }
  return values[static_cast<std::size_t>(index)];
}

double plain_number(py::handle object) {
  if (is_value(object.ptr())) {
    const ValueObject* value = as_value(object.ptr());
    return value->tape->value(value->id);
  }
  double number;
  switch (to_double(object.ptr(), number)) {
    case Conversion::failed:
      throw py::error_already_set();
    case Conversion::not_a_number:
      throw py::type_error(std::string("detached_max() takes Values and numbers, got ") +
                           Py_TYPE(object.ptr())->tp_name);
    case Conversion::done:
      break;
  }
  return number;
}

py::object recorded_select(const py::sequence& values, const Token& token) {
  for (const py::handle value : values) {
    if (!is_value(value.ptr())) continue;
    Recorder* recorder = as_value(value.ptr())->tape->recorder;
    if (recorder != nullptr) return recorder->select(values, token);
  }
  throw std::runtime_error("select() by a Token takes Values of a tape that is being recorded");
}

// The tape that is being recorded and of which the first Value is, or null.
Recorder* recorder_of(const py::sequence& values) {
  for (const py::handle value : values) {
    if (is_value(value.ptr())) return as_value(value.ptr())->tape->recorder;
  }
  return nullptr;
}

py::object detached_max(const py::iterable& iterable) {
  const py::list values(iterable);
  bool empty = true;
  double largest = 0.0;
  for (const py::handle value : values) {
    const double number = plain_number(value);
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
  module.def("select", &select, py::arg("values"), py::arg("index"),
             "values[index], the Value itself. Raises IndexError outside 0 … len(values) - 1: a\n"
             "negative index does not count from the end.");
  module.def("select", &recorded_select, py::arg("values"), py::arg("index"));
  module.def(
      "detached_max", &detached_max, py::arg("values"),
      "The largest .data of Values (numbers count as themselves), a plain float through which\n"
      "no gradient flows. Same rule as max(): a nan in first place stays. Raises ValueError\n"
      "when there are no values.");
}

}  // namespace nanochat::bindings

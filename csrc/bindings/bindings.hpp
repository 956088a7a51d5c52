// What the files of the extension share: the Value object, tapes shared between Python objects, and
// one register_* function for each file. module.cpp calls them.
#ifndef NANOCHAT_BINDINGS_BINDINGS_HPP_
#define NANOCHAT_BINDINGS_BINDINGS_HPP_

#include <Python.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <utility>

#include "scalar/tape.hpp"

namespace nanochat::bindings {

namespace py = pybind11;

class Recorder;

// A tape and the number of Python objects (Values, Tapes, Matrices) that need it.
struct SharedTape : Tape {
  using Tape::Tape;
  std::size_t owners = 0;
  Recorder* recorder = nullptr;  // while a function is being recorded
};

inline void disown(SharedTape* tape) noexcept {
  if (--tape->owners == 0) delete tape;
}

// One of a tape's owners.
class TapeOwner {
 public:
  explicit TapeOwner(SharedTape* tape) noexcept : tape_(tape) { ++tape_->owners; }
  TapeOwner(const TapeOwner& other) noexcept : TapeOwner(other.tape_) {}
  TapeOwner& operator=(const TapeOwner&) = delete;
  ~TapeOwner() { disown(tape_); }
  SharedTape* get() const noexcept { return tape_; }
  SharedTape* operator->() const noexcept { return tape_; }

 private:
  SharedTape* tape_;
};

// The tape of `Value(3.0)`. Never freed: Values may outlive the module at interpreter exit.
SharedTape* default_tape();

// The Python object of one node: owns one reference to it.
struct ValueObject {
  PyObject_HEAD SharedTape* tape;
  NodeId id;
};

extern PyTypeObject value_type;
extern PyNumberMethods value_number_methods;

inline bool is_value(PyObject* object) noexcept { return Py_TYPE(object) == &value_type; }
inline ValueObject* as_value(PyObject* object) noexcept {
  return reinterpret_cast<ValueObject*>(object);
}

// A new Value over a node; takes over the caller's reference to the node, even when it fails.
PyObject* wrap_node(SharedTape* tape, NodeId id) noexcept;

// Turns a C++ exception in a C slot into a Python one: `return guarded([&] { … });`
template <class Body>
PyObject* guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const std::length_error& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  }
  return nullptr;
}

// Raises TypeError: what reading a number does while its tape is being recorded.
PyObject* refuse_data() noexcept;
// Raises RecordingError: what changing a number, or a backward pass, does then. Returns null.
PyObject* refuse_change(const char* what) noexcept;

enum class Conversion : std::uint8_t { done, not_a_number, failed };

// float(object) for numbers of every kind; a Value is not one of them. `failed` leaves a Python
// exception set: OverflowError for an int beyond the range of a double.
Conversion to_double(PyObject* object, double& number) noexcept;

void register_value(py::module_& module);
void register_draw(py::module_& module);
void register_selection(py::module_& module);
void register_tape(py::module_& module);
void register_matrix(py::module_& module);
void register_optimizer(py::module_& module);
void register_program(py::module_& module);
void register_recorder(py::module_& module);

}  // namespace nanochat::bindings

#endif  // NANOCHAT_BINDINGS_BINDINGS_HPP_

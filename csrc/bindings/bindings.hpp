// Shared by all files of the extension: the Value object, tapes owned by Python objects, checked
// conversions, and one register_* function per file. module.cpp calls the register functions.
#ifndef NANOCHAT_BINDINGS_BINDINGS_HPP_
#define NANOCHAT_BINDINGS_BINDINGS_HPP_

#include <Python.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "scalar/tape.hpp"

namespace nanochat::bindings {

namespace py = pybind11;

class Recorder;

// A tape and the number of Python objects (Values, Tapes, Matrices) that own it.
struct SharedTape : Tape {
  using Tape::Tape;
  std::size_t owners = 0;
  Recorder* recorder = nullptr;  // set while a function is recorded
};

inline void disown(SharedTape* tape) noexcept {
  if (--tape->owners == 0) delete tape;
}

// One owner of a tape. Bound to Python as Tape.
class TapeOwner {
 public:
  explicit TapeOwner(SharedTape* tape) noexcept : tape_(tape) { ++tape_->owners; }
  TapeOwner(const TapeOwner& other) noexcept : TapeOwner(other.tape_) {}
  TapeOwner& operator=(const TapeOwner&) = delete;
  ~TapeOwner() { disown(tape_); }
  SharedTape* get() const noexcept { return tape_; }
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDelete): the analyzer does not count the owners
  SharedTape* operator->() const noexcept { return tape_; }

 private:
  SharedTape* tape_;
};

// The tape of `Value(3.0)`. Never freed: Values may outlive the module at interpreter exit.
SharedTape* default_tape();

// The Python object of one node. It owns one reference to the node.
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

// Returns a new Value of a node. Takes over the caller's reference to the node, also on failure.
PyObject* wrap_node(SharedTape* tape, NodeId id) noexcept;

// Converts a C++ exception in a C slot to a Python exception: `return guarded([&] { … });`
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

// Raises TypeError: the number of a Value cannot be read while its tape is recorded.
PyObject* refuse_data() noexcept;
// The same for the numbers of a Matrix.
PyObject* refuse_numbers() noexcept;
// Raises RecordingError: a Value cannot be changed while its tape is recorded. Returns null.
PyObject* refuse_change(const char* what) noexcept;

// Raises nanochat.errors.ProgramError.
[[noreturn]] void raise_program_error(const std::string& message);

enum class Conversion : std::uint8_t { done, not_a_number, failed };

// float(object) for every numeric type except Value. `failed` leaves a Python exception set, for
// example OverflowError for an int outside the range of a double.
Conversion to_double(PyObject* object, double& number) noexcept;

// The same, but throws: TypeError "<rule>, got <type>" if the object is not a number.
double required_number(py::handle object, const char* rule);

inline std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// A private copy of the items. Loops run over such a copy because a sequence may create its items
// on access, and because Python code that runs in the loop may change the original. A sequence with
// a length is read no further than that: ValueError if its items do not end there.
inline py::list items_of(py::handle iterable) {
  PyObject* const source = iterable.ptr();
  const bool trusted = PyList_CheckExact(source) != 0 || PyTuple_CheckExact(source) != 0;
  const Py_ssize_t size = trusted ? -1 : PyObject_Size(source);
  if (size < 0) {
    PyErr_Clear();  // no length
    PyObject* items = PySequence_List(source);
    if (items == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::list>(items);
  }
  py::list items;
  for (const py::handle item : iterable) {
    if (static_cast<Py_ssize_t>(items.size()) == size) {
      throw py::value_error("a sequence must have as many items as its length, got more than " +
                            std::to_string(size));
    }
    items.append(item);
  }
  return items;
}

// Loads bound C++ objects and refuses those whose __init__ has not run (`Matrix.__new__(Matrix)`,
// or a subclass that does not call super().__init__ first). pybind11 would return memory without a
// constructed object.
template <class T>
struct InitializedCaster : py::detail::type_caster_base<T> {
  using Base = py::detail::type_caster_base<T>;
  using Base::Base;

  bool load(py::handle source, bool convert) {
    return Base::template load_impl<InitializedCaster>(source, convert);
  }

 protected:
  friend class py::detail::type_caster_generic;
  void load_value(py::detail::value_and_holder&& object) {
    if (object.value_ptr() == nullptr) {
      throw py::type_error(std::string(this->typeinfo->type->tp_name) +
                           " is not initialized: its __init__ has not run");
    }
    this->value = object.value_ptr();
  }
};

void register_value(py::module_& module);
void register_draw(py::module_& module);
void register_selection(py::module_& module);
void register_tape(py::module_& module);
void register_matrix(const py::module_& module);
void register_optimizer(py::module_& module);
void register_program(const py::module_& module);
void register_recorder(const py::module_& module);

}  // namespace nanochat::bindings

// Every file that binds or reads the class must see this. Use it at global scope.
#define NANOCHAT_BOUND_CLASS(Type)                                                           \
  template <>                                                                                \
  struct pybind11::detail::type_caster<Type> : nanochat::bindings::InitializedCaster<Type> { \
    using nanochat::bindings::InitializedCaster<Type>::InitializedCaster;                    \
  }

NANOCHAT_BOUND_CLASS(nanochat::bindings::TapeOwner);

#endif  // NANOCHAT_BINDINGS_BINDINGS_HPP_

// The Value type: a CPython type with C slots (a pybind11 class costs 16 times as much per
// addition) whose objects name a node of a tape. Arithmetic slots are in value_number.cpp.
#include <string>

#include "bindings/bindings.hpp"

namespace nanochat::bindings {
namespace {

// Dead objects wait here to be used again: a graph makes and drops one Value for each operation.
// Guarded by the interpreter lock, as every list of this kind in CPython is.
constexpr int free_list_size = 1024;
ValueObject* free_list[free_list_size];
int free_count = 0;

void dealloc(PyObject* self) noexcept {
  ValueObject* value = as_value(self);
  value->tape->release(value->id);
  disown(value->tape);
  if (free_count < free_list_size) {
    free_list[free_count++] = value;
  } else {
    PyObject_Free(self);
  }
}

PyObject* make_value(PyTypeObject*, PyObject* args, PyObject* keywords) noexcept {
  static const char* names[] = {"data", nullptr};
  PyObject* data = nullptr;
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O:Value", const_cast<char**>(names), &data)) {
    return nullptr;
  }
  double number = 0.0;
  if (data != nullptr) {
    switch (to_double(data, number)) {
      case Conversion::failed:
        return nullptr;
      case Conversion::not_a_number:
        return PyErr_Format(PyExc_TypeError, "Value(data) needs a number, got %s",
                            Py_TYPE(data)->tp_name);
      case Conversion::done:
        break;
    }
  }
  return guarded([&] {
    SharedTape* tape = default_tape();
    return wrap_node(tape, tape->leaf(number));
  });
}

// Equal means the same node, so that `v.children[0] == a` and a set of visited nodes work.
PyObject* compare(PyObject* left, PyObject* right, int operation) noexcept {
  if (!is_value(left) || !is_value(right) || (operation != Py_EQ && operation != Py_NE)) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  const ValueObject *a = as_value(left), *b = as_value(right);
  const bool same = a->tape == b->tape && a->id == b->id;
  return PyBool_FromLong(same == (operation == Py_EQ));
}

Py_hash_t hash(PyObject* self) noexcept {
  // Never -1: the id takes 31 bits.
  return static_cast<Py_hash_t>(as_value(self)->id);
}

std::string number_text(double number) {
  char* text = PyOS_double_to_string(number, 'r', 0, Py_DTSF_ADD_DOT_0, nullptr);
  if (text == nullptr) throw std::bad_alloc();
  std::string copy(text);
  PyMem_Free(text);
  return copy;
}

PyObject* repr(PyObject* self) noexcept {
  return guarded([&] {
    const ValueObject* value = as_value(self);
    const std::string text = "Value(data=" + number_text(value->tape->value(value->id)) +
                             ", grad=" + number_text(value->tape->grad(value->id)) + ")";
    return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
  });
}

std::string op_text(const Tape& tape, NodeId id) {
  switch (tape.op(id)) {
    case Op::leaf:
      return "";
    case Op::add:
      return "+";
    case Op::mul:
      return "*";
    case Op::add_const:
      return "+" + number_text(tape.constant(id));
    case Op::mul_const:
      return "*" + number_text(tape.constant(id));
    case Op::pow_const:
      return "**" + number_text(tape.constant(id));
    case Op::neg:
      return "neg";
    case Op::exp:
      return "exp";
    case Op::log:
      return "log";
    case Op::relu:
      return "relu";
    case Op::tanh:
      return "tanh";
  }
  return "";
}

PyObject* get_op(PyObject* self, void*) noexcept {
  return guarded([&] {
    const std::string text = op_text(*as_value(self)->tape, as_value(self)->id);
    return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
  });
}

PyObject* get_children(PyObject* self, void*) noexcept {
  SharedTape* tape = as_value(self)->tape;
  const NodeId id = as_value(self)->id;
  const int count = operand_count(tape->op(id));
  PyObject* children = PyTuple_New(count);
  if (children == nullptr) return nullptr;
  for (int i = 0; i < count; ++i) {
    const NodeId operand = i == 0 ? tape->first(id) : tape->second(id);
    tape->retain(operand);
    PyObject* child = wrap_node(tape, operand);
    if (child == nullptr) {
      Py_DECREF(children);
      return nullptr;
    }
    PyTuple_SET_ITEM(children, i, child);
  }
  return children;
}

PyObject* get_data(PyObject* self, void*) noexcept {
  if (as_value(self)->tape->recorder != nullptr) [[unlikely]] {
    return refuse_data();
  }
  return PyFloat_FromDouble(as_value(self)->tape->value(as_value(self)->id));
}

PyObject* get_grad(PyObject* self, void*) noexcept {
  if (as_value(self)->tape->recorder != nullptr) [[unlikely]] {
    return refuse_data();
  }
  return PyFloat_FromDouble(as_value(self)->tape->grad(as_value(self)->id));
}

// Created when the module is; lives as long as it.
PyObject* recording_error = nullptr;

bool is_recorded(PyObject* self) noexcept { return as_value(self)->tape->recorder != nullptr; }

bool assigned_number(PyObject* assigned, const char* name, double& number) noexcept {
  if (assigned == nullptr) {
    PyErr_Format(PyExc_AttributeError, "Value.%s cannot be deleted", name);
    return false;
  }
  const Conversion conversion = to_double(assigned, number);
  if (conversion == Conversion::not_a_number) {
    PyErr_Format(PyExc_TypeError, "Value.%s must be a number, got %s", name,
                 Py_TYPE(assigned)->tp_name);
  }
  return conversion == Conversion::done;
}

int set_data(PyObject* self, PyObject* assigned, void*) noexcept {
  double number;
  if (is_recorded(self)) {
    refuse_change("Value.data cannot be written");
    return -1;
  }
  if (!assigned_number(assigned, "data", number)) return -1;
  as_value(self)->tape->set_value(as_value(self)->id, number);
  return 0;
}

int set_grad(PyObject* self, PyObject* assigned, void*) noexcept {
  double number;
  if (is_recorded(self)) {
    refuse_change("Value.grad cannot be written");
    return -1;
  }
  if (!assigned_number(assigned, "grad", number)) return -1;
  as_value(self)->tape->set_grad(as_value(self)->id, number);
  return 0;
}

template <NodeId (Tape::*function)(NodeId)>
PyObject* apply(PyObject* self, PyObject*) noexcept {
  const ValueObject* value = as_value(self);
  Tape& tape = *value->tape;
  return guarded([&] { return wrap_node(value->tape, (tape.*function)(value->id)); });
}

template <void (Tape::*function)(NodeId)>
PyObject* traverse(PyObject* self, PyObject*) noexcept {
  if (is_recorded(self)) {
    return refuse_change(function == &Tape::backward ? "backward() cannot be called"
                                                     : "zero_grad() cannot be called");
  }
  const ValueObject* value = as_value(self);
  Tape& tape = *value->tape;
  return guarded([&]() -> PyObject* {
    (tape.*function)(value->id);
    Py_RETURN_NONE;
  });
}

PyObject* refuse_pickle(PyObject*, PyObject*) noexcept {
  PyErr_SetString(
      PyExc_TypeError,
      "a Value is a node of a live tape and cannot be pickled or copied; use its .data");
  return nullptr;
}

PyMethodDef methods[] = {
    {"exp", apply<&Tape::exp>, METH_NOARGS,
     "exp($self, /)\n--\n\ne**self, a new Value; inf on overflow (IEEE 754)."},
    {"log", apply<&Tape::log>, METH_NOARGS,
     "log($self, /)\n--\n\nNatural logarithm, a new Value; log(0) is -inf, log of a negative "
     "number nan."},
    {"relu", apply<&Tape::relu>, METH_NOARGS,
     "relu($self, /)\n--\n\nself where positive, else 0, a new Value; relu(nan) is nan."},
    {"tanh", apply<&Tape::tanh>, METH_NOARGS,
     "tanh($self, /)\n--\n\nHyperbolic tangent, a new Value; local gradient 1 - tanh**2."},
    {"backward", traverse<&Tape::backward>, METH_NOARGS,
     "backward($self, /)\n--\n\n"
     "Set self.grad to 1 and add d self / d v to v.grad for every v under self.\n\n"
     "Order of accumulation: depth-first post-order, children left to right, reversed, as in\n"
     "microgpt.py. Gradients add up over calls; zero_grad() clears them. Depth is unlimited."},
    {"zero_grad", traverse<&Tape::zero_grad>, METH_NOARGS,
     "zero_grad($self, /)\n--\n\nSet the gradient of self and of every Value under it to 0."},
    {"__reduce__", refuse_pickle, METH_NOARGS, "Refused: raises TypeError."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"data", get_data, set_data,
     "The value, a float. Setting it writes to the node (and to its Matrix); results computed "
     "earlier stay as they are.",
     nullptr},
    {"grad", get_grad, set_grad, "The gradient accumulated by backward(), a float.", nullptr},
    {"children", get_children, nullptr,
     "The operands, a tuple of 0, 1 or 2 Values. Numbers are part of the operation.", nullptr},
    {"op", get_op, nullptr,
     "The operation: '+', '*', '+2.0', '*2.0', '**2.0', 'neg', 'exp', …; '' for a leaf.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

constexpr const char* value_doc =
    "Value(data=0.0)\n--\n\n"
    "One number of a computation, with its gradient: a node of a tape.\n\n"
    "Operators + - * / take Values and numbers on both sides, ** a number as exponent. As in\n"
    "microgpt.py, a - b is a + (-b) and a / b is a * b**-1, in float64 and bit for bit; other "
    "than\n"
    "Python's math module, exp, log, ** and division by a Value follow IEEE 754 and return inf or\n"
    "nan instead of raising. Two Values are equal when they are the same node.\n\n"
    "Raises TypeError for data that is not a number, OverflowError for an int beyond a double,\n"
    "ValueError when operands are on different tapes, ZeroDivisionError for / 0 (a number).\n"
    "Source: micrograd and microgpt.py (Karpathy).";

// NumPy leaves operators with a Value to Value when the type says __array_ufunc__ = None.
PyObject* type_dict() {
  PyObject* dict = PyDict_New();
  if (dict == nullptr || PyDict_SetItemString(dict, "__array_ufunc__", Py_None) < 0) {
    throw py::error_already_set();
  }
  return dict;
}

void ready_type() {
  static const PyVarObject heads[] = {PyVarObject_HEAD_INIT(nullptr, 0)};  // ends in a comma
  value_type.ob_base = heads[0];
  value_type.tp_name = "nanochat._scalar.Value";
  value_type.tp_basicsize = sizeof(ValueObject);
  value_type.tp_flags = Py_TPFLAGS_DEFAULT;
  value_type.tp_doc = value_doc;
  value_type.tp_new = make_value;
  value_type.tp_dealloc = dealloc;
  value_type.tp_repr = repr;
  value_type.tp_hash = hash;
  value_type.tp_richcompare = compare;
  value_type.tp_as_number = &value_number_methods;
  value_type.tp_methods = methods;
  value_type.tp_getset = attributes;
  value_type.tp_dict = type_dict();
  if (PyType_Ready(&value_type) < 0) throw py::error_already_set();
}

}  // namespace

PyTypeObject value_type{};

SharedTape* default_tape() {
  static SharedTape* const tape = [] {
    SharedTape* made = new SharedTape();
    ++made->owners;
    return made;
  }();
  return tape;
}

PyObject* wrap_node(SharedTape* tape, NodeId id) noexcept {
  PyObject* object;
  if (free_count > 0) [[likely]] {
    object = reinterpret_cast<PyObject*>(free_list[--free_count]);
#ifdef Py_DEBUG
    PyObject_Init(object, &value_type);
#else
    Py_SET_REFCNT(object, 1);  // the type is still in place
#endif
  } else {
    object = reinterpret_cast<PyObject*>(PyObject_New(ValueObject, &value_type));
    if (object == nullptr) {
      tape->release(id);
      return nullptr;
    }
  }
  ++tape->owners;
  as_value(object)->tape = tape;
  as_value(object)->id = id;
  return object;
}

void register_value(py::module_& module) {
  ready_type();
  module.add_object("Value", reinterpret_cast<PyObject*>(&value_type));
  recording_error =
      PyErr_NewException("nanochat._scalar.RecordingError", PyExc_RuntimeError, nullptr);
  if (recording_error == nullptr) throw py::error_already_set();
  module.add_object("RecordingError", recording_error);
}

PyObject* refuse_change(const char* what) noexcept {
  PyErr_Format(recording_error,
               "%s while its tape is recorded: a program keeps what is computed, not what is "
               "changed; do it before compile(), or by the program's step()",
               what);
  return nullptr;
}

}  // namespace nanochat::bindings

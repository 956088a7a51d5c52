// The Value type. Its objects refer to a node of a tape. It is a CPython type with C slots, because
// a pybind11 class costs 16 times as much per addition. Arithmetic slots are in value_number.cpp.
#include <string>

#include "bindings/bindings.hpp"

namespace nanochat::bindings {
namespace {

// Freed objects that are used again: a graph creates and drops one Value per operation. Protected
// by the interpreter's lock, as the free lists of CPython are.
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

// Values of the same node are equal: `v.children[0] == a` and sets of visited nodes work.
PyObject* compare(PyObject* left, PyObject* right, int operation) noexcept {
  if (!is_value(left) || !is_value(right) || (operation != Py_EQ && operation != Py_NE)) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  const ValueObject *a = as_value(left), *b = as_value(right);
  const bool same = a->tape == b->tape && a->id == b->id;
  return PyBool_FromLong(same == (operation == Py_EQ));
}

Py_hash_t hash(PyObject* self) noexcept {
  // Never -1: an id has 31 bits.
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

// Created with the module, which keeps it alive.
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
  if (!assigned_number(assigned, "data", number)) return -1;
  if (is_recorded(self)) {
    refuse_change("Value.data cannot be written");
    return -1;
  }
  as_value(self)->tape->set_value(as_value(self)->id, number);
  return 0;
}

int set_grad(PyObject* self, PyObject* assigned, void*) noexcept {
  double number;
  if (!assigned_number(assigned, "grad", number)) return -1;
  if (is_recorded(self)) {
    refuse_change("Value.grad cannot be written");
    return -1;
  }
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

// Drawing is not worth C++: nanochat/scalar/graph_svg.py walks `children`.
// NOLINTNEXTLINE(misc-const-correctness): Python's C API has no pointers to const objects.
PyObject* call_python(PyObject* self, const char* function, PyObject* options) noexcept {
  PyObject* module = PyImport_ImportModule("nanochat.scalar.graph_svg");
  if (module == nullptr) return nullptr;
  PyObject* draw = PyObject_GetAttrString(module, function);
  Py_DECREF(module);
  if (draw == nullptr) return nullptr;
  PyObject* text = PyObject_VectorcallDict(draw, &self, 1, options);
  Py_DECREF(draw);
  return text;
}

PyObject* to_svg(PyObject* self, PyObject* arguments, PyObject* options) noexcept {
  if (PyTuple_GET_SIZE(arguments) != 0) {
    PyErr_SetString(PyExc_TypeError, "to_svg() takes keywords only: names, most");
    return nullptr;
  }
  return call_python(self, "graph_svg", options);
}

PyObject* repr_svg(PyObject* self, PyObject*) noexcept {
  return call_python(self, "small_graph_svg", nullptr);
}

PyMethodDef methods[] = {
    {"exp", apply<&Tape::exp>, METH_NOARGS,
     "exp($self, /)\n--\n\n"
     "Return e**self as a new Value; inf on overflow, as in IEEE 754."},
    {"log", apply<&Tape::log>, METH_NOARGS,
     "log($self, /)\n--\n\n"
     "Return the natural logarithm as a new Value.\n\n"
     "log(0) is -inf, the log of a negative number is nan."},
    {"relu", apply<&Tape::relu>, METH_NOARGS,
     "relu($self, /)\n--\n\n"
     "Return self if it is positive, otherwise 0, as a new Value.\n\n"
     "relu(nan) is nan; the gradient at 0 is 0."},
    {"tanh", apply<&Tape::tanh>, METH_NOARGS,
     "tanh($self, /)\n--\n\n"
     "Return the hyperbolic tangent as a new Value; the local gradient is 1 - tanh**2."},
    {"backward", traverse<&Tape::backward>, METH_NOARGS,
     "backward($self, /)\n--\n\n"
     "Set self.grad to 1 and add d self / d v to v.grad for every Value v under self.\n\n"
     "Gradients add up over calls, and a Value passes on what has added up in it. So call\n"
     "zero_grad() before a second backward() through the same Values. They are added in\n"
     "microgpt.py's order: depth-first post-order, children from left to right, reversed. The\n"
     "depth is not limited.\n\n"
     "Raises RecordingError while a function is being recorded.\n\n"
     "Example:\n"
     "    >>> from nanochat import Value\n"
     "    >>> x = Value(3.0)\n"
     "    >>> (x * x).backward()\n"
     "    >>> x.grad\n"
     "    6.0"},
    {"zero_grad", traverse<&Tape::zero_grad>, METH_NOARGS,
     "zero_grad($self, /)\n--\n\n"
     "Set the gradient of self and of every Value under it to 0."},
    {"to_svg", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(to_svg)),
     METH_VARARGS | METH_KEYWORDS,
     "to_svg($self, /, *, names=None, most=300)\n--\n\n"
     "Return the graph that computes self as the text of an SVG image, with numbers and\n"
     "gradients. Call backward() first to see gradients.\n\n"
     "Args:\n"
     "    names: Values by the name that their box shows; of a list, each by its index.\n"
     "    most: nodes to draw, those nearest to self.\n\n"
     "Raises ConfigError for `most` below 1.\n\n"
     "Example:\n"
     "    >>> from nanochat import Value\n"
     "    >>> a, b = Value(2.0), Value(3.0)\n"
     "    >>> product = a * b\n"
     "    >>> product.backward()\n"
     "    >>> product.to_svg(names={'a': a, 'b': b}).startswith('<svg')\n"
     "    True"},
    {"_repr_svg_", repr_svg, METH_NOARGS,
     "_repr_svg_($self, /)\n--\n\nReturn to_svg() of a small graph, for notebooks."},
    {"__reduce__", refuse_pickle, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nRaise TypeError: a Value cannot be pickled or copied."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"data", get_data, set_data,
     "The number, a float. Assigning to it changes the node (and its Matrix); results that were\n"
     "computed before keep their numbers.",
     nullptr},
    {"grad", get_grad, set_grad, "The gradient that backward() has accumulated, a float.", nullptr},
    {"children", get_children, nullptr,
     "The operands, a tuple of 0, 1 or 2 Values. Numbers are part of the operation.", nullptr},
    {"op", get_op, nullptr,
     "The operation: '+', '*', '+2.0', '*2.0', '**2.0', 'neg', 'exp', …; '' for a leaf.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

constexpr const char* value_doc =
    "Value(data=0.0)\n--\n\n"
    "A scalar with its gradient: one node of a computation.\n\n"
    "The operators + - * / accept Values and numbers on both sides; ** accepts a number as\n"
    "exponent. A result keeps its operands alive, for backward(). Results are bit-identical to\n"
    "microgpt.py: float64, a - b is a + (-b) and a / b is a * b**-1. Unlike Python's math module,\n"
    "exp(), log(), ** and division by a Value follow IEEE 754 and return inf or nan where math\n"
    "raises. x**0 is 1 with gradient 0 for every x.\n\n"
    "Two Values are equal if they are the same node. Values cannot be pickled, copied or\n"
    "subclassed.\n\n"
    "Args:\n"
    "    data: any number; float(data) is stored.\n\n"
    "Raises:\n"
    "    TypeError: `data` or an operand is not a number, or an exponent is a Value.\n"
    "    OverflowError: an int is beyond the range of a float.\n"
    "    ValueError: the operands are on different tapes.\n"
    "    ZeroDivisionError: division by the number 0.\n\n"
    "Example:\n"
    "    >>> from nanochat import Value\n"
    "    >>> a, b = Value(2.0), Value(-3.0)\n"
    "    >>> loss = (a * b + 10).tanh() / 2\n"
    "    >>> loss.backward()\n"
    "    >>> round(loss.data, 4), round(a.grad, 4)\n"
    "    (0.4997, -0.002)\n\n"
    "Source: micrograd and microgpt.py (Karpathy).";

// With __array_ufunc__ = None, NumPy leaves operators that have a Value operand to Value.
PyObject* type_dict() {
  PyObject* dict = PyDict_New();
  if (dict == nullptr || PyDict_SetItemString(dict, "__array_ufunc__", Py_None) < 0) {
    throw py::error_already_set();
  }
  return dict;
}

void ready_type() {
  static const PyVarObject heads[] = {
      PyVarObject_HEAD_INIT(nullptr, 0)};  // the macro ends in a comma
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
  PyErr_Format(
      recording_error,
      "%s while its tape is recorded: a program repeats operations, not assignments; do it "
      "before compile(), or use the program's step()",
      what);
  return nullptr;
}

}  // namespace nanochat::bindings

// Arithmetic slots of Value: + - * / ** with Values, and with numbers on either side. A number
// becomes a constant of the operation, not a node. The rest of Value is in value.cpp.
#include <cstring>

#include "bindings/bindings.hpp"

namespace nanochat::bindings {
namespace {

PyObject* mixed_tapes() noexcept {
  PyErr_SetString(
      PyExc_ValueError,
      "both operands must be on the same tape; create them by value() or matrix() of one Tape, or "
      "use .data of one of them");
  return nullptr;
}

// One arithmetic operator. `Rule` defines values(tape, a, b), number_right(tape, a, c) and
// number_left(tape, c, b), and whether the number zero on the right is an error.
template <class Rule>
PyObject* arithmetic(PyObject* left, PyObject* right) noexcept {
  return guarded([&]() -> PyObject* {
    double number;
    if (is_value(left)) {
      const ValueObject* a = as_value(left);
      if (is_value(right)) [[likely]] {
        const ValueObject* b = as_value(right);
        if (a->tape != b->tape) [[unlikely]]
          return mixed_tapes();
        return wrap_node(a->tape, Rule::values(*a->tape, a->id, b->id));
      }
      switch (to_double(right, number)) {
        case Conversion::failed:
          return nullptr;
        case Conversion::not_a_number:
          Py_RETURN_NOTIMPLEMENTED;
        case Conversion::done:
          if (Rule::refuses_zero && number == 0.0) {
            PyErr_SetString(PyExc_ZeroDivisionError, "Value division by the number zero");
            return nullptr;
          }
          return wrap_node(a->tape, Rule::number_right(*a->tape, a->id, number));
      }
    }
    switch (to_double(left, number)) {
      case Conversion::failed:
        return nullptr;
      case Conversion::not_a_number:
        Py_RETURN_NOTIMPLEMENTED;
      case Conversion::done:
        break;
    }
    const ValueObject* b = as_value(right);
    return wrap_node(b->tape, Rule::number_left(*b->tape, number, b->id));
  });
}

struct Add {
  static constexpr bool refuses_zero = false;
  static NodeId values(Tape& tape, NodeId a, NodeId b) { return tape.add(a, b); }
  static NodeId number_right(Tape& tape, NodeId a, double c) { return tape.add_const(a, c); }
  static NodeId number_left(Tape& tape, double c, NodeId b) { return tape.add_const(b, c); }
};

struct Subtract {
  static constexpr bool refuses_zero = false;
  static NodeId values(Tape& tape, NodeId a, NodeId b) { return tape.sub(a, b); }
  static NodeId number_right(Tape& tape, NodeId a, double c) { return tape.add_const(a, -c); }
  static NodeId number_left(Tape& tape, double c, NodeId b) { return tape.subtract_from(c, b); }
};

struct Multiply {
  static constexpr bool refuses_zero = false;
  static NodeId values(Tape& tape, NodeId a, NodeId b) { return tape.mul(a, b); }
  static NodeId number_right(Tape& tape, NodeId a, double c) { return tape.mul_const(a, c); }
  static NodeId number_left(Tape& tape, double c, NodeId b) { return tape.mul_const(b, c); }
};

struct Divide {
  static constexpr bool refuses_zero = true;
  static NodeId values(Tape& tape, NodeId a, NodeId b) { return tape.div(a, b); }
  static NodeId number_right(Tape& tape, NodeId a, double c) { return tape.div_const(a, c); }
  static NodeId number_left(Tape& tape, double c, NodeId b) { return tape.divide_into(c, b); }
};

// NOLINTNEXTLINE(misc-const-correctness): Python's own type of a ternary function
PyObject* power(PyObject* base, PyObject* exponent, PyObject* modulus) noexcept {
  if (modulus != Py_None) {
    PyErr_SetString(PyExc_TypeError, "pow() with a modulus is not defined for a Value");
    return nullptr;
  }
  if (is_value(exponent)) {
    PyErr_SetString(PyExc_TypeError,
                    "the exponent of ** must be a number, got Value; write (b * a.log()).exp() for "
                    "a ** b");
    return nullptr;
  }
  if (!is_value(base)) Py_RETURN_NOTIMPLEMENTED;  // only the modulus is a Value
  double number;
  switch (to_double(exponent, number)) {
    case Conversion::failed:
      return nullptr;
    case Conversion::not_a_number:
      Py_RETURN_NOTIMPLEMENTED;
    case Conversion::done:
      break;
  }
  const ValueObject* a = as_value(base);
  return guarded([&] { return wrap_node(a->tape, a->tape->pow_const(a->id, number)); });
}

PyObject* negative(PyObject* self) noexcept {
  const ValueObject* a = as_value(self);
  return guarded([&] { return wrap_node(a->tape, a->tape->neg(a->id)); });
}

PyObject* positive(PyObject* self) noexcept {
  Py_INCREF(self);
  return self;
}

// math.exp() and the like call float(): their result would have no gradient.
PyObject* refuse_float(PyObject* /*self*/) noexcept {
  PyErr_SetString(PyExc_TypeError,
                  "float() of a Value would lose its gradient; use .data for its number, or a "
                  "method of the Value such as exp(), log() or tanh()");
  return nullptr;
}

PyNumberMethods number_methods() noexcept {
  PyNumberMethods methods{};
  methods.nb_add = arithmetic<Add>;
  methods.nb_subtract = arithmetic<Subtract>;
  methods.nb_multiply = arithmetic<Multiply>;
  methods.nb_true_divide = arithmetic<Divide>;
  methods.nb_power = power;
  methods.nb_negative = negative;
  methods.nb_positive = positive;
  methods.nb_float = refuse_float;
  return methods;
}

}  // namespace

PyObject* refuse_data() noexcept {
  PyErr_SetString(PyExc_TypeError,
                  "the number of a Value cannot be read while it is recorded: it would become a "
                  "constant of the program; use detached_max() or select(), which are recorded");
  return nullptr;
}

PyObject* refuse_numbers() noexcept {
  PyErr_SetString(PyExc_TypeError,
                  "the numbers of a Matrix cannot be read while it is recorded: they would become "
                  "constants of the program; use row(), which is recorded");
  return nullptr;
}

PyNumberMethods value_number_methods = number_methods();

// Whether float() of a NumPy object drops something: the imaginary part of a complex number, or the
// mask of a missing one. NumPy only warns.
bool loses_by_float(PyObject* object) noexcept {
  if (PyComplex_Check(object)) return true;
  if (std::strcmp(Py_TYPE(object)->tp_name, "MaskedConstant") == 0) return true;
  PyObject* const dtype = PyObject_GetAttrString(object, "dtype");
  PyObject* const kind = dtype == nullptr ? nullptr : PyObject_GetAttrString(dtype, "kind");
  const bool is_complex = kind != nullptr && PyUnicode_Check(kind) != 0 &&
                          PyUnicode_CompareWithASCIIString(kind, "c") == 0;
  PyErr_Clear();  // an object without these attributes is not NumPy's
  Py_XDECREF(dtype);
  Py_XDECREF(kind);
  return is_complex;
}

Conversion to_double(PyObject* object, double& number) noexcept {
  if (PyFloat_CheckExact(object)) {
    number = PyFloat_AS_DOUBLE(object);
    return Conversion::done;
  }
  if (PyLong_Check(object)) {  // bool included
    number = PyLong_AsDouble(object);
    return number == -1.0 && PyErr_Occurred() ? Conversion::failed : Conversion::done;
  }
  const PyNumberMethods* methods = Py_TYPE(object)->tp_as_number;
  if (is_value(object) || methods == nullptr || methods->nb_float == nullptr) {
    return Conversion::not_a_number;
  }
  if (!PyFloat_Check(object) && loses_by_float(object)) return Conversion::not_a_number;
  number = PyFloat_AsDouble(object);
  if (number == -1.0 && PyErr_Occurred()) {
    // An array of several elements has a __float__ that raises: let the other operand try.
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) return Conversion::failed;
    PyErr_Clear();
    return Conversion::not_a_number;
  }
  return Conversion::done;
}

double required_number(py::handle object, const char* rule) {
  double number = 0.0;
  switch (to_double(object.ptr(), number)) {
    case Conversion::failed:
      throw py::error_already_set();
    case Conversion::not_a_number:
      throw py::type_error(std::string(rule) + ", got " + type_name(object));
    case Conversion::done:
      break;
  }
  return number;
}

}  // namespace nanochat::bindings

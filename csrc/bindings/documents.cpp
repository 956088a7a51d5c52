// What a program is given, read and checked: the token, the length or the shape that does not fit
// is named, with the rule and the value. Leaves out what becomes of it (program.cpp).
#include <algorithm>

#include "bindings/compiled.hpp"

namespace nanochat::bindings {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw py::value_error(message);
}

template <class Array>
void require_shape(const Array& array, py::ssize_t rows, py::ssize_t cols, const char* name) {
  require(
      array.ndim() == 2 && array.shape(0) == rows && array.shape(1) >= cols,
      std::string(name) + " must be (" + std::to_string(rows) + ", " + std::to_string(cols) + ")");
}

std::string text_of(const py::handle& object) { return py::cast<std::string>(py::repr(object)); }

std::string type_of(const py::handle& object) { return Py_TYPE(object.ptr())->tp_name; }

bool is_sequence(const py::handle& object) {
  return PySequence_Check(object.ptr()) != 0 && !PyUnicode_Check(object.ptr()) &&
         !PyBytes_Check(object.ptr());
}

std::int32_t read_token(const py::handle& item, std::int32_t position, std::int32_t limit) {
  const std::string name = "token " + std::to_string(position);
  if (!PyIndex_Check(item.ptr())) {
    throw py::type_error(name + " must be an int, got " + type_of(item));
  }
  int overflow = 0;
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
  if (!index) throw py::error_already_set();
  const long token = PyLong_AsLongAndOverflow(index.ptr(), &overflow);
  require(overflow == 0 && token >= 0 && token < limit,
          name + " must be 0 … " + std::to_string(limit - 1) + ", got " + text_of(index));
  return static_cast<std::int32_t>(token);
}

// One document: its tokens, and how many positions they are enough for.
void read_tokens(Compiled& self, const py::handle& document) {
  const VectorProgram& program = self.program;
  require(is_sequence(document),
          "a document must be a sequence of tokens, got " + type_of(document));
  const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(document.ptr(), "tokens"));
  if (!items) throw py::error_already_set();
  const auto count = static_cast<std::int32_t>(PySequence_Fast_GET_SIZE(items.ptr()));
  std::int32_t length = 0;
  while (length < program.positions && self.last_slot[static_cast<std::size_t>(length)] < count) {
    ++length;
  }
  const std::int32_t least = self.mean ? self.last_slot.front() + 1 : self.given_tokens;
  require(count >= least && count <= self.given_tokens && length > 0 &&
              (length == program.positions ||
               (self.mean && count == self.last_slot[static_cast<std::size_t>(length - 1)] + 1)),
          "a document must have " +
              (least == self.given_tokens ? "" : std::to_string(least) + " … ") +
              std::to_string(self.given_tokens) + " tokens, got " + std::to_string(count));
  const std::size_t start = self.tokens.size();
  self.tokens.resize(start + static_cast<std::size_t>(program.slots), 0);
  for (std::int32_t i = 0; i < std::min(count, program.slots); ++i) {
    self.tokens[start + static_cast<std::size_t>(i)] = read_token(
        PySequence_Fast_GET_ITEM(items.ptr(), i), i, program.limits[static_cast<std::size_t>(i)]);
  }
  self.lengths.push_back(length);
}

// Numbers of `count` documents, or of as many as there are when the program takes no tokens.
void read_inputs(Compiled& self, const py::object& inputs, py::ssize_t& count) {
  const std::int32_t width = self.given_inputs;
  if (inputs.is_none()) {
    require(width == 0,
            "inputs must be " + std::to_string(width) + " numbers a document, got none");
    return;
  }
  require(width > 0, "inputs must be left out: this program takes none");
  const auto array = Doubles::ensure(inputs);
  if (!array) {
    PyErr_Clear();
    throw py::type_error("inputs must be numbers, got " + text_of(inputs));
  }
  const bool one = array.ndim() == 1 && array.shape(0) == width;
  const bool several = array.ndim() == 2 && array.shape(1) == width && array.shape(0) > 0;
  std::string shape;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    shape += (i == 0 ? "" : ", ") + std::to_string(array.shape(i));
  }
  require(one || several, "inputs must be " + std::to_string(width) +
                              " numbers a document, at least one document, got shape (" + shape +
                              ")");
  const py::ssize_t documents = one ? 1 : array.shape(0);
  if (self.given_tokens == 0) count = documents;
  require(documents == count, "inputs must be for " + std::to_string(count) +
                                  " documents, as the tokens are, got " +
                                  std::to_string(documents));
  // Of a row, what the function reads; the rest is given all the same.
  for (py::ssize_t d = 0; d < count; ++d) {
    const double* row = array.data() + d * width;
    self.numbers.insert(self.numbers.end(), row, row + self.program.inputs);
  }
}

}  // namespace

Documents read_documents(Compiled& self, const py::object& tokens, const py::object& inputs) {
  self.tokens.clear();
  self.lengths.clear();
  self.numbers.clear();
  self.scale.clear();
  py::ssize_t count = 1;
  if (self.given_tokens > 0) {
    require(is_sequence(tokens), "tokens must be a sequence of ints, got " +
                                     (tokens.is_none() ? "None" : type_of(tokens)));
    const auto size = static_cast<py::ssize_t>(py::len(tokens));
    const bool several = size > 0 && is_sequence(py::object(tokens[py::int_(0)]));
    if (several) {
      count = size;
      for (const py::handle document : tokens) read_tokens(self, document);
    } else {
      read_tokens(self, tokens);
    }
  } else {
    require(tokens.is_none(), "tokens must be left out: this program takes none");
  }
  read_inputs(self, inputs, count);
  if (self.given_tokens == 0) {
    self.lengths.assign(static_cast<std::size_t>(count), self.program.positions);
  }
  for (const std::int32_t length : self.lengths) {
    self.scale.push_back(self.mean ? 1.0 / length : self.program.weight);
    if (count > 1) self.scale.back() /= static_cast<double>(count);
  }
  return {static_cast<std::int32_t>(count),
          self.lengths.data(),
          self.tokens.data(),
          self.numbers.empty() ? nullptr : self.numbers.data(),
          self.scale.data(),
          nullptr};
}

Documents read_arrays(Compiled& self, const Integers& lengths, const Integers& tokens,
                      const Doubles& scale, const std::optional<Doubles>& inputs,
                      const std::optional<Flags>& counted) {
  const VectorProgram& program = self.program;
  const py::ssize_t count = lengths.size();
  require(count > 0, "a replay needs at least one document");
  require_shape(tokens, count, program.slots, "tokens");
  require(tokens.shape(1) == program.slots, "tokens must have a column for each of the " +
                                                std::to_string(program.slots) + " slots, got " +
                                                std::to_string(tokens.shape(1)));
  require(scale.size() == count, "scale must have one number a document");
  require(inputs.has_value() || program.inputs == 0,
          "inputs are missing: the program reads " + std::to_string(program.inputs));
  if (inputs) {
    require_shape(*inputs, count, program.inputs, "inputs");
    require(inputs->shape(1) == program.inputs,
            "inputs must have " + std::to_string(program.inputs) + " columns");
  }
  if (counted) {
    require_shape(*counted, count, program.positions, "counted");
    require(counted->shape(1) == program.positions, "counted must have a column for each output");
  }
  self.lengths.assign(lengths.data(), lengths.data() + count);
  for (const std::int32_t length : self.lengths) {
    require(length >= 1 && length <= program.positions,
            "a document must have 1 … " + std::to_string(program.positions) + " positions, got " +
                std::to_string(length));
  }
  return {
      static_cast<std::int32_t>(count),  self.lengths.data(), tokens.data(),
      inputs ? inputs->data() : nullptr, scale.data(),        counted ? counted->data() : nullptr};
}

}  // namespace nanochat::bindings

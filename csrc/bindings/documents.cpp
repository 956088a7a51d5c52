// Reads and checks the documents of a program. An error names the token, length or shape, the rule
// and the value. Running the documents is program.cpp's part.
#include <algorithm>
#include <limits>

#include "bindings/compiled.hpp"

namespace nanochat::bindings {
namespace {

std::string shape_of(const py::array& array) {
  std::string shape = "(";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    if (i > 0) shape += ", ";
    shape += std::to_string(array.shape(i));
  }
  return shape += ')';
}

void require_shape(const py::array& array, py::ssize_t rows, py::ssize_t cols, const char* name) {
  require(array.ndim() == 2 && array.shape(0) == rows && array.shape(1) == cols, [&] {
    return std::string(name) + " must be (" + std::to_string(rows) + ", " + std::to_string(cols) +
           "), got " + shape_of(array);
  });
}

// Kernels index (documents, slots) and (documents, positions) with 32 bits.
void require_indexable(const VectorProgram& program, py::ssize_t count) {
  const auto widest = static_cast<py::ssize_t>(std::max(program.slots, program.positions));
  require(count <= std::numeric_limits<std::int32_t>::max() / std::max<py::ssize_t>(widest, 1),
          [&] {
            return "a batch must have fewer than 2^31 tokens, got " + std::to_string(count) +
                   " documents of " + std::to_string(widest);
          });
}

std::string repr_of(const py::handle& object) { return py::cast<std::string>(py::repr(object)); }

bool is_sequence(const py::handle& object) {
  return PySequence_Check(object.ptr()) != 0 && !PyUnicode_Check(object.ptr()) &&
         !PyBytes_Check(object.ptr());
}

std::int32_t read_token(const py::handle& item, std::int32_t position, std::int32_t limit) {
  if (PyLong_CheckExact(item.ptr())) {  // runs no other Python code
    int overflow = 0;
    const long token = PyLong_AsLongAndOverflow(item.ptr(), &overflow);
    if (overflow == 0 && token >= 0 && token < limit) return static_cast<std::int32_t>(token);
  }
  if (!PyIndex_Check(item.ptr())) {
    throw py::type_error("token " + std::to_string(position) + " must be an int, got " +
                         type_name(item));
  }
  int overflow = 0;
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
  if (!index) throw py::error_already_set();
  const long token = PyLong_AsLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || token < 0 || token >= limit) {
    throw py::value_error("token " + std::to_string(position) + " must be 0 … " +
                          std::to_string(limit - 1) + ", got " + repr_of(index));
  }
  return static_cast<std::int32_t>(token);
}

// The number of positions that `count` tokens are enough for.
std::int32_t length_of(const Compiled& self, std::int32_t count) {
  const std::int32_t positions = self.program.positions;
  std::int32_t length = 0;
  while (length < positions && self.last_slot[static_cast<std::size_t>(length)] < count) ++length;
  const std::int32_t least = self.mean ? self.last_slot.front() + 1 : self.given_tokens;
  const bool ends_with_output =
      length == positions || (self.mean && length > 0 &&
                              count == self.last_slot[static_cast<std::size_t>(length - 1)] + 1);
  if (count < least || count > self.given_tokens || length == 0 || !ends_with_output) {
    throw py::value_error("a document must have " +
                          (least == self.given_tokens ? "" : std::to_string(least) + " … ") +
                          std::to_string(self.given_tokens) + " tokens, got " +
                          std::to_string(count));
  }
  return length;
}

// The tokens of a sequence that is neither a list nor a tuple. Its items may have no end.
py::list tokens_of(const py::handle& document) {
  if (PyObject_Size(document.ptr()) < 0) throw py::error_already_set();
  return items_of(document);
}

void read_tokens(Compiled& self, const py::handle& document) {
  const VectorProgram& program = self.program;
  if (!is_sequence(document)) {
    throw py::value_error("a document must be a sequence of tokens, got " + type_name(document));
  }
  const bool in_place = PyList_CheckExact(document.ptr()) || PyTuple_CheckExact(document.ptr());
  const py::object items =
      in_place ? py::reinterpret_borrow<py::object>(document) : py::object(tokens_of(document));
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(items.ptr());
  const auto count = static_cast<std::int32_t>(
      std::min<Py_ssize_t>(size, std::numeric_limits<std::int32_t>::max()));
  self.lengths.push_back(length_of(self, count));
  const std::size_t start = self.tokens.size();
  self.tokens.resize(start + static_cast<std::size_t>(program.slots), 0);
  for (std::int32_t i = 0; i < std::min(count, program.slots); ++i) {
    // A token's __index__ may be Python code that changes the document.
    if (PySequence_Fast_GET_SIZE(items.ptr()) != size) {
      throw py::value_error("a document must not change while it is read, got " +
                            std::to_string(size) + " and " +
                            std::to_string(PySequence_Fast_GET_SIZE(items.ptr())) + " tokens");
    }
    const auto item = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(items.ptr(), i));
    const std::int32_t token = read_token(item, i, program.limits[static_cast<std::size_t>(i)]);
    self.tokens[start + static_cast<std::size_t>(i)] = token;
  }
}

// Returns the number of documents.
py::ssize_t read_all_tokens(Compiled& self, const py::object& tokens) {
  require(is_sequence(tokens), [&] {
    return "tokens must be a sequence of ints, got " +
           (tokens.is_none() ? "None" : type_name(tokens));
  });
  const auto size = static_cast<py::ssize_t>(py::len(tokens));
  const bool several = size > 0 && is_sequence(py::object(tokens[py::int_(0)]));
  if (!several) {
    read_tokens(self, tokens);
    return 1;
  }
  py::ssize_t found = 0;
  for (const py::handle document : tokens) {
    if (++found > size) break;  // the items may have no end
    read_tokens(self, document);
  }
  require(found == size, [&] {
    return "tokens must have len(tokens) documents, got " +
           (found > size ? "more" : std::to_string(found)) + " instead of " + std::to_string(size);
  });
  return size;
}

bool is_number(PyObject* object) { return PyFloat_CheckExact(object) || PyLong_CheckExact(object); }

// Whether this is a list or tuple of numbers, which NumPy reads without running other code.
bool is_plain(PyObject* object) {
  if (!PyList_CheckExact(object) && !PyTuple_CheckExact(object)) return false;
  PyObject** const items = PySequence_Fast_ITEMS(object);
  return std::all_of(items, items + PySequence_Fast_GET_SIZE(object), is_number);
}

// NumPy reads the items of a sequence until they end. Returns the inputs with every sequence that
// is not an array replaced by a list of as many items as its length.
py::object with_ends(const py::handle& object, int depth) {
  PyObject* const source = object.ptr();
  auto same = py::reinterpret_borrow<py::object>(object);
  if (is_number(source) || !is_sequence(object) || is_plain(source)) return same;
  for (const char* protocol : {"__array__", "__array_interface__", "__array_struct__"}) {
    if (py::hasattr(object, protocol)) return same;
  }
  if (PyObject_CheckBuffer(source) != 0) return same;
  if (depth == 0) throw py::type_error("inputs must be nested at most twice: (documents, inputs)");
  py::list items = items_of(object);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = with_ends(items[i], depth - 1);
  return py::object(std::move(items));
}

// Reads the inputs of `count` documents. Without tokens, the inputs determine the count.
void read_inputs(Compiled& self, const py::object& inputs, py::ssize_t& count) {
  const std::int32_t width = self.given_inputs;
  if (inputs.is_none()) {
    require(width == 0, [&] {
      return "inputs must be " + std::to_string(width) + " numbers per document, got none";
    });
    return;
  }
  require(width > 0, "inputs must be omitted: this program takes none");
  const auto array = Doubles::ensure(with_ends(inputs, 3));
  if (!array) {
    PyErr_Clear();
    throw py::type_error("inputs must be numbers, got " + repr_of(inputs));
  }
  const bool one = array.ndim() == 1 && array.shape(0) == width;
  const bool several = array.ndim() == 2 && array.shape(1) == width && array.shape(0) > 0;
  require(one || several, [&] {
    return "inputs must be " + std::to_string(width) +
           " numbers per document, for at least one document, got shape " + shape_of(array);
  });
  const py::ssize_t documents = one ? 1 : array.shape(0);
  if (self.given_tokens == 0) count = documents;
  require(documents == count, [&] {
    return "inputs must have as many documents as the tokens, got " + std::to_string(documents) +
           " and " + std::to_string(count);
  });
  // A program stores only the inputs that its function reads.
  for (py::ssize_t d = 0; d < count; ++d) {
    const double* row = array.data() + d * width;
    self.numbers.insert(self.numbers.end(), row, row + self.program.inputs);
  }
}

// Engines mark the target of an output that does not count with −1. Only slots of positions in use
// are read.
void check_tokens(const Compiled& self, const Integers& tokens, bool with_counted) {
  const std::int32_t least = with_counted ? -1 : 0;
  const std::int32_t* row = tokens.data();
  for (const std::int32_t length : self.lengths) {
    const std::int32_t slots =
        std::min(self.last_slot[static_cast<std::size_t>(length - 1)] + 1, self.program.slots);
    for (std::int32_t i = 0; i < slots; ++i) {
      const std::int32_t limit = self.program.limits[static_cast<std::size_t>(i)];
      if (row[i] >= least && row[i] < limit) continue;
      throw py::value_error("token " + std::to_string(i) + " must be 0 … " +
                            std::to_string(limit - 1) + ", got " + std::to_string(row[i]));
    }
    row += self.program.slots;
  }
}

}  // namespace

Documents read_documents(Compiled& self, const py::object& tokens, const py::object& inputs) {
  const VectorProgram& program = self.program;
  require(program.slots <= self.given_tokens && program.inputs <= self.given_inputs,
          "this program was compiled without given_tokens or given_inputs; run it by forward()");
  self.tokens.clear();
  self.lengths.clear();
  self.numbers.clear();
  self.scale.clear();
  py::ssize_t count = 1;
  if (self.given_tokens > 0) {
    count = read_all_tokens(self, tokens);
  } else {
    require(tokens.is_none(), "tokens must be omitted: this program takes none");
  }
  read_inputs(self, inputs, count);
  require_indexable(program, count);
  if (self.given_tokens == 0) {
    self.lengths.assign(static_cast<std::size_t>(count), program.positions);
  }
  for (const std::int32_t length : self.lengths) {
    self.scale.push_back(self.mean ? 1.0 / length : program.weight);
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
  require_indexable(program, count);
  require_shape(tokens, count, program.slots, "tokens");
  require(scale.size() == count, [&] {
    return "scale must have one number per document, got " + std::to_string(scale.size()) +
           " for " + std::to_string(count) + " documents";
  });
  require(inputs.has_value() || program.inputs == 0, [&] {
    return "inputs must be given: the program reads " + std::to_string(program.inputs) +
           " per document";
  });
  if (inputs) require_shape(*inputs, count, program.inputs, "inputs");
  if (counted) require_shape(*counted, count, program.positions, "counted");
  self.lengths.assign(lengths.data(), lengths.data() + count);
  for (const std::int32_t length : self.lengths) {
    require(length >= 1 && length <= program.positions, [&] {
      return "a document must have 1 … " + std::to_string(program.positions) + " positions, got " +
             std::to_string(length);
    });
  }
  check_tokens(self, tokens, counted.has_value());
  return {
      static_cast<std::int32_t>(count),  self.lengths.data(), tokens.data(),
      inputs ? inputs->data() : nullptr, scale.data(),        counted ? counted->data() : nullptr};
}

}  // namespace nanochat::bindings

// See matrix.hpp.
#include "bindings/matrix.hpp"

#include <pybind11/numpy.h>

#include <algorithm>

#include "bindings/recorder.hpp"

namespace nanochat::bindings {
namespace {

// A view without a copy. It keeps the Matrix alive.
py::array_t<double> view(const py::object& self, double* (Matrix::*array)() const noexcept) {
  const auto& matrix = self.cast<const Matrix&>();
  if (matrix.tape()->recorder != nullptr) {
    refuse_numbers();
    throw py::error_already_set();
  }
  return py::array_t<double>({matrix.rows(), matrix.cols()}, (matrix.*array)(), self);
}

// float(item) of one element. A Value counts as its number.
double element(py::handle item, std::size_t row, std::size_t column) {
  double number = 0.0;
  if (is_value(item.ptr())) {
    number = PyFloat_AsDouble(item.ptr());
    if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return number;
  }
  const Conversion converted = to_double(item.ptr(), number);
  if (converted == Conversion::done) return number;
  const std::string place =
      "Matrix(rows): row " + std::to_string(row) + ", column " + std::to_string(column);
  if (converted == Conversion::not_a_number) {
    throw py::type_error(place + " must be a number, got " + type_name(item));
  }
  if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
    PyErr_SetString(PyExc_OverflowError, (place + " is an int too large for a float").c_str());
    throw py::error_already_set();
  }
  if (!PyErr_ExceptionMatches(PyExc_ValueError)) throw py::error_already_set();
  PyErr_Clear();
  throw py::type_error(place + " must be a number, got " + type_name(item));
}

// Whether an object is a sequence whose items may be rows or numbers. Text and bytes are sequences
// of something else. An array of no dimensions and a memory view of several cannot be iterated.
bool holds_items(py::handle object) {
  PyObject* const source = object.ptr();
  if (PyList_Check(source) != 0 || PyTuple_Check(source) != 0) return true;
  if (PySequence_Check(source) == 0 || PyUnicode_Check(source) != 0) return false;
  if (PyBytes_Check(source) != 0 || PyByteArray_Check(source) != 0) return false;
  if (PyMemoryView_Check(source) != 0) return PyMemoryView_GET_BUFFER(source)->ndim == 1;
  return PyObject_Size(source) >= 0 || (PyErr_Clear(), !py::hasattr(object, "ndim"));
}

// Matrix(rows): parameters of the default tape. All rows are read before any memory is taken.
std::unique_ptr<Matrix> matrix_of(const py::object& rows) {
  if (!holds_items(rows)) {
    throw py::type_error("Matrix(rows) needs a sequence of rows, got " + type_name(rows));
  }
  const py::list row_list = items_of(rows);
  std::vector<double> numbers;
  std::size_t cols = 0;
  for (std::size_t row = 0; row < row_list.size(); ++row) {
    const py::handle items = row_list[row];
    if (!holds_items(items)) {
      throw py::type_error("Matrix(rows): row " + std::to_string(row) +
                           " must be a sequence of numbers, got " + type_name(items));
    }
    const py::list row_items = items_of(items);
    if (row == 0) cols = row_items.size();
    if (row_items.size() != cols) {
      throw py::value_error("Matrix(rows): all rows must have the same length, got " +
                            std::to_string(cols) + " and " + std::to_string(row_items.size()));
    }
    for (std::size_t column = 0; column < cols; ++column) {
      numbers.push_back(element(row_items[column], row, column));
    }
  }
  auto matrix = new_matrix(TapeOwner(default_tape()), static_cast<py::ssize_t>(row_list.size()),
                           static_cast<py::ssize_t>(cols));
  std::copy(numbers.begin(), numbers.end(), matrix->values());
  return matrix;
}

// The row of an int, or of a Token that a replay supplies.
py::list row_of(Matrix& self, const py::object& token) {
  if (!PyLong_Check(token.ptr()) && py::isinstance<Token>(token)) {
    if (self.tape()->recorder == nullptr) {
      throw std::runtime_error("row(Token) needs a function that is being recorded");
    }
    return self.tape()->recorder->gather(self, token.cast<const Token&>());
  }
  if (PyIndex_Check(token.ptr()) == 0) {
    throw py::type_error("row(token) needs an int or a Token, got " + type_name(token));
  }
  const Py_ssize_t index = PyNumber_AsSsize_t(token.ptr(), PyExc_IndexError);
  if (index == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return self.row(index);
}

constexpr const char* matrix_doc =
    "A block of parameters: rows x cols Values with contiguous values and gradients.\n\n"
    "Matrix(rows) copies a sequence of rows (lists of numbers, or a 2-D NumPy array) to the\n"
    "default tape. Tape.matrix(rows, cols) creates a matrix of zeros on any tape.\n\n"
    "The memory lives as long as the Matrix, a NumPy view of it, one of its Values, or a result\n"
    "that was computed from one.\n\n"
    "Raises:\n"
    "    TypeError: an element is not a number, or `rows` is not a sequence of sequences.\n"
    "    ValueError: the rows differ in length, or there is no row or no column.\n\n"
    "Example:\n"
    "    >>> from nanochat import Matrix\n"
    "    >>> w = Matrix([[1.0, 2.0], [3.0, 4.0]])\n"
    "    >>> a, b = w.row(1)\n"
    "    >>> (a * b).backward()\n"
    "    >>> w.grads.tolist()\n"
    "    [[0.0, 0.0], [4.0, 3.0]]";

constexpr const char* row_doc =
    "row(self, token)\n--\n\n"
    "Return the Values of one row as a new list of `cols` Values.\n\n"
    "Every call returns the same Value objects. In a function that compile() records, `token` may\n"
    "be a Token: the replay then reads the row of the token that it is given.\n\n"
    "Args:\n"
    "    token: an int from 0 to rows - 1, or a Token.\n\n"
    "Raises:\n"
    "    IndexError: the row is outside the matrix. A negative row does not count from the end.\n"
    "    TypeError: `token` is neither an int nor a Token.\n"
    "    RuntimeError: `token` is a Token and no function is being recorded.";

}  // namespace

Matrix::Matrix(const TapeOwner& tape, std::size_t rows, std::size_t cols)
    : tape_(tape), rows_(rows), cols_(cols), first_(tape_->parameter_block(rows, cols)) {}

Matrix::~Matrix() {
  cached_.clear();
  tape_->release_block(first_);
}

py::list Matrix::row(py::ssize_t index) {
  if (index < 0 || static_cast<std::size_t>(index) >= rows_) {
    throw py::index_error("row " + std::to_string(index) + " is out of range for a matrix of " +
                          std::to_string(rows_) + " rows");
  }
  if (cached_.empty()) cached_.resize(rows_, py::reinterpret_steal<py::list>(nullptr));
  py::list& cached = cached_[static_cast<std::size_t>(index)];
  if (!cached) {
    py::list handles(cols_);
    const NodeId start = first_ + static_cast<NodeId>(static_cast<std::size_t>(index) * cols_);
    for (std::size_t col = 0; col < cols_; ++col) {
      const NodeId id = start + static_cast<NodeId>(col);
      tape_->retain(id);
      PyObject* value = wrap_node(tape_.get(), id);
      if (value == nullptr) throw py::error_already_set();
      PyList_SET_ITEM(handles.ptr(), static_cast<Py_ssize_t>(col), value);
    }
    cached = std::move(handles);
  }
  PyObject* copy = PyList_GetSlice(cached.ptr(), 0, static_cast<Py_ssize_t>(cols_));
  if (copy == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::list>(copy);
}

py::list Matrix::all_rows() {
  py::list rows(rows_);
  for (std::size_t index = 0; index < rows_; ++index) {
    rows[index] = row(static_cast<py::ssize_t>(index));
  }
  return rows;
}

void Matrix::zero_grad() noexcept { std::fill_n(grads(), size(), 0.0); }

std::unique_ptr<Matrix> new_matrix(const TapeOwner& tape, py::ssize_t rows, py::ssize_t cols) {
  if (rows < 1 || cols < 1) {
    throw py::value_error("a matrix needs at least 1 row and 1 column, got " +
                          std::to_string(rows) + " x " + std::to_string(cols));
  }
  const auto limit = static_cast<py::ssize_t>(NodeStore::max_segments * NodeStore::segment_size);
  if (rows > limit / cols) throw std::bad_alloc();
  return std::make_unique<Matrix>(tape, static_cast<std::size_t>(rows),
                                  static_cast<std::size_t>(cols));
}

void register_matrix(const py::module_& module) {
  py::class_<Matrix>(module, "Matrix", matrix_doc)
      .def(py::init(&matrix_of), py::arg("rows"),
           "__init__(self, rows)\n--\n\nCopy rows of numbers to the default tape.")
      .def_property_readonly(
          "shape", [](const Matrix& self) { return py::make_tuple(self.rows(), self.cols()); },
          "The shape, a tuple (rows, cols).")
      .def_property_readonly(
          "values", [](const py::object& self) { return view(self, &Matrix::values); },
          "The parameters as a NumPy view, (rows, cols) float64. Writing to the view writes the\n"
          "parameters. On a float32 tape, write numbers that float32 can represent. TypeError\n"
          "while compile() records the tape.")
      .def_property_readonly(
          "grads", [](const py::object& self) { return view(self, &Matrix::grads); },
          "The gradients as a NumPy view, (rows, cols) float64. TypeError while compile() records\n"
          "the tape.")
      .def("row", &row_of, py::arg("token"), row_doc)
      .def("__getitem__", &row_of, py::arg("token"),
           "__getitem__(self, token)\n--\n\nReturn the Values of one row, as row().")
      .def("__len__", &Matrix::rows)
      .def("__iter__", [](Matrix& self) { return py::iter(self.all_rows()); })
      .def("rows", &Matrix::all_rows,
           "rows(self)\n--\n\nReturn the Values of all rows as a list of lists.")
      .def(
          "zero_grad",
          [](Matrix& self) {
            if (self.tape()->recorder != nullptr) {
              refuse_change("Matrix.zero_grad() cannot be called");
              throw py::error_already_set();
            }
            self.zero_grad();
          },
          "zero_grad(self)\n--\n\nSet all gradients of the matrix to 0.")
      .def(
          "_repr_html_",
          [](const py::object& self) {
            return py::module_::import("nanochat.scalar.graph_svg").attr("matrix_html")(self);
          },
          "_repr_html_(self)\n--\n\nReturn the numbers as a table, for notebooks.")
      .def("__repr__", [](const Matrix& self) {
        return "Matrix(" + std::to_string(self.rows()) + " x " + std::to_string(self.cols()) + ")";
      });
}

}  // namespace nanochat::bindings

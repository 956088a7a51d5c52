// See matrix.hpp.
#include "bindings/matrix.hpp"

#include <pybind11/numpy.h>

#include <algorithm>

#include "bindings/recorder.hpp"

namespace nanochat::bindings {
namespace {

// A zero-copy view; the Matrix lives as long as the view.
py::array_t<double> view(const py::object& self, double* (Matrix::*array)() const noexcept) {
  const auto& matrix = self.cast<const Matrix&>();
  return py::array_t<double>({matrix.rows(), matrix.cols()}, (matrix.*array)(), self);
}

// Matrix(rows): parameters of the default tape with these values.
std::unique_ptr<Matrix> matrix_of(const py::sequence& rows) {
  static SharedTape* const tape = default_tape();
  const auto first = py::len(rows) > 0 ? py::sequence(rows[0]) : py::sequence(py::list());
  const auto cols = static_cast<py::ssize_t>(py::len(first));
  auto matrix = new_matrix(TapeOwner(tape), static_cast<py::ssize_t>(py::len(rows)), cols);
  double* value = matrix->values();
  for (const py::handle row : rows) {
    if (static_cast<py::ssize_t>(py::len(row)) != cols) {
      throw py::value_error("the rows of a matrix must be equally long");
    }
    for (const py::handle number : row) *value++ = number.cast<double>();
  }
  return matrix;
}

// The row of a token that a replay chooses.
py::list recorded_row(const Matrix& matrix, const Token& token) {
  if (matrix.tape()->recorder == nullptr) {
    throw std::runtime_error("row(Token) outside a recorded function");
  }
  return matrix.tape()->recorder->gather(matrix, token);
}

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

void register_matrix(py::module_& module) {
  py::class_<Matrix>(module, "Matrix",
                     "Parameters of a tape, rows x cols, contiguous; made by Tape.matrix(). They\n"
                     "live as long as the Matrix, a view of it, or a Value that is one of them or\n"
                     "was computed from one.")
      .def(py::init(&matrix_of), py::arg("rows"),
           "Parameters of the default tape: rows of numbers, equally long.")
      .def_property_readonly(
          "shape", [](const Matrix& self) { return py::make_tuple(self.rows(), self.cols()); },
          "(rows, cols).")
      .def_property_readonly(
          "values", [](const py::object& self) { return view(self, &Matrix::values); },
          "NumPy view, (rows, cols) float64; writing to it writes the parameters. On a float32 "
          "tape,\n"
          "write numbers that float32 can hold.")
      .def_property_readonly(
          "grads", [](const py::object& self) { return view(self, &Matrix::grads); },
          "NumPy view, (rows, cols) float64, of the gradients.")
      .def(
          "row", &Matrix::row, py::arg("token"),
          "The Values of one row, a new list of the same cols Values each time. Raises IndexError\n"
          "outside 0 … rows - 1: a negative row does not count from the end.")
      .def("row", &recorded_row, py::arg("token"))
      .def("__getitem__", &Matrix::row, py::arg("token"))
      .def("__getitem__", &recorded_row, py::arg("token"))
      .def("__len__", &Matrix::rows)
      .def("__iter__", [](Matrix& self) { return py::iter(self.all_rows()); })
      .def("rows", &Matrix::all_rows, "The Values of all rows, a list of rows lists.")
      .def("zero_grad", &Matrix::zero_grad, "Set all gradients to 0.")
      .def("__repr__", [](const Matrix& self) {
        return "Matrix(" + std::to_string(self.rows()) + " x " + std::to_string(self.cols()) + ")";
      });
}

}  // namespace nanochat::bindings

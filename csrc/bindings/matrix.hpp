// Matrix: the Python face of one parameter block. Tapes make it, optimizers step it.
#ifndef NANOCHAT_BINDINGS_MATRIX_HPP_
#define NANOCHAT_BINDINGS_MATRIX_HPP_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"

namespace nanochat::bindings {

class Matrix {
 public:
  Matrix(const TapeOwner& tape, std::size_t rows, std::size_t cols);
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  ~Matrix();

  std::size_t rows() const noexcept { return rows_; }
  std::size_t cols() const noexcept { return cols_; }
  std::size_t size() const noexcept { return rows_ * cols_; }
  double* values() const noexcept { return tape_->values(first_); }
  double* grads() const noexcept { return tape_->grads(first_); }
  SharedTape* tape() const noexcept { return tape_.get(); }
  NodeId first() const noexcept { return first_; }
  Precision precision() const noexcept { return tape_->precision(); }

  // A fresh list of row `index`'s Values; the Values are the same at every call.
  py::list row(py::ssize_t index);
  py::list all_rows();
  void zero_grad() noexcept;

 private:
  TapeOwner tape_;
  std::size_t rows_;
  std::size_t cols_;
  NodeId first_;
  std::vector<py::list> cached_;  // filled row by row, when first asked for
};

std::unique_ptr<Matrix> new_matrix(const TapeOwner& tape, py::ssize_t rows, py::ssize_t cols);

}  // namespace nanochat::bindings

#endif  // NANOCHAT_BINDINGS_MATRIX_HPP_

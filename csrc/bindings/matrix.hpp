// Matrix: the Python object of one parameter block. Tapes create it; optimizers update it.
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

  // A new list of the Values of row `index`. The Values are the same objects at every call.
  py::list row(py::ssize_t index);
  py::list all_rows();
  void zero_grad() noexcept;

 private:
  TapeOwner tape_;
  std::size_t rows_;
  std::size_t cols_;
  NodeId first_;
  std::vector<py::list> cached_;  // rows are created on first access
};

std::unique_ptr<Matrix> new_matrix(const TapeOwner& tape, py::ssize_t rows, py::ssize_t cols);

}  // namespace nanochat::bindings

NANOCHAT_BOUND_CLASS(nanochat::bindings::Matrix);

#endif  // NANOCHAT_BINDINGS_MATRIX_HPP_

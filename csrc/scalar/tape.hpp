// A scalar autograd tape: the operations, their values and the backward pass. Memory is in
// node_store.hpp. Bit-identical to the Value class of microgpt.py: each operation is rounded once;
// pow, exp, log and tanh are those of libm; a local gradient is computed first, then multiplied by
// the upstream gradient, then added. One difference: x ** 0 has gradient 0 also at x = 0.
//
// Non-finite values follow IEEE 754 and C where Python's math module raises: exp overflows to inf,
// log(0) is -inf, log(-1) and pow(-1, 0.5) are nan, pow(0, -1) is inf, relu(nan) is nan.
#ifndef NANOCHAT_SCALAR_TAPE_HPP_
#define NANOCHAT_SCALAR_TAPE_HPP_

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "scalar/libm.hpp"
#include "scalar/node_store.hpp"

namespace nanochat {

// float32 stores values and gradients in the same arrays of doubles and rounds each of them, each
// local gradient and each product to float, as a float32 implementation does.
enum class Precision : std::uint8_t { float64, float32 };

class Tape {
 public:
  explicit Tape(Precision precision = Precision::float64) noexcept : precision_(precision) {}

  Precision precision() const noexcept { return precision_; }
  bool recording() const noexcept { return recording_; }
  // While not recording, an operation computes its value and returns a leaf.
  void set_recording(bool recording) noexcept { recording_ = recording; }

  // Every function that returns a NodeId gives the caller one reference; release() drops it.
  NodeId leaf(double value) { return nodes_.new_leaf(round(value)); }
  NodeId add(NodeId a, NodeId b) { return binary(Op::add, a, b, value(a) + value(b)); }
  NodeId mul(NodeId a, NodeId b) { return binary(Op::mul, a, b, value(a) * value(b)); }
  NodeId sub(NodeId a, NodeId b);            // a + (-b)
  NodeId div(NodeId a, NodeId b);            // a * b**-1
  NodeId add_const(NodeId a, double c);      // a + c
  NodeId subtract_from(double c, NodeId a);  // (-a) + c
  NodeId mul_const(NodeId a, double c);      // a * c
  NodeId div_const(NodeId a, double c);      // a * c**-1
  NodeId divide_into(double c, NodeId a);    // a**-1 * c
  NodeId pow_const(NodeId a, double c);      // a ** c
  NodeId neg(NodeId a) { return unary(Op::neg, a, 0.0, -value(a)); }
  NodeId exp(NodeId a) { return unary(Op::exp, a, 0.0, libm::exp(value(a))); }
  NodeId log(NodeId a) { return unary(Op::log, a, 0.0, libm::log(value(a))); }
  NodeId tanh(NodeId a) { return unary(Op::tanh, a, 0.0, libm::tanh(value(a))); }
  NodeId relu(NodeId a);

  // Returns the first of rows * cols parameters with consecutive ids, row by row, initially 0.
  // Throws std::invalid_argument without any, std::length_error for more than a tape can hold.
  NodeId parameter_block(std::size_t rows, std::size_t cols) {
    if (rows == 0 || cols == 0) throw std::invalid_argument("a parameter block has no parameters");
    if (rows > NodeStore::max_nodes / cols) throw std::length_error(NodeStore::full);
    return nodes_.new_block(rows * cols);
  }
  void release_block(NodeId first) noexcept { nodes_.release_block(first); }

  void retain(NodeId id) noexcept { nodes_.retain(id); }
  void release(NodeId id) noexcept { nodes_.release(id); }

  double value(NodeId id) const noexcept { return nodes_.value(id); }
  double grad(NodeId id) const noexcept { return nodes_.grad(id); }
  void set_value(NodeId id, double value) noexcept { nodes_.value(id) = round(value); }
  void set_grad(NodeId id, double grad) noexcept { nodes_.grad(id) = round(grad); }
  // Pointers to the contiguous values and gradients of a parameter block.
  double* values(NodeId first) const noexcept { return &nodes_.value(first); }
  double* grads(NodeId first) const noexcept { return &nodes_.grad(first); }

  Op op(NodeId id) const noexcept { return nodes_.op(id); }
  // Operands: `first` for every operation, `second` for add and mul. Only *_const has a constant.
  NodeId first(NodeId id) const noexcept { return nodes_.segment(id).first[NodeStore::offset(id)]; }
  NodeId second(NodeId id) const noexcept {
    return nodes_.segment(id).second[NodeStore::offset(id)];
  }
  double constant(NodeId id) const noexcept {
    return nodes_.segment(id).constant[NodeStore::offset(id)];
  }

  // Sets the gradient of root to 1 and adds to the gradient of every node under it, in the order of
  // microgpt.py: depth-first post-order, first operand before second, reversed. Keeps 4 bytes of
  // scratch memory per computed node for the next call. Throws std::bad_alloc.
  void backward(NodeId root);
  // Sets the gradient of root and of every node under it to 0.
  void zero_grad(NodeId root);

  const NodeStore& store() const noexcept { return nodes_; }

 private:
  double round(double x) const noexcept {
    return precision_ == Precision::float32 ? static_cast<double>(static_cast<float>(x)) : x;
  }
  NodeId unary(Op op, NodeId a, double constant, double value) {
    if (!recording_) [[unlikely]]
      return leaf(value);
    return nodes_.new_unary(op, a, constant, round(value));
  }
  NodeId binary(Op op, NodeId a, NodeId b, double value) {
    if (!recording_) [[unlikely]]
      return leaf(value);
    return nodes_.new_binary(op, a, b, round(value));
  }
  void order_nodes(NodeId root);
  template <Precision precision>
  void propagate();

  NodeStore nodes_;
  Precision precision_;
  bool recording_ = true;
  std::vector<NodeId> order_;
  std::vector<NodeId> stack_;
  libm::PowMemo pow_values_;  // of pow_const
  libm::PowMemo pow_locals_;  // of its local gradients
};

}  // namespace nanochat

#endif  // NANOCHAT_SCALAR_TAPE_HPP_

// Operations with a constant and operations composed of others. See tape.hpp.
#include "scalar/tape.hpp"

namespace nanochat {
namespace {

// An intermediate result. Its reference is dropped after the operation that uses it has retained
// it.
class Temporary {
 public:
  Temporary(Tape& tape, NodeId id) noexcept : tape_(tape), id_(id) {}
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() { tape_.release(id_); }
  operator NodeId() const noexcept { return id_; }

 private:
  Tape& tape_;
  NodeId id_;
};

}  // namespace

NodeId Tape::sub(NodeId a, NodeId b) {
  const Temporary negated(*this, neg(b));
  return add(a, negated);
}

NodeId Tape::div(NodeId a, NodeId b) {
  const Temporary inverse(*this, pow_const(b, -1.0));
  return mul(a, inverse);
}

NodeId Tape::add_const(NodeId a, double c) {
  const double rounded = round(c);
  return unary(Op::add_const, a, rounded, value(a) + rounded);
}

NodeId Tape::subtract_from(double c, NodeId a) {
  const Temporary negated(*this, neg(a));
  return add_const(negated, c);
}

NodeId Tape::mul_const(NodeId a, double c) {
  const double rounded = round(c);
  return unary(Op::mul_const, a, rounded, value(a) * rounded);
}

NodeId Tape::div_const(NodeId a, double c) { return mul_const(a, libm::pow(round(c), -1.0)); }

NodeId Tape::divide_into(double c, NodeId a) {
  const Temporary inverse(*this, pow_const(a, -1.0));
  return mul_const(inverse, c);
}

NodeId Tape::pow_const(NodeId a, double c) {
  const double rounded = round(c);
  return unary(Op::pow_const, a, rounded, pow_values_(value(a), rounded));
}

NodeId Tape::relu(NodeId a) {
  const double x = value(a);
  return unary(Op::relu, a, 0.0, x > 0.0 || x != x ? x : 0.0);
}

}  // namespace nanochat

// The backward pass: its order, and the local gradient of each operation. See tape.hpp.
#include "scalar/tape.hpp"

namespace nanochat {
namespace {

// Marks a stack entry whose operands are done: it is appended to the order when popped.
constexpr NodeId finished = NodeId{1} << 31U;

template <Precision precision>
double rounded(double x) noexcept {
  if constexpr (precision == Precision::float32) {
    return static_cast<double>(static_cast<float>(x));
  } else {
    return x;
  }
}

}  // namespace

// Fills order_ with every computed node under root, operands before users. Leaves are not included:
// they pass on no gradient, and the order of the others does not depend on them.
void Tape::order_nodes(NodeId root) {
  order_.clear();
  stack_.clear();
  if (op(root) == Op::leaf) return;
  const std::uint16_t epoch = nodes_.next_epoch();
  const auto unseen = [this, epoch](NodeId id) {
    const Segment& home = nodes_.segment(id);
    const NodeId at = NodeStore::offset(id);
    return home.op[at] != Op::leaf && home.mark[at] != epoch;
  };

  NodeId current = root;
  for (;;) {
    const Segment& home = nodes_.segment(current);
    const NodeId at = NodeStore::offset(current);
    home.mark[at] = epoch;
    stack_.push_back(current | finished);
    const NodeId a = home.first[at];
    if (operand_count(home.op[at]) == 2) {
      const NodeId b = home.second[at];
      if (unseen(b)) stack_.push_back(b);
    }
    if (unseen(a)) {
      current = a;
      continue;
    }
    for (;;) {
      if (stack_.empty()) return;
      current = stack_.back();
      stack_.pop_back();
      if ((current & finished) != 0) {
        order_.push_back(current & ~finished);
      } else if (unseen(current)) {
        break;
      }
    }
  }
}

template <Precision precision>
void Tape::propagate() {
  constexpr auto r = rounded<precision>;
  const auto accumulate = [this](NodeId id, double local, double upstream) {
    double& grad = nodes_.grad(id);
    grad = rounded<precision>(grad + rounded<precision>(local * upstream));
  };
  for (std::size_t i = order_.size(); i-- > 0;) {
    const NodeId id = order_[i];
    const Segment& home = nodes_.segment(id);
    const NodeId at = NodeStore::offset(id);
    const double g = home.grad[at];
    const NodeId a = home.first[at];
    switch (home.op[at]) {
      case Op::leaf:
        break;
      case Op::add:
        accumulate(a, 1.0, g);
        accumulate(home.second[at], 1.0, g);
        break;
      case Op::mul: {
        const NodeId b = home.second[at];
        const double x = value(a);
        accumulate(a, value(b), g);
        accumulate(b, x, g);
        break;
      }
      case Op::add_const:
        accumulate(a, 1.0, g);
        break;
      case Op::mul_const:
        accumulate(a, home.constant[at], g);
        break;
      case Op::pow_const: {
        const double c = home.constant[at];
        // x ** 0 is 1 everywhere, also at 0, where 0 * 0 ** -1 would be nan.
        accumulate(a, c == 0.0 ? 0.0 : r(c * r(pow_locals_(value(a), r(c - 1.0)))), g);
        break;
      }
      case Op::neg:
        accumulate(a, -1.0, g);
        break;
      case Op::exp:
        accumulate(a, home.value[at], g);
        break;
      case Op::log:
        accumulate(a, r(1.0 / value(a)), g);
        break;
      case Op::relu:
        accumulate(a, value(a) > 0.0 ? 1.0 : 0.0, g);
        break;
      case Op::tanh: {
        const double t = home.value[at];
        accumulate(a, r(1.0 - r(t * t)), g);
        break;
      }
    }
  }
}

void Tape::backward(NodeId root) {
  order_nodes(root);
  nodes_.grad(root) = 1.0;
  if (precision_ == Precision::float32) {
    propagate<Precision::float32>();
  } else {
    propagate<Precision::float64>();
  }
}

void Tape::zero_grad(NodeId root) {
  order_nodes(root);
  nodes_.grad(root) = 0.0;
  for (const NodeId id : order_) {
    const Segment& home = nodes_.segment(id);
    const NodeId at = NodeStore::offset(id);
    nodes_.grad(id) = 0.0;
    nodes_.grad(home.first[at]) = 0.0;
    if (operand_count(home.op[at]) == 2) nodes_.grad(home.second[at]) = 0.0;
  }
}

}  // namespace nanochat

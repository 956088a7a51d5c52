// Values, gradients and order of the backward pass.
#include <cmath>
#include <limits>

#include "scalar/tape.hpp"
#include "testing.hpp"

using nanochat::NodeId;
using nanochat::Op;
using nanochat::Precision;
using nanochat::Tape;
using testing::same_bits;

TEST_CASE(product_rule_holds_and_gradients_accumulate_over_calls) {
  Tape tape;
  const NodeId a = tape.leaf(3.0), b = tape.leaf(-2.0);
  const NodeId product = tape.mul(a, b);
  tape.backward(product);
  CHECK(tape.value(product) == -6.0 && tape.grad(a) == -2.0 && tape.grad(b) == 3.0);
  tape.backward(product);
  CHECK(tape.grad(product) == 1.0 && tape.grad(a) == -4.0 && tape.grad(b) == 6.0);
  tape.zero_grad(product);
  CHECK(tape.grad(product) == 0.0 && tape.grad(a) == 0.0 && tape.grad(b) == 0.0);
}

TEST_CASE(a_node_used_twice_by_one_operation_receives_both_gradients) {
  Tape tape;
  const NodeId a = tape.leaf(3.0);
  const NodeId sum = tape.add(a, a);
  const NodeId square = tape.mul(sum, sum);
  tape.backward(square);
  CHECK(tape.grad(sum) == 12.0 && tape.grad(a) == 24.0);
}

TEST_CASE(gradients_accumulate_in_reversed_post_order_with_the_first_operand_first) {
  // Three terms of a's gradient, 1, u and -1 with u = 2^-53: (1 + u) - 1 is 0 in floating point,
  // (1 - 1) + u and (-1 + u) + 1 are u. Reversed post-order visits the last branch first.
  Tape tape;
  const double u = std::ldexp(1.0, -53);
  const NodeId a = tape.leaf(1.0);
  const NodeId one = tape.mul_const(a, 1.0), tiny = tape.mul_const(a, u);
  const NodeId minus = tape.mul_const(a, -1.0);
  const NodeId zero_result = tape.add(tape.add(minus, tiny), one);
  tape.backward(zero_result);
  CHECK(tape.grad(a) == 0.0);
  tape.zero_grad(zero_result);
  const NodeId tiny_result = tape.add(tape.add(tiny, minus), one);
  tape.backward(tiny_result);
  CHECK(tape.grad(a) == u);
}

TEST_CASE(every_operation_has_its_analytic_gradient) {
  Tape tape;
  // Volatile: the compiler would evaluate tanh(0.7) itself, with better rounding than libm.
  const volatile double x = 0.7;
  const NodeId a = tape.leaf(x);
  const auto gradient = [&](NodeId result) {
    tape.set_grad(a, 0.0);
    tape.backward(result);
    return tape.grad(a);
  };
  CHECK(gradient(tape.add_const(a, 5.0)) == 1.0);
  CHECK(gradient(tape.mul_const(a, 5.0)) == 5.0);
  CHECK(gradient(tape.neg(a)) == -1.0);
  CHECK(gradient(tape.exp(a)) == std::exp(x));
  CHECK(gradient(tape.log(a)) == 1.0 / x);
  CHECK(gradient(tape.relu(a)) == 1.0);
  CHECK(gradient(tape.relu(tape.neg(a))) == 0.0);
  CHECK(gradient(tape.tanh(a)) == 1.0 - std::tanh(x) * std::tanh(x));
  CHECK(std::fabs(gradient(tape.pow_const(a, 3.0)) - 3.0 * x * x) < 1e-15);
  CHECK(gradient(tape.subtract_from(2.0, a)) == -1.0);
  CHECK(std::fabs(gradient(tape.divide_into(2.0, a)) + 2.0 / (x * x)) < 1e-14);
}

TEST_CASE(non_finite_values_follow_ieee_754) {
  Tape tape;
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(tape.value(tape.exp(tape.leaf(1e4))) == inf);
  CHECK(tape.value(tape.log(tape.leaf(0.0))) == -inf);
  CHECK(std::isnan(tape.value(tape.log(tape.leaf(-1.0)))));
  CHECK(std::isnan(tape.value(tape.relu(tape.log(tape.leaf(-1.0))))));
  CHECK(std::isnan(tape.value(tape.pow_const(tape.leaf(-1.0), 0.5))));
  // The cached power must distinguish the two zeros.
  CHECK(tape.value(tape.pow_const(tape.leaf(0.0), -1.0)) == inf);
  CHECK(tape.value(tape.pow_const(tape.leaf(-0.0), -1.0)) == -inf);
}

TEST_CASE(a_chain_of_ten_million_nodes_runs_backward_and_dies_without_recursion) {
  Tape tape;
  const NodeId start = tape.leaf(1.0);
  tape.retain(start);
  NodeId end = start;
  for (int i = 0; i < 10'000'000; ++i) {
    const NodeId next = tape.add_const(end, 1.0);
    tape.release(end);
    end = next;
  }
  tape.backward(end);
  CHECK(tape.value(end) == 10'000'001.0 && tape.grad(start) == 1.0);
  tape.release(end);
  CHECK(tape.store().nodes() == 1);
  tape.release(start);
  CHECK(tape.store().nodes() == 0);
}

TEST_CASE(traversals_stay_right_when_the_16_bit_epoch_wraps) {
  Tape tape;
  const NodeId a = tape.leaf(2.0);
  const NodeId square = tape.mul(a, a);
  const NodeId old_result = tape.neg(square);
  tape.backward(old_result);  // marks the square with epoch 1
  const NodeId other = tape.neg(a);
  for (int i = 0; i < 65'534; ++i) tape.zero_grad(other);
  tape.backward(old_result);  // epoch 1 again; the square's own gradient adds up to -2
  CHECK(tape.grad(a) == -8.0);
}

TEST_CASE(float32_rounds_every_value_and_gradient) {
  Tape tape(Precision::float32);
  const float x = 0.1f, y = 0.3f;
  const NodeId a = tape.leaf(0.1), b = tape.leaf(0.3);
  CHECK(same_bits(tape.value(a), static_cast<double>(x)));
  const NodeId product = tape.mul(a, b);
  const NodeId cube = tape.mul(product, a);
  CHECK(same_bits(tape.value(cube), static_cast<double>((x * y) * x)));
  tape.backward(cube);
  CHECK(same_bits(tape.grad(a), static_cast<double>(x * y + y * x)));
}

TEST_CASE(without_recording_an_operation_makes_a_leaf) {
  Tape tape;
  const NodeId a = tape.leaf(2.0);
  tape.set_recording(false);
  const NodeId quotient = tape.div(a, tape.leaf(4.0));
  tape.set_recording(true);
  CHECK(tape.value(quotient) == 0.5 && tape.op(quotient) == Op::leaf);
  tape.backward(quotient);
  CHECK(tape.grad(quotient) == 1.0 && tape.grad(a) == 0.0);
}

TEST_CASE(the_power_zero_has_gradient_zero_at_every_number) {
  for (const double x : {0.0, -0.0, 2.0, -3.0, 1e308}) {
    for (const Precision precision : {Precision::float64, Precision::float32}) {
      Tape tape(precision);
      const NodeId a = tape.leaf(x);
      const NodeId y = tape.pow_const(a, 0.0);
      tape.backward(y);
      CHECK(tape.value(y) == 1.0);
      CHECK(same_bits(tape.grad(a), 0.0));
    }
  }
}

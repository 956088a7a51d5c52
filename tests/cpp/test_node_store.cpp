// Memory of a tape: lifetime, recycling, bytes per node.
#include <cstddef>
#include <stdexcept>
#include <utility>
#include <vector>

#include "scalar/tape.hpp"
#include "testing.hpp"

using nanochat::NodeId;
using nanochat::NodeStore;
using nanochat::Tape;

namespace {

// A chain of `length` additions to `start`; the caller owns only the result.
NodeId chain(Tape& tape, NodeId start, int length) {
  NodeId end = start;
  for (int i = 0; i < length; ++i) {
    const NodeId next = tape.add_const(end, 1.0);
    if (i > 0) tape.release(end);
    end = next;
  }
  return end;
}

}  // namespace

TEST_CASE(a_node_costs_at_most_40_bytes) {
  Tape tape;
  const NodeId start = tape.leaf(0.0);
  const std::size_t before = tape.store().bytes();
  const int length = 100 * static_cast<int>(NodeStore::segment_size);
  chain(tape, start, length);
  CHECK(tape.store().bytes() - before <= 40u * static_cast<std::size_t>(length));
}

TEST_CASE(overlapping_graphs_do_not_keep_each_other_alive) {
  // The previous result is kept while the next graph is built, as by `loss = f(x)` in a loop:
  // graphs always share segments. Memory must still stop growing.
  Tape tape;
  const NodeId start = tape.leaf(0.0);
  NodeId held = chain(tape, start, 1);
  std::size_t settled = 0;
  for (int step = 0; step < 2000; ++step) {
    const NodeId next = chain(tape, start, 6000);
    tape.release(held);
    held = next;
    if (step == 10) settled = tape.store().bytes();
  }
  CHECK(tape.store().bytes() == settled);
  CHECK(tape.store().nodes() == 6001);
}

TEST_CASE(a_dropped_result_frees_exactly_what_nothing_else_needs) {
  Tape tape;
  const NodeId start = tape.leaf(1.0);
  const NodeId shared = chain(tape, start, 10);
  const NodeId left = chain(tape, shared, 20);
  const NodeId right = chain(tape, shared, 30);
  CHECK(tape.store().nodes() == 61);
  tape.release(left);
  CHECK(tape.store().nodes() == 41);
  tape.release(shared);
  CHECK(tape.store().nodes() == 41);
  tape.release(right);
  CHECK(tape.store().nodes() == 1);
}

TEST_CASE(leaf_slots_are_used_again_one_by_one) {
  Tape tape;
  std::vector<NodeId> leaves;
  leaves.reserve(5000);
  for (int i = 0; i < 5000; ++i) leaves.push_back(tape.leaf(i));
  const std::size_t bytes = tape.store().bytes();
  for (std::size_t i = 0; i < leaves.size(); i += 2) tape.release(leaves[i]);
  for (std::size_t i = 0; i < leaves.size(); i += 2) leaves[i] = tape.leaf(-1.0);
  CHECK(tape.store().bytes() == bytes);
  CHECK(tape.store().nodes() == 5000);
  for (std::size_t i = 1; i < leaves.size(); i += 2) {
    CHECK(tape.value(leaves[i]) == static_cast<double>(i));
  }
}

TEST_CASE(a_recycled_slot_starts_without_gradient) {
  Tape tape;
  const NodeId a = tape.leaf(1.0);
  const NodeId first = tape.mul(a, a);
  tape.backward(first);
  tape.release(first);
  const NodeId second = tape.mul(a, a);
  CHECK(tape.grad(second) == 0.0);
}

TEST_CASE(parameter_blocks_are_contiguous_over_segments) {
  Tape tape;
  const std::size_t size = std::size_t{3} * NodeStore::segment_size + 7;
  const NodeId first = tape.parameter_block(size, 1);
  for (std::size_t i = 0; i < size; ++i) tape.values(first)[i] = static_cast<double>(i);
  for (NodeId i = 0; i < size; ++i) CHECK(tape.value(first + i) == static_cast<double>(i));
  CHECK(tape.store().nodes() == size);
  tape.release_block(first);
  CHECK(tape.store().nodes() == 0 && tape.store().segments() == 0);
}

TEST_CASE(a_parameter_block_lives_as_long_as_a_handle_or_a_result) {
  Tape tape;
  const NodeId first = tape.parameter_block(2, 3);
  tape.set_value(first + 4, 5.0);
  tape.retain(first + 4);
  const NodeId square = tape.mul(first + 4, first + 4);
  tape.release_block(first);
  tape.release(first + 4);
  CHECK(tape.store().nodes() == 7);
  tape.backward(square);
  CHECK(tape.value(square) == 25.0 && tape.grad(first + 4) == 10.0);
  tape.release(square);
  CHECK(tape.store().nodes() == 0);
}

TEST_CASE(segment_numbers_of_a_dead_block_are_used_again) {
  Tape tape;
  tape.parameter_block(1, 1);
  for (int i = 0; i < 1000; ++i) {
    const NodeId first = tape.parameter_block(std::size_t{3} * NodeStore::segment_size, 1);
    CHECK(first >> NodeStore::segment_bits == 1);
    tape.release_block(first);
  }
  const NodeId leaf = tape.leaf(1.0);
  CHECK(leaf >> NodeStore::segment_bits == 1);
}

TEST_CASE(a_tape_beyond_its_id_space_throws_and_stays_usable) {
  Tape tape;
  bool thrown = false;
  try {
    tape.parameter_block(NodeStore::max_segments + 1, NodeStore::segment_size);
  } catch (const std::length_error&) {
    thrown = true;
  }
  CHECK(thrown);
  const NodeId a = tape.leaf(2.0);
  CHECK(tape.value(tape.mul(a, a)) == 4.0);
}

TEST_CASE(a_block_without_parameters_or_with_more_than_an_integer_counts_throws) {
  Tape tape;
  const std::size_t half = std::size_t{1} << 32U;  // half * half wraps to 0
  int thrown = 0;
  for (const auto& [rows, cols] : {std::pair{std::size_t{0}, std::size_t{5}}, {5, 0}, {0, 0}}) {
    try {
      tape.parameter_block(rows, cols);
    } catch (const std::invalid_argument&) {
      ++thrown;
    }
  }
  CHECK(thrown == 3);
  try {
    tape.parameter_block(half, half);
  } catch (const std::length_error&) {
    ++thrown;
  }
  CHECK(thrown == 4 && tape.store().nodes() == 0);
}

TEST_CASE(an_operand_without_a_handle_does_not_end_its_block) {
  Tape tape;
  const NodeId first = tape.parameter_block(2, 2);
  tape.set_value(first, 3.0);
  tape.release(tape.mul(first, first + 1));
  tape.release(tape.exp(first));
  CHECK(tape.store().nodes() == 4);
  CHECK(tape.value(first) == 3.0);
  tape.release_block(first);
  CHECK(tape.store().nodes() == 0);
}

// The memory of a tape: nodes in segments, parameter blocks, reference counts, recycling.
// Operations are in tape.hpp, the order of a backward pass in backward.cpp.
//
// The id of a node is: segment index << 12 | offset in the segment. Three kinds of segment:
//   graph      results of operations, in the order of computation: a backward pass walks memory
//              almost sequentially. A segment is recycled when its last node has died.
//   leaf       values without operands, created by the user or under no_grad. They may live long,
//              so they never share a segment with a graph, and each slot is recycled separately.
//   parameter  a block of consecutive ids with contiguous values and gradients.
//
// A node lives while its reference count is above zero: one reference per handle of a caller, and
// one per operand slot of a live node. References are counted per node, not per segment, because a
// segment usually holds the end of one graph and the beginning of the next: the second graph would
// keep the first one alive, and so on. Each result that the user keeps therefore holds at most one
// segment.
#ifndef NANOCHAT_SCALAR_NODE_STORE_HPP_
#define NANOCHAT_SCALAR_NODE_STORE_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace nanochat {

using NodeId = std::uint32_t;

enum class Op : std::uint8_t {
  leaf,
  add,
  mul,
  add_const,
  mul_const,
  pow_const,
  neg,
  exp,
  log,
  relu,
  tanh,
};

// 0 for a leaf, 2 for add and mul, 1 for every other operation.
constexpr int operand_count(Op op) noexcept {
  return op == Op::leaf ? 0 : (op == Op::add || op == Op::mul) ? 2 : 1;
}

// The arrays of one segment. Leaf and parameter segments have value, grad, references and op (all
// Op::leaf); the others are null.
struct Segment {
  double* value = nullptr;
  double* grad = nullptr;
  double* constant = nullptr;  // of add_const, mul_const and pow_const
  NodeId* first = nullptr;
  NodeId* second = nullptr;
  std::uint32_t* references = nullptr;
  std::uint16_t* mark = nullptr;  // epoch of the last traversal that visited the node
  Op* op = nullptr;
};

class NodeStore {
 public:
  static constexpr unsigned segment_bits = 12;
  static constexpr NodeId segment_size = NodeId{1} << segment_bits;
  static constexpr NodeId offset_mask = segment_size - 1;
  // Bit 31 of an id is unused: traversals mark ids with it.
  static constexpr std::size_t max_nodes = std::size_t{1} << 31U;
  static constexpr std::size_t max_segments = max_nodes >> segment_bits;
  static constexpr const char* full = "a tape holds at most 2^31 nodes";

  NodeStore() = default;
  NodeStore(const NodeStore&) = delete;
  NodeStore& operator=(const NodeStore&) = delete;

  const Segment& segment(NodeId id) const noexcept { return table_[id >> segment_bits]; }
  static NodeId offset(NodeId id) noexcept { return id & offset_mask; }
  double& value(NodeId id) const noexcept { return segment(id).value[offset(id)]; }
  double& grad(NodeId id) const noexcept { return segment(id).grad[offset(id)]; }
  Op op(NodeId id) const noexcept { return segment(id).op[offset(id)]; }
  std::uint32_t references(NodeId id) const noexcept { return segment(id).references[offset(id)]; }

  // Returns a new node with one reference, which the caller holds. Retains the operands. Throws
  // std::bad_alloc, or std::length_error beyond 2^31 live nodes.
  NodeId new_leaf(double value);
  NodeId new_unary(Op op, NodeId operand, double constant, double value) {
    if (used_ == segment_size) [[unlikely]]
      start_segment();
    const NodeId at = used_++;
    write_common(at, op, value);
    filling_.first[at] = operand;
    filling_.constant[at] = constant;
    retain(operand);
    return base_ | at;
  }
  NodeId new_binary(Op op, NodeId first, NodeId second, double value) {
    if (used_ == segment_size) [[unlikely]]
      start_segment();
    const NodeId at = used_++;
    write_common(at, op, value);
    filling_.first[at] = first;
    filling_.second[at] = second;
    retain(first);
    retain(second);
    return base_ | at;
  }

  // Creates a block of `size` parameters of value 0 and returns the id of the first; the others
  // follow. The block lives until release_block() is called and none of its nodes is referenced.
  NodeId new_block(std::size_t size);
  void release_block(NodeId first) noexcept;

  // Adds a reference to a live node: one that has a reference, or whose block is held.
  void retain(NodeId id) noexcept {
    if (segment(id).references[offset(id)]++ == 0) [[unlikely]]
      ++details_[block_head(id)].holders;
  }
  void release(NodeId id) noexcept {
    if (--segment(id).references[offset(id)] == 0) free_node(id);
  }

  // Returns a mark that no node has.
  std::uint16_t next_epoch() noexcept;

  // The start time of a computed node's segment. Live nodes were computed in the order of
  // (birth, offset), which is not the order of their ids.
  std::uint64_t birth(NodeId id) const noexcept { return details_[id >> segment_bits].birth; }

  std::size_t nodes() const noexcept;     // live nodes, including parameters
  std::size_t segments() const noexcept;  // allocated segments, including free ones
  std::size_t bytes() const noexcept;     // of all segments and of the table

 private:
  enum class Kind : std::uint8_t { vacant, graph, leaf, parameter };

  struct AlignedDelete {
    void operator()(std::byte* memory) const noexcept {
      ::operator delete(memory, std::align_val_t{64});
    }
  };

  // Data of allocation and recycling, separate from the table that every operation reads.
  struct Detail {
    std::unique_ptr<std::byte, AlignedDelete> storage;
    std::size_t bytes = 0;
    std::size_t dead = 0;     // graph: nodes that have died since the segment was started
    std::size_t holders = 0;  // parameter head: referenced nodes, plus one for the block's owner
    std::size_t length = 0;   // parameter head: nodes in the block
    std::uint64_t birth = 0;  // graph: the number of this start of a segment
    NodeId link = 0;          // free graph segment: the next free one; parameter: its block's head
    Kind kind = Kind::vacant;
  };

  static constexpr NodeId none = ~NodeId{0};

  void write_common(NodeId at, Op op, double value) noexcept {
    filling_.value[at] = value;
    filling_.grad[at] = 0.0;
    filling_.references[at] = 1;
    filling_.op[at] = op;
  }
  NodeId block_head(NodeId id) const noexcept { return details_[id >> segment_bits].link; }

  void start_segment();
  void start_leaf_segment();
  NodeId vacant_run(std::size_t length);
  std::byte* allocate(NodeId index, Kind kind, std::size_t bytes);
  void free_node(NodeId id) noexcept;
  void drop_operand(NodeId id, NodeId& pending) noexcept;
  void bury_graph_node(NodeId index) noexcept;
  void bury_parameter(NodeId head) noexcept;

  // The segment being filled; `used_` starts full so that the first node allocates.
  Segment filling_;
  NodeId base_ = none;
  NodeId used_ = segment_size;

  std::vector<Segment> table_;
  std::vector<Detail> details_;
  NodeId free_segments_ = none;  // linked through Detail::link
  NodeId free_leaves_ = none;    // linked through the leaves' unused reference counts
  std::size_t vacant_ = 0;       // unused table slots
  std::size_t leaves_ = 0;
  std::uint64_t births_ = 0;
  std::uint16_t epoch_ = 0;
};

}  // namespace nanochat

#endif  // NANOCHAT_SCALAR_NODE_STORE_HPP_

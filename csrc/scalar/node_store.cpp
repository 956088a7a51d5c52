// Allocation and recycling of nodes. See node_store.hpp for the rules.
#include "scalar/node_store.hpp"

#include <algorithm>
#include <stdexcept>

namespace nanochat {
namespace {

// Leaf and parameter segments share one array of operations, which is never written.
Op leaf_ops[NodeStore::segment_size] = {};

// Divides memory into arrays. A cache line between them keeps equal offsets of different arrays out
// of the same cache set.
class Carver {
 public:
  explicit Carver(std::byte* memory) noexcept : next_(memory) {}

  template <class T>
  T* take(std::size_t count) {
    T* array = new (next_) T[count]();
    next_ += bytes_for<T>(count);
    return array;
  }

  template <class T>
  static constexpr std::size_t bytes_for(std::size_t count) noexcept {
    return (count * sizeof(T) + 127) / 64 * 64;
  }

 private:
  std::byte* next_;
};

constexpr std::size_t leaf_bytes(std::size_t count) noexcept {
  return 2 * Carver::bytes_for<double>(count) + Carver::bytes_for<std::uint32_t>(count);
}

constexpr std::size_t graph_bytes(std::size_t count) noexcept {
  return 3 * Carver::bytes_for<double>(count) + 3 * Carver::bytes_for<NodeId>(count) +
         Carver::bytes_for<std::uint16_t>(count) + Carver::bytes_for<Op>(count);
}

}  // namespace

NodeId NodeStore::vacant_run(std::size_t length) {
  if (vacant_ >= length) {
    std::size_t run = 0;
    for (std::size_t index = 0; index < details_.size(); ++index) {
      run = details_[index].kind == Kind::vacant ? run + 1 : 0;
      if (run == length) return static_cast<NodeId>(index + 1 - length);
    }
  }
  const std::size_t index = table_.size();
  if (length > max_segments - index) throw std::length_error(full);
  details_.resize(index + length);
  table_.resize(index + length);
  vacant_ += length;
  return static_cast<NodeId>(index);
}

std::byte* NodeStore::allocate(NodeId index, Kind kind, std::size_t bytes) {
  Detail& detail = details_[index];
  detail.storage.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
  detail.bytes = bytes;
  detail.kind = kind;
  --vacant_;
  return detail.storage.get();
}

void NodeStore::start_segment() {
  NodeId index = free_segments_;
  if (index != none) {
    free_segments_ = details_[index].link;
  } else {
    index = vacant_run(1);
    Carver carver(allocate(index, Kind::graph, graph_bytes(segment_size)));
    Segment& segment = table_[index];
    segment.value = carver.take<double>(segment_size);
    segment.grad = carver.take<double>(segment_size);
    segment.constant = carver.take<double>(segment_size);
    segment.first = carver.take<NodeId>(segment_size);
    segment.second = carver.take<NodeId>(segment_size);
    segment.references = carver.take<std::uint32_t>(segment_size);
    segment.mark = carver.take<std::uint16_t>(segment_size);
    segment.op = carver.take<Op>(segment_size);
  }
  details_[index].birth = ++births_;
  filling_ = table_[index];
  base_ = index << segment_bits;
  used_ = 0;
}

void NodeStore::start_leaf_segment() {
  const NodeId index = vacant_run(1);
  Carver carver(allocate(index, Kind::leaf, leaf_bytes(segment_size)));
  Segment& segment = table_[index];
  segment.value = carver.take<double>(segment_size);
  segment.grad = carver.take<double>(segment_size);
  segment.references = carver.take<std::uint32_t>(segment_size);
  segment.op = leaf_ops;
  const NodeId base = index << segment_bits;
  for (NodeId at = segment_size; at-- > 0;) {
    segment.references[at] = free_leaves_;
    free_leaves_ = base | at;
  }
}

NodeId NodeStore::new_leaf(double value) {
  if (free_leaves_ == none) [[unlikely]]
    start_leaf_segment();
  const NodeId id = free_leaves_;
  const Segment& home = segment(id);
  const NodeId at = offset(id);
  free_leaves_ = home.references[at];
  home.value[at] = value;
  home.grad[at] = 0.0;
  home.references[at] = 1;
  ++leaves_;
  return id;
}

NodeId NodeStore::new_block(std::size_t size) {
  const std::size_t length = (size + segment_size - 1) / segment_size;
  const NodeId head = vacant_run(length);
  Carver carver(allocate(head, Kind::parameter, leaf_bytes(size)));
  double* value = carver.take<double>(size);
  double* grad = carver.take<double>(size);
  std::uint32_t* references = carver.take<std::uint32_t>(size);
  for (std::size_t i = 0; i < length; ++i) {
    Segment& segment = table_[head + i];
    segment = Segment{};
    segment.value = value + i * segment_size;
    segment.grad = grad + i * segment_size;
    segment.references = references + i * segment_size;
    segment.op = leaf_ops;
    details_[head + i].kind = Kind::parameter;
    details_[head + i].link = head;
  }
  vacant_ -= length - 1;
  details_[head].length = size;
  details_[head].holders = 1;
  return head << segment_bits;
}

void NodeStore::release_block(NodeId first) noexcept { bury_parameter(first >> segment_bits); }

void NodeStore::bury_parameter(NodeId head) noexcept {
  if (--details_[head].holders != 0) return;
  const std::size_t length = (details_[head].length + segment_size - 1) / segment_size;
  for (std::size_t i = 0; i < length; ++i) {
    table_[head + i] = Segment{};
    details_[head + i] = Detail{};
  }
  vacant_ += length;
}

void NodeStore::bury_graph_node(NodeId index) noexcept {
  Detail& detail = details_[index];
  const bool filling = index == base_ >> segment_bits;
  if (++detail.dead != (filling ? used_ : segment_size)) return;
  detail.dead = 0;
  if (filling) {
    used_ = 0;
  } else {
    detail.link = free_segments_;
    free_segments_ = index;
  }
}

// The reference count of a dead node links the list of nodes that are still to be freed: a chain of
// any length is freed without recursion and without allocation.
void NodeStore::drop_operand(NodeId id, NodeId& pending) noexcept {
  std::uint32_t& references = segment(id).references[offset(id)];
  if (--references != 0) return;
  references = pending;
  pending = id;
}

void NodeStore::free_node(NodeId id) noexcept {
  NodeId pending = none;
  for (;;) {
    const NodeId index = id >> segment_bits;
    const Segment& home = table_[index];
    const NodeId at = offset(id);
    const Kind kind = details_[index].kind;
    if (kind == Kind::graph) {
      drop_operand(home.first[at], pending);
      if (operand_count(home.op[at]) == 2) drop_operand(home.second[at], pending);
      bury_graph_node(index);
    } else if (kind == Kind::leaf) {
      home.references[at] = free_leaves_;
      free_leaves_ = id;
      --leaves_;
    } else {
      home.references[at] = 0;
      bury_parameter(details_[index].link);
    }
    if (pending == none) return;
    id = pending;
    pending = segment(id).references[offset(id)];
  }
}

std::uint16_t NodeStore::next_epoch() noexcept {
  if (++epoch_ == 0) {
    for (const Segment& segment : table_) {
      if (segment.mark != nullptr) std::fill_n(segment.mark, segment_size, std::uint16_t{0});
    }
    epoch_ = 1;
  }
  return epoch_;
}

std::size_t NodeStore::nodes() const noexcept {
  std::size_t total = leaves_;
  std::size_t recycled = 0;
  for (std::size_t index = 0; index < details_.size(); ++index) {
    const Detail& detail = details_[index];
    if (detail.kind == Kind::graph) total += segment_size - detail.dead;
    if (detail.kind == Kind::parameter) total += detail.length;
  }
  for (NodeId index = free_segments_; index != none; index = details_[index].link) ++recycled;
  const std::size_t unused = base_ == none ? 0 : segment_size - used_;
  return total - recycled * segment_size - unused;
}

std::size_t NodeStore::segments() const noexcept { return details_.size() - vacant_; }

std::size_t NodeStore::bytes() const noexcept {
  std::size_t total = table_.capacity() * sizeof(Segment) + details_.capacity() * sizeof(Detail);
  for (const Detail& detail : details_) total += detail.bytes;
  return total;
}

}  // namespace nanochat

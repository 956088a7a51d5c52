// From tape to graph. Precondition: the nodes that the outputs need are alive. Every operation
// becomes a node with the same arithmetic: a product is a sum of one product, `-x` is x · −1, and
// `x + 0` is a sum that starts from 0 (as the built-in sum() does). Every value keeps its bits.
#include "scalar/program/graph/recording.hpp"

#include <algorithm>
#include <cmath>

namespace nanochat::program {
namespace {

class Extraction {
 public:
  Extraction(const Tape& tape, const Recording& recording) : tape_(tape), recording_(recording) {
    std::size_t count = 0;
    for (const Block& block : recording.blocks) {
      starts_.push_back(count);
      const std::size_t size = block.rows * block.cols;
      for (std::size_t i = 0; i < size; ++i) {
        Node node;
        node.kind = Kind::parameter;
        node.index = static_cast<std::int32_t>(count + i);
        node.order = static_cast<Id>(count + i);
        graph_id(block.first + static_cast<NodeId>(i)) = graph_.add(node);
      }
      count += size;
    }
    graph_.parameters = count;
  }

  Graph run(const std::vector<NodeId>& outputs, const std::vector<NodeId>& observed) {
    for (const NodeId id : outputs) reach(id);
    for (const NodeId id : observed) reach(id);
    graph_.nodes.reserve(graph_.nodes.size() + nodes_);
    graph_.products.reserve(nodes_);
    // Segments by birth, and nodes by offset, are in the order of computation.
    std::sort(segments_.begin(), segments_.end(), [this](NodeId a, NodeId b) {
      return tape_.store().birth(a) < tape_.store().birth(b);
    });
    for (const NodeId base : segments_) {
      for (NodeId at = 0; at < NodeStore::segment_size; ++at) {
        if (segment_ids(base)[at] == reached) emit(base | at);
      }
    }
    for (const NodeId id : outputs) graph_.outputs.push_back(operand(id));
    for (const NodeId id : observed) graph_.observed.push_back(operand(id));
    return std::move(graph_);
  }

 private:
  static constexpr Id unseen = none;
  static constexpr Id reached = none - 1;

  std::vector<Id>& segment_ids(NodeId id) {
    const std::size_t index = id >> NodeStore::segment_bits;
    if (index >= graph_ids_.size()) graph_ids_.resize(index + 1);
    if (graph_ids_[index].empty()) graph_ids_[index].assign(NodeStore::segment_size, unseen);
    return graph_ids_[index];
  }
  Id& graph_id(NodeId id) { return segment_ids(id)[NodeStore::offset(id)]; }

  // Marks the nodes that `root` needs, including the operands of symbols.
  void reach(NodeId root) {
    pending_.push_back(root);
    while (!pending_.empty()) {
      const NodeId id = pending_.back();
      pending_.pop_back();
      if (graph_id(id) != unseen) continue;
      if (tape_.op(id) == Op::leaf) {
        const auto symbol = recording_.symbols.find(id);
        if (symbol == recording_.symbols.end() || symbol->second.operands.empty()) continue;
        if (!expanded_.emplace(id, 0).second) continue;
        for (const NodeId operand : symbol->second.operands) pending_.push_back(operand);
        continue;
      }
      const NodeId base = id & ~NodeStore::offset_mask;
      if (std::find(segments_.rbegin(), segments_.rend(), base) == segments_.rend()) {
        segments_.push_back(base);
      }
      graph_id(id) = reached;
      nodes_ += 2;  // the node and its constant or leaf, if any
      pending_.push_back(tape_.first(id));
      if (operand_count(tape_.op(id)) == 2) pending_.push_back(tape_.second(id));
    }
  }

  Id next_order() const { return static_cast<Id>(graph_.nodes.size()); }

  // The node of an operand. Leaves are placed at their first use, which is after their operands.
  // Selections of selections may be nested to any depth, so this is a loop and not a recursion.
  Id operand(NodeId id) {
    if (graph_id(id) < reached) return graph_id(id);
    pending_.push_back(id);
    while (!pending_.empty()) {
      const NodeId top = pending_.back();
      const std::size_t open = pending_.size();
      const auto found = recording_.symbols.find(top);
      if (found != recording_.symbols.end() && graph_id(top) >= reached) {
        const std::vector<NodeId>& operands = found->second.operands;
        for (auto each = operands.rbegin(); each != operands.rend(); ++each) {
          if (graph_id(*each) >= reached) pending_.push_back(*each);
        }
      }
      if (pending_.size() > open) continue;
      pending_.pop_back();
      if (graph_id(top) >= reached) place_leaf(top);
    }
    return graph_id(id);
  }

  // Precondition: its operands are placed.
  void place_leaf(NodeId id) {
    Node node;
    node.order = next_order();
    const auto found = recording_.symbols.find(id);
    if (found == recording_.symbols.end()) {
      node.kind = Kind::constant;
      node.value = tape_.value(id);
    } else {
      const Symbol& symbol = found->second;
      node.kind = symbol.kind;
      node.slot = symbol.slot;
      if (symbol.kind == Kind::gather) {
        node.value = static_cast<double>(symbol.block);
        node.index = static_cast<std::int32_t>(starts_[symbol.block] + symbol.column);
        node.rows = static_cast<std::int32_t>(recording_.blocks[symbol.block].rows);
        node.stride = static_cast<std::int32_t>(recording_.blocks[symbol.block].cols);
      } else if (!symbol.operands.empty()) {
        node.first = static_cast<std::uint32_t>(graph_.operands.size());
        node.count = static_cast<std::uint32_t>(symbol.operands.size());
        for (const NodeId each : symbol.operands) graph_.operands.push_back(graph_id(each));
      }
    }
    graph_id(id) = graph_.add(node);
  }

  Id constant(double value) {
    Node node;
    node.value = value;
    node.order = next_order();
    return graph_.add(node);
  }

  Id sum(std::initializer_list<Product> products) {
    return graph_.add_sum(products.begin(), products.size(), shared, next_order());
  }

  Id product(Id a, Id b) {
    const Id made = sum({{a, b}});
    graph_.nodes[made].product = true;
    return made;
  }

  void emit(NodeId id) {
    const Id a = operand(tape_.first(id));
    const double c = tape_.op(id) == Op::add_const || tape_.op(id) == Op::mul_const ||
                             tape_.op(id) == Op::pow_const
                         ? tape_.constant(id)
                         : 0.0;
    const auto unary = [&](Kind kind) {
      return graph_.add_unary(kind, a, c, shared, next_order());
    };
    Id made = none;
    switch (tape_.op(id)) {
      case Op::leaf:
        break;
      case Op::add: {
        const Id b = operand(tape_.second(id));
        made = sum({{a, one}, {b, one}});
        break;
      }
      case Op::mul: {
        const Id b = operand(tape_.second(id));
        made = product(a, b);
        break;
      }
      case Op::add_const:
        if (c == 0.0 && !std::signbit(c)) {
          made = sum({{a, one}});
          graph_.nodes[made].from_zero = true;
        } else {
          made = unary(Kind::add_constant);
        }
        break;
      case Op::mul_const: {
        const Id b = constant(c);
        made = product(a, b);
        break;
      }
      case Op::neg: {
        const Id b = constant(-1.0);
        made = product(a, b);
        break;
      }
      case Op::pow_const:
        made = unary(Kind::power);
        break;
      case Op::exp:
        made = unary(Kind::exp);
        break;
      case Op::log:
        made = unary(Kind::log);
        break;
      case Op::relu:
        made = unary(Kind::relu);
        break;
      case Op::tanh:
        made = unary(Kind::tanh);
        break;
    }
    graph_id(id) = made;
  }

  const Tape& tape_;
  const Recording& recording_;
  Graph graph_;
  std::vector<std::size_t> starts_;         // first parameter of each block
  std::vector<std::vector<Id>> graph_ids_;  // by segment and offset
  std::vector<NodeId> segments_;
  std::size_t nodes_ = 0;  // an upper bound on the nodes that will be added
  std::vector<NodeId> pending_;
  std::unordered_map<NodeId, char> expanded_;
};

}  // namespace

Graph to_graph(const Tape& tape, const Recording& recording, const std::vector<NodeId>& outputs,
               const std::vector<NodeId>& observed) {
  return Extraction(tape, recording).run(outputs, observed);
}

}  // namespace nanochat::program

// See verify.hpp. This file: graphs, and what follows a violation.
#include "scalar/program/graph/verify.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace nanochat::program {
namespace {

class GraphChecker {
 public:
  explicit GraphChecker(const Graph& graph)
      : graph_(graph),
        positions_(static_cast<std::int32_t>(graph.outputs.size())),
        needs_seed_(graph.nodes.size(), 0) {}

  std::string first_violation() {
    for (Id id = 0; id < graph_.nodes.size() && violation_.empty(); ++id) {
      id_ = id;
      check_node(graph_.nodes[id]);
    }
    if (violation_.empty()) check_roots();
    return violation_;
  }

 private:
  void require(bool holds, const char* rule) {
    if (holds || !violation_.empty()) return;
    violation_ =
        "node %" + std::to_string(id_) + " (" + name_of(graph_.nodes[id_].kind) + "): " + rule;
  }
  void require_root(bool holds, const char* rule) {
    if (!holds && violation_.empty()) violation_ = rule;
  }

  void check_node(const Node& node) {
    require(node.position >= shared && node.position < std::max(positions_, 1),
            "the position must be `shared` or that of an output");
    if (node.kind == Kind::seed) after_seed_ = needs_seed_[id_] = 1;
    if (is_leaf(node.kind)) {
      check_leaf(node);
    } else if (is_unary(node.kind)) {
      check_operand(node, node.first);
    } else if (node.kind == Kind::sum) {
      check_products(node);
    } else {
      check_operands(node);
    }
  }

  void check_leaf(const Node& node) {
    const bool has_slot = node.kind == Kind::gather || node.kind == Kind::input ||
                          node.kind == Kind::one_hot || node.kind == Kind::not_one_hot;
    if (has_slot) require(node.slot >= 0, "the slot must not be negative");
    if (node.kind == Kind::parameter) {
      require(is_parameter(node.index), "the index must be that of a parameter");
    } else if (node.kind == Kind::gather) {
      require(node.rows > 0 && node.stride > 0, "the matrix must have rows and columns");
      require(is_parameter(node.index) && is_parameter(node.index + (node.rows - 1) * node.stride),
              "the matrix must consist of parameters");
    } else if (node.kind == Kind::seed) {
      require(node.index >= 0 && node.index < positions_, "the index must be that of an output");
    }
  }

  void check_products(const Node& node) {
    require(node.count > 0, "a sum must have a product");
    require(std::size_t{node.first} + node.count <= graph_.products.size(),
            "the products must be in the pool of products");
    for (std::uint32_t i = 0; i < node.count && violation_.empty(); ++i) {
      const Product& product = graph_.products[node.first + i];
      require(product.a != one || product.b == one, "the factor 1 must be the second one");
      if (product.a != one) check_operand(node, product.a);
      if (product.b != one) check_operand(node, product.b);
    }
  }

  void check_operands(const Node& node) {
    require(node.count > 0, "there must be an operand");
    require(std::size_t{node.first} + node.count <= graph_.operands.size(),
            "the operands must be in the pool of operands");
    if (node.kind == Kind::select) require(node.slot >= 0, "the slot must not be negative");
    for (std::uint32_t i = 0; i < node.count && violation_.empty(); ++i) {
      check_operand(node, graph_.operands[node.first + i]);
    }
  }

  void check_operand(const Node& node, Id operand) {
    require(operand < id_, "an operand must come before its user");
    if (!violation_.empty()) return;
    needs_seed_[id_] |= needs_seed_[operand];
    // Gradients flow from later positions to earlier ones.
    if (!after_seed_) {
      require(graph_.nodes[operand].position <= node.position,
              "an operand must not have a later position than its user");
    }
  }

  void check_roots() {
    const auto exists = [&](Id id) { return id < graph_.nodes.size(); };
    const auto all_exist = [&](const std::vector<Id>& ids) {
      return std::all_of(ids.begin(), ids.end(), exists);
    };
    require_root(all_exist(graph_.outputs), "an output is not a node");
    require_root(all_exist(graph_.observed), "an observed value is not a node");
    require_root(all_exist(graph_.seeds), "a seed is not a node");
    if (!violation_.empty()) return;
    const auto is_forward = [&](Id id) { return needs_seed_[id] == 0; };
    require_root(std::all_of(graph_.outputs.begin(), graph_.outputs.end(), is_forward) &&
                     std::all_of(graph_.observed.begin(), graph_.observed.end(), is_forward),
                 "an output or an observed value depends on a gradient");
    require_root(graph_.parameter_gradients.empty() ||
                     graph_.parameter_gradients.size() == graph_.parameters,
                 "there must be one gradient per parameter");
    for (const Id id : graph_.parameter_gradients) {
      require_root(id == none || exists(id), "a gradient of a parameter is not a node");
    }
    for (const Product& pair : graph_.gather_gradients) {
      require_root(exists(pair.a) && exists(pair.b), "a gradient of a matrix row is not a node");
      if (violation_.empty()) {
        require_root(graph_.nodes[pair.a].kind == Kind::gather,
                     "a gradient of a matrix row must belong to a gather");
      }
    }
  }

  bool is_parameter(std::int32_t index) const {
    return index >= 0 && static_cast<std::size_t>(index) < graph_.parameters;
  }

  const Graph& graph_;
  std::int32_t positions_;
  Id id_ = 0;
  char after_seed_ = 0;
  std::vector<char> needs_seed_;  // per node so far: whether it depends on a seed
  std::string violation_;
};

void stop_at(const std::string& violation, const char* pass) {
  if (violation.empty()) return;
  throw std::logic_error(std::string("the program is broken after ") + pass + ": " + violation);
}

}  // namespace

std::string violation_in(const Graph& graph) { return GraphChecker(graph).first_violation(); }

bool verifies() {
#ifdef NDEBUG
  const char* set = std::getenv("NCLAB_VERIFY");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return set != nullptr && *set != '\0';
#else
  return true;
#endif
}

void verify(const Graph& graph, const char* pass) {
  if (verifies()) stop_at(violation_in(graph), pass);
}

void verify(const VectorProgram& program, const char* pass) {
  if (verifies()) stop_at(violation_in(program), pass);
}

}  // namespace nanochat::program

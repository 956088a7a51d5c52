// The scalar graph that the passes rewrite: one node for each number, operands before users.
// Leaves out where it comes from (recording.hpp), what the passes do (one file each, passes.hpp)
// and the vector program that it becomes (vector_program.hpp).
#ifndef NANOCHAT_SCALAR_PROGRAM_GRAPH_HPP_
#define NANOCHAT_SCALAR_PROGRAM_GRAPH_HPP_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nanochat::program {

using Id = std::uint32_t;

inline constexpr Id none = ~Id{0};
inline constexpr Id one = none - 1;  // the factor 1 of a product
inline constexpr std::int32_t shared =
    -1;  // the stage of what no position owns: parameters, constants

enum class Kind : std::uint8_t {
  // Leaves.
  constant,     // value
  parameter,    // index: which one
  gather,       // row `token of slot` of matrix `value`: index of its row 0, stride to the next
  input,        // slot: a number given at replay
  seed,         // index of an output: the gradient that flows into it
  one_hot,      // slot, index: 1 where the slot's token is index, else 0
  not_one_hot,  // its complement
  // Of several operands.
  sum,      // Σ products, from left to right
  largest,  // of the operands; nothing flows back
  select,   // the operand that the slot's token names
  // Of one operand.
  exp,
  log,
  tanh,
  relu,
  step,              // 1 where x > 0, else 0
  inverse,           // 1 / x
  power,             // x ** value
  power_local,       // value * x ** (value - 1); 0 if value is 0
  one_minus_square,  // 1 - x * x
  add_constant,      // x + value
};

constexpr bool is_leaf(Kind kind) noexcept { return kind <= Kind::not_one_hot; }
constexpr bool is_unary(Kind kind) noexcept { return kind >= Kind::exp; }
const char* name_of(Kind kind) noexcept;

// a · b. A factor is a node or `one`; `one` never stands first unless both are `one`.
struct Product {
  Id a;
  Id b;
};

struct Node {
  Kind kind = Kind::constant;
  bool gradient = false;        // made by differentiate
  bool product = false;         // a sum of one that was recorded as a product
  bool from_zero = false;       // a sum that begins with 0, and so is never −0
  std::int32_t stage = shared;  // the first output that needs it
  Id order = 0;                 // features of a group are sorted by it: the recorded order
  std::uint32_t first = 0;      // into products or operands; the operand itself of a unary node
  std::uint32_t count = 0;
  double value = 0.0;
  std::int32_t slot = 0;
  std::int32_t index = 0;
  std::int32_t stride = 0;
  std::int32_t rows = 0;  // gather: of the matrix
};

struct Graph {
  std::vector<Node> nodes;
  std::vector<Product> products;  // of sums
  std::vector<Id> operands;       // of largest and select
  std::vector<Id> outputs;        // the losses, one a stage
  std::vector<Id> watched;        // values that a replay shows, such as logits
  std::vector<Id> seeds;          // of each output, once differentiated
  // Once differentiated: the gradient of parameter i, `none` where nothing flows.
  std::vector<Id> parameter_gradients;
  // Gradients that flow into gathered numbers: (the gather leaf, its gradient), in the order in
  // which they reach the matrix.
  std::vector<Product> gather_gradients;
  std::size_t parameters = 0;
  bool ordered = true;  // exact: gradients can be added in microgpt.py's order

  Id add(const Node& node) {
    nodes.push_back(node);
    return static_cast<Id>(nodes.size() - 1);
  }
  Id add_sum(const Product* begin, std::size_t count, std::int32_t stage, Id order);
  Id add_unary(Kind kind, Id operand, double value, std::int32_t stage, Id order);

  // Calls visit(Id&) for every operand slot of a node, factors `one` left out.
  template <class Visit>
  void for_operands(Id id, Visit&& visit) {
    Node& node = nodes[id];
    if (is_leaf(node.kind)) return;
    if (is_unary(node.kind)) {
      visit(node.first);
    } else if (node.kind == Kind::sum) {
      for (std::uint32_t i = 0; i < node.count; ++i) {
        Product& product = products[node.first + i];
        if (product.a < one) visit(product.a);
        if (product.b < one) visit(product.b);
      }
    } else {
      for (std::uint32_t i = 0; i < node.count; ++i) visit(operands[node.first + i]);
    }
  }
  // Calls visit(Id&) for everything that must stay: outputs, watched values and gradients.
  template <class Visit>
  void for_roots(Visit&& visit) {
    for (std::vector<Id>* roots : {&outputs, &watched, &seeds, &parameter_gradients}) {
      for (Id& id : *roots) {
        if (id != none) visit(id);
      }
    }
    for (Product& pair : gather_gradients) {
      visit(pair.a);
      visit(pair.b);
    }
  }
};

// Nodes by kind, products and what the passes left, as text: a line for each kind.
std::string summary(const Graph& graph);
// Every node on a line, `limit` of them: "%12 = sum %3*%4 %5*%6  (stage 2)".
std::string dump(const Graph& graph, std::size_t limit);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_GRAPH_HPP_

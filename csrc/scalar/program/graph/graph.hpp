// The scalar graph that the passes rewrite: one node per number, operands before users. Recording
// is in recording.hpp, the passes are declared in passes.hpp, and vector_program.hpp is the result.
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
// The position of a number that belongs to no position in a document: parameters, constants.
inline constexpr std::int32_t shared = -1;

enum class Kind : std::uint8_t {
  // Leaves.
  constant,     // value
  parameter,    // index
  gather,       // a parameter in the row that the slot's token selects of matrix number `value`:
                // index in row 0, stride from row to row
  input,        // slot: a number given at replay
  seed,         // index of an output: the gradient that flows into it
  one_hot,      // slot, index: 1 if the slot's token is index, otherwise 0
  not_one_hot,  // 0 if the slot's token is index, otherwise 1
  // Of several operands.
  sum,      // Σ products, from left to right
  largest,  // of the operands; no gradient flows back
  select,   // the operand that the slot's token selects
  // Of one operand.
  exp,
  log,
  tanh,
  relu,
  step,              // 1 if x > 0, otherwise 0
  inverse,           // 1 / x
  power,             // x ** value
  power_local,       // value * x ** (value - 1); 0 if value is 0
  one_minus_square,  // 1 - x * x
  add_constant,      // x + value
};

constexpr bool is_leaf(Kind kind) noexcept { return kind <= Kind::not_one_hot; }
constexpr bool is_unary(Kind kind) noexcept { return kind >= Kind::exp; }
const char* name_of(Kind kind) noexcept;

// a · b. A factor is a node or `one`; a is `one` only if both are.
struct Product {
  Id a;
  Id b;
};

struct Node {
  Kind kind = Kind::constant;
  bool gradient = false;           // added by differentiate()
  bool product = false;            // a sum of one product that was recorded as a product
  bool from_zero = false;          // a sum that begins with 0 and so is never −0
  std::int32_t position = shared;  // of the first output that needs it
  Id order = 0;                    // the recorded order, by which features of a group are sorted
  std::uint32_t first = 0;         // into products or operands; a unary node's operand itself
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
  std::vector<Id> outputs;        // the losses, one per position
  std::vector<Id> observed;       // values that a replay can return, such as logits
  std::vector<Id> seeds;          // per output, after differentiate()
  // After differentiate(): the gradient of parameter i, or `none` if no gradient flows into it.
  std::vector<Id> parameter_gradients;
  // Gradients of gathered numbers, (gather leaf, gradient), in the order in which they reach the
  // matrix.
  std::vector<Product> gather_gradients;
  std::size_t parameters = 0;
  bool ordered = true;  // exact numerics: gradients can be added in microgpt.py's order

  Id add(const Node& node) {
    nodes.push_back(node);
    return static_cast<Id>(nodes.size() - 1);
  }
  Id add_sum(const Product* begin, std::size_t count, std::int32_t position, Id order);
  Id add_unary(Kind kind, Id operand, double value, std::int32_t position, Id order);

  // Calls visit(Id&) for every operand of a node except factors `one`.
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
  // Calls visit(Id&) for every node that must be kept: outputs, observed values and gradients.
  template <class Visit>
  void for_roots(Visit&& visit) {
    for (std::vector<Id>* roots : {&outputs, &observed, &seeds, &parameter_gradients}) {
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

// The numbers of nodes by kind and of products, as one line of text.
std::string summary(const Graph& graph);
// The first `limit` nodes, one per line: "%12 = sum %3*%4 %5*%6  (position 2)".
std::string dump(const Graph& graph, std::size_t limit);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_GRAPH_HPP_

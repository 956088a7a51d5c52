// Computes arithmetic on constants once.
//
// Needs: operands before users. Rewrites: a sum or a function of constants only into the constant
// that the replay would compute. Bit-identical: the same operations in the same order, with the
// same rounding and the same libm. A product with the constant 1 is kept, because the next position
// may have another constant there (a rotation by angle 0), and equal work should have equal nodes.
#include "scalar/libm.hpp"
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

double unary_value(Kind kind, double x, double c) {
  switch (kind) {
    case Kind::exp:
      return libm::exp(x);
    case Kind::log:
      return libm::log(x);
    case Kind::tanh:
      return libm::tanh(x);
    case Kind::relu:
      return x > 0.0 || x != x ? x : 0.0;
    case Kind::power:
      return libm::pow(x, c);
    default:
      return x + c;  // add_constant; the other kinds appear later, in differentiate()
  }
}

}  // namespace

void fold_constants(Graph& graph) {
  const auto constant = [&](Id id) { return graph.nodes[id].kind == Kind::constant; };
  const auto value = [&](Id id) { return id == one ? 1.0 : graph.nodes[id].value; };
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    Node& node = graph.nodes[id];
    if (is_leaf(node.kind)) continue;
    double result = node.from_zero ? 0.0 : -0.0;
    if (node.kind == Kind::sum) {
      bool all = true;
      for (std::uint32_t i = 0; i < node.count; ++i) {
        const Product& product = graph.products[node.first + i];
        all = all && constant(product.a) && (product.b == one || constant(product.b));
        if (all) result = result + value(product.a) * value(product.b);
      }
      if (!all) continue;
    } else if (is_unary(node.kind) && constant(node.first)) {
      result = unary_value(node.kind, value(node.first), node.value);
    } else {
      continue;
    }
    node.kind = Kind::constant;
    node.value = result;
    node.position = shared;
  }
}

}  // namespace nanochat::program

// See graph.hpp. This file: construction of nodes, and the graph as text.
#include "scalar/program/graph/graph.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

namespace nanochat::program {
namespace {

constexpr std::array<const char*, 20> names = {"constant",
                                               "parameter",
                                               "gather",
                                               "input",
                                               "seed",
                                               "one_hot",
                                               "not_one_hot",
                                               "sum",
                                               "largest",
                                               "select",
                                               "exp",
                                               "log",
                                               "tanh",
                                               "relu",
                                               "step",
                                               "inverse",
                                               "power",
                                               "power_local",
                                               "one_minus_square",
                                               "add_constant"};

std::string factor(Id id) { return id == one ? "1" : "%" + std::to_string(id); }

std::string number(double value) {
  std::array<char, 32> text{};
  (void)std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

std::string line(const Graph& graph, Id id) {
  const Node& node = graph.nodes[id];
  std::string text = "%" + std::to_string(id) + " = " + name_of(node.kind);
  if (is_unary(node.kind)) {
    text += " " + factor(node.first);
  } else if (node.kind == Kind::sum) {
    for (std::uint32_t i = 0; i < node.count; ++i) {
      const Product& product = graph.products[node.first + i];
      text += " " + factor(product.a) + (product.b == one ? "" : "*" + factor(product.b));
    }
  } else if (!is_leaf(node.kind)) {
    for (std::uint32_t i = 0; i < node.count; ++i) {
      text += " " + factor(graph.operands[node.first + i]);
    }
  }
  switch (node.kind) {
    case Kind::constant:
    case Kind::power:
    case Kind::power_local:
    case Kind::add_constant:
      text += " " + number(node.value);
      break;
    case Kind::parameter:
    case Kind::seed:
      text += " " + std::to_string(node.index);
      break;
    case Kind::gather:
      text += " slot " + std::to_string(node.slot) + ", parameters " + std::to_string(node.index) +
              " + " + std::to_string(node.stride) + "*token";
      break;
    case Kind::input:
    case Kind::select:
      text += " slot " + std::to_string(node.slot);
      break;
    case Kind::one_hot:
    case Kind::not_one_hot:
      text += " slot " + std::to_string(node.slot) + ", " + std::to_string(node.index);
      break;
    default:
      break;
  }
  return text +
         (node.position == shared ? "" : "  (position " + std::to_string(node.position) + ")");
}

}  // namespace

const char* name_of(Kind kind) noexcept { return names[static_cast<std::size_t>(kind)]; }

Id Graph::add_sum(const Product* begin, std::size_t count, std::int32_t position, Id order) {
  Node node;
  node.kind = Kind::sum;
  node.position = position;
  node.order = order;
  node.first = static_cast<std::uint32_t>(products.size());
  node.count = static_cast<std::uint32_t>(count);
  products.insert(products.end(), begin, begin + count);
  return add(node);
}

Id Graph::add_unary(Kind kind, Id operand, double value, std::int32_t position, Id order) {
  Node node;
  node.kind = kind;
  node.position = position;
  node.order = order;
  node.first = operand;
  node.value = value;
  return add(node);
}

std::string summary(const Graph& graph) {
  std::array<std::size_t, names.size()> count{};
  std::size_t products = 0;
  for (const Node& node : graph.nodes) {
    ++count[static_cast<std::size_t>(node.kind)];
    if (node.kind == Kind::sum) products += node.count;
  }
  std::string text = std::to_string(graph.nodes.size()) + " nodes:";
  for (std::size_t kind = 0; kind < names.size(); ++kind) {
    if (count[kind] == 0) continue;
    text += " " + std::string(names[kind]) + " " + std::to_string(count[kind]);
    if (static_cast<Kind>(kind) == Kind::sum)
      text += " (" + std::to_string(products) + " products)";
  }
  return text;
}

std::string dump(const Graph& graph, std::size_t limit) {
  std::string text;
  for (Id id = 0; id < std::min(graph.nodes.size(), limit); ++id) text += line(graph, id) + "\n";
  if (graph.nodes.size() > limit) {
    text += "… " + std::to_string(graph.nodes.size() - limit) + " more\n";
  }
  return text;
}

}  // namespace nanochat::program

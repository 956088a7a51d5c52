// Computes the log of a softmax's probability without the probability, which may underflow.
//
// Needs: hoisted selections (the probability is then one exp times a total ** -1). Rewrites
//   log(x · y)                          into  log(x) + log(y)
//   log(x ** c)                         into  c · log(x)
//   log(exp(x))                         into  x
//   log(select(exp(x₀), exp(x₁), …))    into  select(x₀, x₁, …)
// if x and y are positive by construction, and only if an exp disappears. Correct because the
// logarithm is a homomorphism; rounding differs, so the pass is for fast numerics only. If exp(x)
// is not a normal number, the recorded operations give a gradient of 1 / 0 · 0 or an infinite loss;
// the rewritten ones still give x.
#include <array>

#include "scalar/program/graph/rewrite.hpp"
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

// A term of a logarithm: times · value, or times · log(value).
struct LogTerm {
  double times;
  Id value;
  bool is_log;
};

class Logs {
 public:
  Id write(Graph& out, const Node& node) {
    const Id id = node.kind == Kind::log ? split(out, node) : out.add(node);
    while (positive_.size() < out.nodes.size()) {
      positive_.push_back(is_positive(out, out.nodes[positive_.size()]));
    }
    return id;
  }

 private:
  // A logarithm of more terms is not split: n logs of running products would have n² / 2 terms.
  static constexpr std::size_t limit = 8;

  bool positive(Id id) const { return id == one || (id < one && positive_[id] != 0); }

  char is_positive(const Graph& out, const Node& node) const {
    switch (node.kind) {
      case Kind::exp:
        return 1;
      case Kind::constant:
        return node.value > 0.0;
      case Kind::power:
        return positive(node.first);
      case Kind::sum:
        for (std::uint32_t i = 0; i < node.count; ++i) {
          const Product& product = out.products[node.first + i];
          if (!positive(product.a) || !positive(product.b)) return 0;
        }
        return 1;
      case Kind::select:
        for (std::uint32_t i = 0; i < node.count; ++i) {
          if (!positive(out.operands[node.first + i])) return 0;
        }
        return 1;
      default:
        return 0;
    }
  }

  Id split(Graph& out, const Node& node) {
    terms_.clear();
    bool exp_gone = false;
    std::array<LogTerm, limit> open_terms{{{1.0, node.first, true}}};
    for (std::size_t open = 1, seen = 0; open > 0; ++seen) {
      const LogTerm term = open_terms[--open];
      const Node& value = out.nodes[term.value];
      if (value.kind == Kind::exp || selects_exp(out, value)) {
        exp_gone = true;
        terms_.push_back({term.times, term.value, false});
      } else if (seen >= limit) {
        return out.add(node);
      } else if (value.kind == Kind::power && value.value != 0.0 && positive(value.first)) {
        open_terms[open++] = {term.times * value.value, value.first, true};
      } else if (value.kind == Kind::sum && value.count == 1 && positive_[term.value] != 0 &&
                 open + 2 <= limit) {
        const Product& product = out.products[value.first];
        if (product.b != one) open_terms[open++] = {term.times, product.b, true};
        open_terms[open++] = {term.times, product.a, true};
      } else {
        terms_.push_back(term);
      }
    }
    return exp_gone ? sum_of_terms(out, node) : out.add(node);
  }

  static bool selects_exp(const Graph& out, const Node& node) {
    if (node.kind != Kind::select) return false;
    for (std::uint32_t i = 0; i < node.count; ++i) {
      if (out.nodes[out.operands[node.first + i]].kind != Kind::exp) return false;
    }
    return true;
  }

  Id sum_of_terms(Graph& out, const Node& log) {
    products_.clear();
    for (const LogTerm& term : terms_) {
      const Id value = term.is_log
                           ? out.add_unary(Kind::log, term.value, 0.0, log.position, log.order)
                           : exponent(out, term.value);
      products_.push_back({value, term.times == 1.0 ? one : constant(out, term.times)});
    }
    if (products_.size() == 1 && products_.front().b == one) return products_.front().a;
    return out.add_sum(products_.data(), products_.size(), log.position, log.order);
  }

  // The x of exp(x), or the selection of the x of the candidates.
  static Id exponent(Graph& out, Id id) {
    Node node = out.nodes[id];
    if (node.kind == Kind::exp) return node.first;
    const std::uint32_t from = node.first;
    node.first = static_cast<std::uint32_t>(out.operands.size());
    for (std::uint32_t i = from; i < from + node.count; ++i) {
      out.operands.push_back(out.nodes[out.operands[i]].first);
    }
    return out.add(node);
  }

  Id constant(Graph& out, double value) {
    for (const Id id : constants_) {
      if (out.nodes[id].value == value) return id;
    }
    Node node;
    node.value = value;
    constants_.push_back(out.add(node));
    return constants_.back();
  }

  std::vector<char> positive_;  // per node of the new graph
  std::vector<Id> constants_;
  std::vector<LogTerm> terms_;
  std::vector<Product> products_;
};

}  // namespace

void split_logs(Graph& graph) {
  Logs logs;
  rewrite(graph, [&](Graph& out, const Node& node) { return logs.write(out, node); });
}

}  // namespace nanochat::program

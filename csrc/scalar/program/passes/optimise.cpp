// The order of the passes. Fast numerics merge equal nodes before differentiation, which regroups
// gradients. Exact numerics merge after it: a merged node would add up the gradients that
// microgpt.py's separate nodes pass on one by one.
// Dot products make up nearly all of a recording. They are collected as early as possible, because
// the passes that follow then have a tenth of the nodes.
#include "scalar/program/graph/verify.hpp"
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {
namespace {

std::vector<char> find_twins(const Graph& graph) {
  const std::vector<Id> first = first_equals(graph);
  std::vector<char> twins(first.size(), 0);
  for (Id id = 0; id < first.size(); ++id) {
    if (first[id] != id) twins[id] = twins[first[id]] = 1;
  }
  return twins;
}

// Fast numerics do not keep the sign of a zero: every sum except a recorded product begins with 0.
void forget_signs_of_zero(Graph& graph) {
  for (Node& node : graph.nodes) node.from_zero = node.kind == Kind::sum && !node.product;
}

}  // namespace

Loss optimise(Graph& graph, Numerics numerics, bool split, const AfterPass& after_pass) {
  const auto after = [&](const char* pass) {
    verify(graph, pass);
    if (after_pass) after_pass(pass, graph);
  };
  after("recorded");
  const Loss loss = split ? split_outputs(graph) : Loss{};
  assign_positions(graph);
  after("assign_positions");
  fold_constants(graph);
  after("fold_constants");
  if (numerics == Numerics::fast) {
    forget_signs_of_zero(graph);
    merge_equal(graph);
    after("merge_equal");
    collect_dots(graph, std::vector<char>(graph.nodes.size(), 0));
  } else {
    collect_dots(graph, find_twins(graph));
  }
  remove_dead(graph);
  after("collect_dots");
  if (numerics == Numerics::fast) {
    hoist_selections(graph);
    after("hoist_selections");
    split_logs(graph);
    remove_dead(graph);
    after("split_logs");
  }
  differentiate(graph, numerics);
  after("differentiate");
  if (numerics == Numerics::exact) {
    merge_equal(graph);
    after("merge_equal");
  }
  remove_dead(graph);
  collect_sums(graph);
  after("collect_sums");
  remove_dead(graph);
  if (numerics == Numerics::fast) forget_signs_of_zero(graph);
  after("remove_dead");
  return loss;
}

}  // namespace nanochat::program

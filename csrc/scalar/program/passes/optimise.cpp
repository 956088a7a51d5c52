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
  const auto run = [&](const char* name, const auto& pass) {
    pass(graph);
    verify(graph, name);
  };
  const auto show = [&](const char* name) {
    if (after_pass) after_pass(name, graph);
  };
  Loss loss;
  verify(graph, "recording");
  show("recorded");
  if (split) run("split_outputs", [&](Graph& each) { loss = split_outputs(each); });
  run("assign_positions", assign_positions);
  show("assign_positions");
  run("fold_constants", fold_constants);
  show("fold_constants");
  if (numerics == Numerics::fast) {
    run("forget_signs_of_zero", forget_signs_of_zero);
    run("merge_equal", merge_equal);
    show("merge_equal");
    run("collect_dots",
        [](Graph& each) { collect_dots(each, std::vector<char>(each.nodes.size(), 0)); });
  } else {
    run("collect_dots", [](Graph& each) { collect_dots(each, find_twins(each)); });
  }
  run("remove_dead", remove_dead);
  show("collect_dots");
  if (numerics == Numerics::fast) {
    run("hoist_selections", hoist_selections);
    show("hoist_selections");
    run("split_logs", split_logs);
    run("remove_dead", remove_dead);
    show("split_logs");
  }
  run("differentiate", [&](Graph& each) { differentiate(each, numerics); });
  show("differentiate");
  if (numerics == Numerics::exact) {
    run("merge_equal", merge_equal);
    show("merge_equal");
  }
  run("remove_dead", remove_dead);
  run("collect_sums", collect_sums);
  show("collect_sums");
  run("remove_dead", remove_dead);
  if (numerics == Numerics::fast) run("forget_signs_of_zero", forget_signs_of_zero);
  show("remove_dead");
  return loss;
}

}  // namespace nanochat::program

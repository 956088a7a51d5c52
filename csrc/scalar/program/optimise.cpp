// The order of the passes. Merging comes before differentiation where it may regroup gradients
// (fast) and after it where it may not (exact): a merged node would collect what microgpt.py's
// separate nodes pass on one by one.
#include "scalar/program/passes.hpp"

namespace nanochat::program {

double optimise(Graph& graph, Numerics numerics, bool split, const Watch& watch) {
  const auto after = [&](const char* pass) {
    if (watch) watch(pass, graph);
  };
  after("recorded");
  const double weight = split ? split_outputs(graph) : 1.0;
  assign_stages(graph);
  after("stages");
  fold_constants(graph);
  after("fold_constants");
  if (numerics == Numerics::fast) {
    merge_equal(graph);
    after("merge_equal");
    hoist_selections(graph);
    after("hoist_selections");
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
  after("remove_dead");
  return weight;
}

}  // namespace nanochat::program

// The passes over the scalar graph, in the order in which optimise() runs them. None knows a model.
// Each stands in a file of its own, which says what it needs, what it rewrites and why it is right.
#ifndef NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_
#define NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_

#include <functional>

#include "scalar/program/graph/graph.hpp"

namespace nanochat::program {

// exact: the bits of microgpt.py's own Value. fast: sums may be regrouped, equal values merged.
enum class Numerics : std::uint8_t { exact, fast };

// How outputs make the loss: weight · (start + output₀ + output₁ + …). A start of -0 adds nothing,
// one of 0 is the built-in sum()'s, which turns a zero loss positive.
struct Loss {
  double weight = 1.0;
  double start = 0.0;
};

// One output c · Σ terms becomes an output a term, which c weighs.
Loss split_outputs(Graph& graph);
void assign_stages(Graph& graph);
void fold_constants(Graph& graph);
void merge_equal(Graph& graph);
// Of each node, the first that is equal to it: itself where none is.
std::vector<Id> first_equals(const Graph& graph);
// twins: of each node, whether another one is equal.
void collect_dots(Graph& graph, const std::vector<char>& twins);
void hoist_selections(Graph& graph);
void split_logs(Graph& graph);
void differentiate(Graph& graph, Numerics numerics);
void collect_sums(Graph& graph);
void remove_dead(Graph& graph);

// Told the name of a pass and the graph after it; the first call is named "recorded".
using Watch = std::function<void(const char* pass, const Graph& graph)>;

// All of the above; `split` lets a single output that is a sum become several. Without it, outputs
// are for a caller to add up.
Loss optimise(Graph& graph, Numerics numerics, bool split, const Watch& watch);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_

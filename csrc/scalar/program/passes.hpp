// The passes over the scalar graph, in the order in which optimise() runs them. None knows a model.
// Each stands in a file of its own, which says what it needs, what it rewrites and why it is right.
#ifndef NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_
#define NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_

#include <functional>

#include "scalar/program/graph.hpp"

namespace nanochat::program {

// exact: the bits of microgpt.py's own Value. fast: sums may be regrouped, equal values merged.
enum class Numerics : std::uint8_t { exact, fast };

// One output c · Σ terms becomes an output a term; returns c, which each of them weighs.
double split_outputs(Graph& graph);
void assign_stages(Graph& graph);
void fold_constants(Graph& graph);
void merge_equal(Graph& graph);
// Of each node, the first that is equal to it: itself where none is.
std::vector<Id> first_equals(const Graph& graph);
// twins: of each node, whether another one is equal.
void collect_dots(Graph& graph, const std::vector<char>& twins);
void hoist_selections(Graph& graph);
void differentiate(Graph& graph, Numerics numerics);
void collect_sums(Graph& graph);
void remove_dead(Graph& graph);

// Told the name of a pass and the graph after it; the first call is named "recorded".
using Watch = std::function<void(const char* pass, const Graph& graph)>;

// All of the above; `split` lets a single output that is a sum become several. Returns the weight
// of each output.
double optimise(Graph& graph, Numerics numerics, bool split, const Watch& watch);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_

// The passes over the scalar graph, in the order in which optimise() runs them. They know nothing
// about models. Each pass has its own file, which states what it needs, what it rewrites, and why
// the rewrite is correct.
#ifndef NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_
#define NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_

#include <functional>

#include "scalar/program/graph/graph.hpp"

namespace nanochat::program {

// exact: bit-identical to microgpt.py's Value. fast: sums may be regrouped, equal values merged.
enum class Numerics : std::uint8_t { exact, fast };

// The loss is weight · (start + output₀ + output₁ + …). A start of -0 changes nothing; a start of 0
// is that of the built-in sum() and turns a loss of -0 into 0.
struct Loss {
  double weight = 1.0;
  double start = 0.0;
};

// Splits one output c · Σ tᵢ into one output per tᵢ, with weight c.
Loss split_outputs(Graph& graph);
void assign_positions(Graph& graph);
void fold_constants(Graph& graph);
void merge_equal(Graph& graph);
// Returns, per node, the first node that is equal to it, which may be the node itself.
std::vector<Id> first_equals(const Graph& graph);
// twins: per node, whether another node is equal to it.
void collect_dots(Graph& graph, const std::vector<char>& twins);
void hoist_selections(Graph& graph);
void split_logs(Graph& graph);
void differentiate(Graph& graph, Numerics numerics);
void collect_sums(Graph& graph);
void remove_dead(Graph& graph);

// Called with the name of a pass and the graph after it; first with "recorded".
using AfterPass = std::function<void(const char* pass, const Graph& graph)>;

// Runs all passes. `split` allows split_outputs(); without it the caller adds up the outputs.
Loss optimise(Graph& graph, Numerics numerics, bool split, const AfterPass& after_pass);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_PASSES_HPP_

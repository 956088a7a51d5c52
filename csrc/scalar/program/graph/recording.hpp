// The recording of a traced function: an ordinary tape, and the leaves of it that a replay sets.
// The graph that it becomes is in graph.hpp.
#ifndef NANOCHAT_SCALAR_PROGRAM_RECORDING_HPP_
#define NANOCHAT_SCALAR_PROGRAM_RECORDING_HPP_

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scalar/program/graph/graph.hpp"
#include "scalar/tape.hpp"

namespace nanochat::program {

// Parameters with consecutive tape ids: a matrix, or a single value (1 × 1).
struct Block {
  NodeId first;
  std::size_t rows, cols;
};

// A leaf of the tape whose value a replay computes.
struct Symbol {
  Kind kind;  // gather, input, largest or select
  std::int32_t slot = 0;
  std::size_t block = 0;           // gather
  std::size_t column = 0;          // gather: of the block
  std::vector<NodeId> operands{};  // largest, select
};

struct Recording {
  std::vector<Block> blocks;
  std::unordered_map<NodeId, Symbol> symbols;
};

// The graph of all nodes that the outputs and the observed values need, in the order in which they
// were computed. Parameter i of the graph is element i of the concatenated blocks.
Graph to_graph(const Tape& tape, const Recording& recording, const std::vector<NodeId>& outputs,
               const std::vector<NodeId>& observed);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_RECORDING_HPP_

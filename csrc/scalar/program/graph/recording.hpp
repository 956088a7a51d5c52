// What a traced function leaves behind: an ordinary tape, and which of its leaves stand for
// something that a replay gives anew. Leaves out what becomes of it (graph.hpp, passes.hpp).
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

// Parameters with consecutive ids of a tape: a matrix, or a single value (1 × 1).
struct Block {
  NodeId first;
  std::size_t rows, cols;
};

// A leaf of the tape that a replay fills.
struct Symbol {
  Kind kind;  // gather, input, largest or select
  std::int32_t slot = 0;
  std::size_t block = 0;           // gather: which block,
  std::size_t column = 0;          // and which of its columns
  std::vector<NodeId> operands{};  // largest, select
};

struct Recording {
  std::vector<Block> blocks;
  std::unordered_map<NodeId, Symbol> symbols;
};

// The graph of everything under the outputs, in the order in which it was computed. Parameter i of
// the graph is number i of the blocks, one after the other. Throws std::invalid_argument when two
// blocks overlap.
Graph to_graph(const Tape& tape, const Recording& recording, const std::vector<NodeId>& outputs,
               const std::vector<NodeId>& watched);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_RECORDING_HPP_

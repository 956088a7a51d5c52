// Shared by the tests of programs: a tape with symbols, for recording functions without Python.
#ifndef NANOCHAT_TESTS_PROGRAM_TESTING_HPP_
#define NANOCHAT_TESTS_PROGRAM_TESTING_HPP_

#include <string>
#include <vector>

#include "scalar/program/graph/recording.hpp"
#include "scalar/program/passes/passes.hpp"

namespace testing {

using nanochat::NodeId;
namespace program = nanochat::program;

struct Trace {
  nanochat::Tape tape;
  program::Recording recording;

  NodeId parameters(std::size_t rows, std::size_t cols) {
    const NodeId first = tape.parameter_block(rows, cols);
    recording.blocks.push_back({first, rows, cols});
    return first;
  }
  NodeId symbol(program::Symbol symbol) {
    const NodeId id = tape.leaf(0.5);
    recording.symbols.emplace(id, std::move(symbol));
    return id;
  }
  NodeId input(std::int32_t slot) { return symbol({program::Kind::input, slot}); }
  NodeId gather(std::int32_t slot, std::size_t block, std::size_t column) {
    return symbol({program::Kind::gather, slot, block, column});
  }
  NodeId select(std::int32_t slot, std::vector<NodeId> from) {
    return symbol({program::Kind::select, slot, 0, 0, std::move(from)});
  }
  NodeId largest(std::vector<NodeId> of) {
    return symbol({program::Kind::largest, 0, 0, 0, std::move(of)});
  }
  // 0 + v₀ + v₁ + …, as the built-in sum() computes it.
  NodeId sum(const std::vector<NodeId>& values) {
    NodeId total = tape.add_const(values.front(), 0.0);
    for (std::size_t i = 1; i < values.size(); ++i) total = tape.add(total, values[i]);
    return total;
  }
  program::Graph graph(const std::vector<NodeId>& outputs,
                       const std::vector<NodeId>& observed = {}) {
    return program::to_graph(tape, recording, outputs, observed);
  }
};

inline std::string text(const program::Graph& graph) { return program::dump(graph, 1000); }

inline bool holds(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace testing

#endif  // NANOCHAT_TESTS_PROGRAM_TESTING_HPP_

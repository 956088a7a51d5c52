// Invariants of graphs and vector programs. The checks report the first violation as text; verify()
// runs them in debug builds and does nothing in release builds.
#ifndef NANOCHAT_SCALAR_PROGRAM_VERIFY_HPP_
#define NANOCHAT_SCALAR_PROGRAM_VERIFY_HPP_

#include <string>

#include "scalar/program/graph/graph.hpp"
#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {

// The first violated invariant of a graph between two passes; empty if there is none. Operands come
// before users; ids, products, operands and indices are in range; each kind has its arity;
// positions do not decrease from operand to user before the first seed.
std::string violation_in(const Graph& graph);

// The same for a program: groups, positions, rows, parameters, constants, slots and inputs are in
// range, and every row is written before it is read, accumulated or shown.
std::string violation_in(const VectorProgram& program);

// Prints the violation and what it was found after, and aborts.
[[noreturn]] void fail(const std::string& violation, const char* after);

inline void verify([[maybe_unused]] const Graph& graph, [[maybe_unused]] const char* after) {
#ifndef NDEBUG
  if (const std::string violation = violation_in(graph); !violation.empty()) fail(violation, after);
#endif
}

inline void verify([[maybe_unused]] const VectorProgram& program) {
#ifndef NDEBUG
  const std::string violation = violation_in(program);
  if (!violation.empty()) fail(violation, "lowering");
#endif
}

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_VERIFY_HPP_

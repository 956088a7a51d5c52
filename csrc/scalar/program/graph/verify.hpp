// Invariants of graphs and vector programs. violation_in() returns the first violation as text.
// verify() follows every pass: in debug builds it always checks, in release builds only if the
// environment variable NCLAB_VERIFY is set, as it is in the Python tests.
#ifndef NANOCHAT_SCALAR_PROGRAM_VERIFY_HPP_
#define NANOCHAT_SCALAR_PROGRAM_VERIFY_HPP_

#include <string>

#include "scalar/program/graph/graph.hpp"
#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {

// The first violated invariant of a graph between two passes; empty if there is none. Operands come
// before users; ids, products, operands and indices are in range; each kind has its arity;
// positions do not decrease from operand to user before the first seed; outputs and observed values
// depend on no seed.
std::string violation_in(const Graph& graph);

// The same for a program: groups, positions, rows, parameters, constants, slots and inputs are in
// range; every row and every gradient has one definition, which additions and a map in place may
// continue; a row is defined before it is continued or read, and complete before it is read; the
// forward instructions need no gradient.
std::string violation_in(const VectorProgram& program);

// Whether verify() checks anything.
bool verifies();

// Throws std::logic_error with the violation and the pass after which it was found.
void verify(const Graph& graph, const char* pass);
void verify(const VectorProgram& program, const char* pass);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_VERIFY_HPP_

// The vector program: what the scalar graph becomes, and what a replay runs.
//
// Nodes of the same make form a group: one array with a row for each feature and a lane for each
// (position, document) pair. Positions are called stages. The lanes of a row are ordered by stage,
// then by document, documents by falling length, so that the documents that reach a stage are the
// first of it and a batch of ragged documents leaves no gap. Leaves out how it was found
// (group_nodes.cpp, lower.cpp) and memory and time (replay.hpp).
#ifndef NANOCHAT_SCALAR_PROGRAM_VECTOR_PROGRAM_HPP_
#define NANOCHAT_SCALAR_PROGRAM_VECTOR_PROGRAM_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "scalar/program/graph/graph.hpp"
#include "scalar/program/passes/passes.hpp"
#include "scalar/simd/simd.hpp"

namespace nanochat::program {

inline constexpr std::int32_t own = -1;  // the stage of the destination itself

struct Group {
  Kind kind;
  std::int32_t begin, end;  // stages; both `shared` for what all stages share
  std::int32_t features;    // a stage; the largest number when ragged
  // Ragged: stages have different numbers of features (attention over all earlier positions), so
  // each stage is a block of its own. Empty otherwise.
  std::vector<std::int32_t> per_stage;
  bool ragged() const noexcept { return !per_stage.empty(); }
  bool is_shared() const noexcept { return begin == shared; }
  std::int32_t features_at(std::int32_t stage) const noexcept {
    return ragged() ? per_stage[static_cast<std::size_t>(stage - begin)] : features;
  }
};

enum class Space : std::uint8_t {
  unit,       // the number 1
  rows,       // of a group
  number,     // of a shared group: one number for all lanes
  parameter,  // likewise
  constant,   // likewise
};

// The operand of a nest of loops: over products k, features f and blocks of features o.
struct Ref {
  Space space = Space::unit;
  std::int32_t group = 0;
  std::int32_t stage = own;
  std::int32_t index = 0;  // of a row, a parameter, a constant
  std::int32_t k_step = 0, f_step = 0, o_step = 0;
  bool operator==(const Ref&) const = default;
};

struct Term {
  Ref a, b;  // where one of them is a number for all lanes, it is a
  std::int32_t k = 1;
};

// A few features of one stage that one table entry moves: rows of a group from or to parameters.
struct Move {
  std::int32_t stage;
  std::int32_t slot;    // of the token that names the matrix row; -1: none, index is the parameter
  std::int32_t index;   // of the first parameter (of matrix row 0), input or constant
  std::int32_t stride;  // parameters from one matrix row to the next
  std::int32_t row;
  std::int32_t count;
  std::int32_t group;  // of `row`
  bool constant;       // fill from constants, not from parameters
};

// `o` destinations of one stage, rows f, f + 1, …, whose operands stand at other stages and that
// share their first factors. Product k of destination f + i is row fa + k * dfa at stage ta + k *
// dta times row fb + k * dfb + i * ofb at stage tb + k * dtb + i * otb. One of dtb and otb is 0.
struct Run {
  std::int32_t f, o;
  std::int32_t k;
  std::int32_t fa, dfa, ta, dta;
  std::int32_t fb, dfb, tb, dtb;
  std::int32_t ofb = 0, otb = 0;
};

// Operands at other stages than the destination's: attention.
struct CrossPart {
  std::int32_t a_group, b_group;     // -1: the number 1
  bool accumulate;                   // onto earlier parts
  std::vector<std::uint32_t> begin;  // into runs, for each stage of the destination, and the end
  std::vector<Run> runs;
};

enum class Op : std::uint8_t {
  gather,   // rows from parameters, by token (moves)
  fill,     // rows from parameters or constants that differ by stage (moves)
  input,    // rows from numbers given at replay (moves)
  seed,     // the gradient of each output
  one_hot,  // moves: row from slot, index
  map,      // elementwise, one operand
  sum,      // nests of products
  cross,
  largest,
  select,
  outer,    // Σ over lanes of rows × rows: gradients of parameters
  scatter,  // rows onto gradients, by token (moves)
};
const char* name_of(Op op) noexcept;

struct Instruction {
  Op op;
  std::int32_t group = 0;    // destination
  std::int32_t stage = own;  // own: all stages of the group; else this one
  std::int32_t width = own;  // own: every document at that stage; else those that reach this one
  std::int32_t row = 0;      // first destination row
  std::int32_t features = 1, outer = 1;
  bool whole = false;  // operands have the destination's own shape: one run over all its memory
  bool accumulate = false;
  bool from_zero = false;  // sum, cross: begins with 0, not with its first product
  bool matrix = false;     // sum: all terms are numbers times rows that features share
  bool negated = false;    // one_hot: its complement
  Kind kind = Kind::sum;   // map
  double constant = 0.0;   // map
  std::int32_t slot = 0;   // select
  std::vector<Term> terms{};
  std::vector<Move> moves{};
  std::vector<CrossPart> parts{};
};

// What a sum adds its products to: −0 adds nothing.
template <class T>
T start_of(const Instruction& instruction) noexcept {
  return instruction.from_zero ? T{0} : -T{0};
}

// gradient[index + m * m_step + n] (+)= Σ lanes a[m] · b[n]. The destination is a parameter's
// gradient or, with group ≥ 0, a number of that shared group.
struct Outer {
  std::int32_t group, index, m_step, m, n;
  Ref a, b;         // f_step of a: rows from m to m + 1; b's rows follow each other
  bool descending;  // lanes in falling order of stages, as microgpt.py adds them
  bool accumulate;
};

// Is b a row at one of its group's stages, not at all of them?
inline bool is_row_of_stage(const Outer& outer, const Group& b) noexcept {
  return outer.b.stage != own && b.end > b.begin + 1;
}

// What is left of a gradient: single products at single stages.
struct Odd {
  std::int32_t group, index;  // as in Outer
  Ref a, b;
  std::int32_t stage;  // whose documents it sums over; `shared`: one product
};

struct Range {
  std::int32_t begin, end;
};

struct VectorProgram {
  Numerics numerics = Numerics::fast;
  std::int32_t stages = 0;  // outputs
  double weight = 1.0;      // of each output in the loss
  double start = 0.0;       // what outputs are added onto: 0, or -0, which is nothing
  std::size_t parameters = 0;
  std::int32_t slots = 0;            // tokens
  std::vector<std::int32_t> limits;  // of each slot: how many tokens it tells apart
  std::int32_t inputs = 0;           // numbers
  std::vector<Group> groups;
  std::vector<double> constants;
  std::vector<Instruction> forward;
  std::vector<Instruction> backward;
  std::vector<Outer> outers;  // an instruction of Op::outer says where they run
  std::vector<Odd> odds;
  std::vector<Range> untouched;  // gradients that no outer product writes first
  // The rows of outputs and of watched values, in their order.
  std::vector<Ref> outputs;
  std::vector<Ref> watched;
  // exact alone: false when gradients could not be laid out in microgpt.py's order.
  bool ordered = true;
};

VectorProgram lower(Graph& graph, Numerics numerics);

// The run's destinations, one a run.
std::vector<Run> separate(const Run& run);

// What was found, for a reader: groups, instructions and how the one kind became the other.
std::string listing(const VectorProgram& program);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_VECTOR_PROGRAM_HPP_

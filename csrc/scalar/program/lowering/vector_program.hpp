// The vector program: the result of lowering a scalar graph, and the input of a replay.
//
// Nodes that do the same work form a group. A group is one array with a row per feature and a lane
// per (position, document) pair. The lanes of a row are ordered by position, then by document.
// Documents are sorted by decreasing length, so the documents that reach a position are the first
// ones there, and a ragged batch leaves no gaps. Grouping is in group_nodes.cpp, the rest of the
// lowering in lower.cpp, memory and execution in replay.hpp.
#ifndef NANOCHAT_SCALAR_PROGRAM_VECTOR_PROGRAM_HPP_
#define NANOCHAT_SCALAR_PROGRAM_VECTOR_PROGRAM_HPP_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "scalar/program/graph/graph.hpp"
#include "scalar/program/passes/passes.hpp"

namespace nanochat::program {

inline constexpr std::int32_t own = -1;       // the position of the destination itself
inline constexpr std::int32_t no_group = -1;  // not a group: gradients, or the number 1

struct Group {
  Kind kind;
  std::int32_t begin, end;  // positions; both `shared` for a group that all positions share
  std::int32_t features;    // per position; the maximum when ragged
  // Ragged: positions have different numbers of features (attention over all earlier positions),
  // so each position is a separate block of memory. Empty otherwise.
  std::vector<std::int32_t> per_position;
  bool ragged() const noexcept { return !per_position.empty(); }
  bool is_shared() const noexcept { return begin == shared; }
  bool has_one_position() const noexcept { return end == begin + 1; }
  std::int32_t features_at(std::int32_t position) const noexcept {
    return ragged() ? per_position[static_cast<std::size_t>(position - begin)] : features;
  }
};

// The array that an operand is read from.
enum class AddressSpace : std::uint8_t {
  unit,           // the number 1
  rows,           // a row of a group: one number per lane
  shared_number,  // a number of a shared group, the same for all lanes
  parameter,      // likewise
  constant,       // likewise
};

constexpr bool is_number(AddressSpace space) noexcept { return space > AddressSpace::rows; }

// The operand of a loop nest over blocks of features o, features f and products k.
struct Ref {
  AddressSpace space = AddressSpace::unit;
  std::int32_t group = 0;
  std::int32_t position = own;
  std::int32_t index = 0;  // of a row, a parameter or a constant
  std::int32_t k_step = 0, f_step = 0, o_step = 0;
  bool operator==(const Ref&) const = default;
};

// Σ_k a · b over `count` products whose operands advance by their k_step. If one operand is a
// number for all lanes, it is a.
struct ProductRun {
  Ref a, b;
  std::int32_t count = 1;
};

// --- Instructions that copy single numbers. Each move covers `count` consecutive rows. ---

// Rows from the matrix row that a token selects.
struct GatherMove {
  std::int32_t position, slot;
  std::int32_t index;   // of the first parameter, in matrix row 0
  std::int32_t stride;  // parameters per matrix row
  std::int32_t row, count;
};
struct GatherRows {
  std::int32_t group;
  std::vector<GatherMove> moves;
};

// Rows from parameters or constants that differ by position.
struct FillMove {
  std::int32_t position;
  std::int32_t index;  // of the first parameter or constant
  std::int32_t row, count;
  bool constant;  // false: parameter
};
struct FillRows {
  std::int32_t group;
  std::vector<FillMove> moves;
};

// Rows from the numbers that a replay is given.
struct InputMove {
  std::int32_t position;
  std::int32_t index;  // of the first input
  std::int32_t row, count;
};
struct InputRows {
  std::int32_t group;
  std::vector<InputMove> moves;
};

// The gradient that flows into each output.
struct SeedMove {
  std::int32_t position;
  std::int32_t index;  // of the first output
  std::int32_t row, count;
};
struct SeedRows {
  std::int32_t group;
  std::vector<SeedMove> moves;
};

// 1 in the row of the slot's token, 0 in the others.
struct OneHotMove {
  std::int32_t position, slot;
  std::int32_t index;  // the token of the first row
  std::int32_t row, count;
};
struct OneHotRows {
  std::int32_t group;
  bool complement;  // 0 in the row of the token, 1 in the others
  std::vector<OneHotMove> moves;
};

// The candidate row that the slot's token selects.
struct SelectMove {
  std::int32_t position, slot;
  std::int32_t candidate_group, first_candidate, candidates;
  std::int32_t row;
};
struct SelectRows {
  std::int32_t group;
  std::vector<SelectMove> moves;
};

// Adds rows of gradients to the gradients of the matrix row that a token selects.
struct ScatterMove {
  std::int32_t position, slot;
  std::int32_t index;   // of the first parameter, in matrix row 0
  std::int32_t stride;  // parameters per matrix row
  std::int32_t group, row, count;
};
struct ScatterRows {
  std::vector<ScatterMove> moves;
};

// --- Instructions over lanes. ---

// The rows that a loop nest writes: row + o · features + f, at one position or at all of the group.
struct Destination {
  std::int32_t group = 0;
  std::int32_t position = own;  // own: all positions of the group
  std::int32_t row = 0;
  std::int32_t features = 1;
  std::int32_t blocks = 1;  // of features
  // Every operand has the shape of the group or is a number: all memory of the group is one row.
  bool whole = false;
};

// destination = kind(operand), elementwise.
struct MapRows {
  Destination to;
  Kind kind;
  double constant;
  Ref operand;
};

// destination = the largest of `count` consecutive rows.
struct LargestRow {
  Destination to;
  Ref operand;
  std::int32_t count;
};

// destination (+)= start + Σ products.
struct SumOfProducts {
  Destination to{};
  // Which documents: own means those at the destination's position; otherwise those that reach
  // this later position.
  std::int32_t width = own;
  bool accumulate = false;
  bool from_zero = false;  // start with 0 rather than with the first product
  std::vector<ProductRun> products{};
};
struct SumRows : SumOfProducts {};
// Every product is a number times a row that all features share: a matrix times a vector.
struct MatrixProduct : SumOfProducts {};

// One operand of a CrossRun. Product k reads row `row + k * row_step` at position `position + k *
// position_step`.
struct CrossOperand {
  std::int32_t row, row_step;
  std::int32_t position, position_step;
  bool operator==(const CrossOperand&) const = default;
};

// `rows` destinations row, row + 1, … at one position, which share the operands a. Destination i
// adds i · b_next_row and i · b_next_position to the rows and positions of b. Either
// b.position_step or b_next_position is 0. All of this is repeated, as by the heads of an
// attention: repeat j adds j times the numbers of `next` to the rows and their steps.
struct CrossRun {
  struct Next {
    std::int32_t row = 0, a_row = 0, a_row_step = 0, b_row = 0, b_row_step = 0;
    bool operator==(const Next&) const = default;
  };
  std::int32_t row, rows;
  std::int32_t products;  // per destination
  CrossOperand a, b;
  std::int32_t b_next_row = 0, b_next_position = 0;
  std::int32_t repeats = 1;
  Next next{};
};

// Products of rows of two groups.
struct CrossPart {
  std::int32_t a_group, b_group;     // no_group: the number 1
  bool accumulate;                   // add to earlier parts
  std::vector<std::uint32_t> begin;  // into runs, per position of the destination, and the end
  std::vector<CrossRun> runs;
};

// Sums with operands at other positions than the destination: attention.
struct CrossSum {
  std::int32_t group;
  bool from_zero;
  std::vector<CrossPart> parts;
};

struct Range {
  std::int32_t begin, end;
  std::int32_t size() const noexcept { return end - begin; }
};

// Sums over lanes: outer products and single products of the program.
struct ReduceLanes {
  std::int32_t group;  // whose numbers it sets; no_group: gradients of parameters
  Range outer_products, single_products;
};

using Instruction =
    std::variant<GatherRows, FillRows, InputRows, SeedRows, OneHotRows, SelectRows, ScatterRows,
                 MapRows, LargestRow, SumRows, MatrixProduct, CrossSum, ReduceLanes>;

// A visitor made of lambdas.
template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

// The start of a sum: adding −0 changes nothing.
template <class T>
T start_of(bool from_zero) noexcept {
  return from_zero ? T{0} : -T{0};
}

// gradient[index + i * m_step + j] (+)= Σ over lanes a[i] · b[j] for i < m, j < n. The destination
// is a gradient of a parameter or, if `group` is one, a number of that shared group.
struct OuterProduct {
  std::int32_t group, index, m_step, m, n;
  Ref a, b;         // a.f_step: rows from i to i + 1; b's rows are consecutive
  bool descending;  // lanes in decreasing order of positions, as microgpt.py adds them
  bool accumulate;
};

// Is b a row at one position of a group that has several?
inline bool is_row_of_position(const OuterProduct& outer, const Group& b) noexcept {
  return outer.b.position != own && !b.has_one_position();
}

// gradient[index] += Σ over documents a · b at one position: a product that fits no outer product.
struct SingleProduct {
  std::int32_t group, index;  // as in OuterProduct
  Ref a, b;
  std::int32_t position;  // whose documents it sums over; `shared`: one product
};

struct VectorProgram {
  Numerics numerics = Numerics::fast;
  std::int32_t positions = 0;  // outputs
  double weight = 1.0;         // of each output in the loss
  double start = 0.0;          // added to the outputs: 0, or -0, which changes nothing
  std::size_t parameters = 0;
  std::int32_t slots = 0;            // tokens
  std::vector<std::int32_t> limits;  // per slot: the number of tokens it distinguishes
  std::int32_t inputs = 0;           // numbers
  std::vector<Group> groups;
  std::vector<double> constants;
  std::vector<Instruction> forward;
  std::vector<Instruction> backward;
  std::vector<OuterProduct> outer_products;  // run by ReduceLanes instructions
  std::vector<SingleProduct> single_products;
  std::vector<Range> zeroed_first;  // gradients that no outer product writes before others add
  // The rows of outputs and of observed values, in their order.
  std::vector<Ref> outputs;
  std::vector<Ref> observed;
  // exact only: false when the gradients cannot be added in microgpt.py's order.
  bool ordered = true;

  const Group& group(std::int32_t g) const noexcept { return groups[static_cast<std::size_t>(g)]; }
};

VectorProgram lower(Graph& graph, Numerics numerics);

// Repeat j of a run, which is not repeated itself.
CrossRun repeat(const CrossRun& run, std::int32_t j);
// One run per destination.
std::vector<CrossRun> separate(const CrossRun& run);

// Per position: the highest token slot that it and the positions before it read, at least 0.
std::vector<std::int32_t> last_slots(const VectorProgram& program);

// Groups, instructions and gradients as text.
std::string listing(const VectorProgram& program);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_VECTOR_PROGRAM_HPP_

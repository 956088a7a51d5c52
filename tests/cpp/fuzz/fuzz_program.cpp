// Random scalar programs: recorded, optimized, lowered and replayed, and compared with the same
// operations on the tape, in values and gradients.
//
// A program has a body of operations that runs at each position of a document, as a model does, so
// that the lowering finds groups, loop nests and matrix products; some positions have operations of
// their own. A document of length n runs the first n positions and reads the tokens 0 … n.
#include <algorithm>

#include "../program_testing.hpp"
#include "input.hpp"
#include "scalar/program/c_text/to_c.hpp"
#include "scalar/program/graph/verify.hpp"
#include "scalar/program/lowering/vector_program.hpp"
#include "scalar/program/replay/shards.hpp"

namespace {

using fuzz::Input;
using nanochat::NodeId;
using testing::same_bits;
using testing::Trace;
namespace program = nanochat::program;
namespace simd = nanochat::simd;

enum class Kind : std::uint8_t {
  binary,
  unary,
  constant,
  from_constant,
  gather,
  input,
  select,
  largest,
  sum,
  dot,
  linear,
  softmax,
  attend
};

struct Operation {
  Kind kind;
  std::uint8_t a, b, count;
  double constant;
};

struct Sizes {
  std::size_t rows, cols;
};

// What both a recording and the tape compute.
struct Program {
  std::vector<Sizes> blocks;
  std::vector<double> parameters;
  std::vector<Operation> body;
  std::vector<std::vector<Operation>> own;  // of each position
  std::int32_t positions = 1;
  bool single = false;  // one output, the weighted sum of all
  std::int32_t limits[16];

  explicit Program(Input& input) {
    std::fill(std::begin(limits), std::end(limits), 1 << 20);
    std::size_t count = 0;
    for (std::int64_t n = input.between(1, 3); n > 0; --n) {
      const auto rows = static_cast<std::size_t>(input.between(1, input.chance(4) ? 20 : 5));
      const auto cols = static_cast<std::size_t>(input.between(1, input.chance(4) ? 20 : 4));
      blocks.push_back({rows, cols});
      count += rows * cols;
    }
    const std::uint8_t style = input.chance(8) ? 1 : 0;
    for (std::size_t i = 0; i < count; ++i) parameters.push_back(input.number(style) / 2);
    positions = static_cast<std::int32_t>(input.between(1, 6));
    single = input.chance(4);
    body = operations(input, input.between(1, 14));
    for (std::int32_t t = 0; t < positions; ++t) {
      own.push_back(operations(input, input.chance(6) ? input.between(1, 3) : 0));
    }
  }

  static std::vector<Operation> operations(Input& input, std::int64_t count) {
    std::vector<Operation> result;
    for (; count > 0; --count) {
      const auto kind = static_cast<Kind>(input.between(0, static_cast<int>(Kind::attend)));
      const std::uint8_t a = input.byte(), b = input.byte(), extent = input.byte();
      result.push_back({kind, a, b, static_cast<std::uint8_t>(1 + extent % 5),
                        input.one_of({0.5, -1.0, 2.0, 0.0, -0.0, 1.0, 3.0, -0.5, 0.1})});
    }
    return result;
  }
};

// The tokens and numbers of one document, or none while recording.
struct Document {
  std::int32_t length;
  std::vector<std::int32_t> tokens;
  std::vector<double> inputs;
  double scale;
};

// Runs a program on a tape: on a document, or to record it. With `noise`, each result is changed a
// little, which tells how much the outputs depend on rounding.
class Run {
 public:
  Run(Program& program, const Document* document, std::uint32_t noise = 0)
      : program_(program), document_(document), noise_(noise) {
    auto value = program.parameters.begin();
    for (const Sizes& each : program.blocks) {
      firsts_.push_back(trace.parameters(each.rows, each.cols));
      for (std::size_t i = 0; i < each.rows * each.cols; ++i) {
        trace.tape.values(firsts_.back())[i] = *value++;
        parameters_.push_back(firsts_.back() + static_cast<NodeId>(i));
      }
    }
    const std::int32_t length = document == nullptr ? program.positions : document->length;
    for (std::int32_t t = 0; t < length; ++t) {
      values_.emplace_back();
      for (const Operation& each : program.body) run(each, t);
      for (const Operation& each : program.own[static_cast<std::size_t>(t)]) run(each, t);
      if (values_.back().empty()) push(trace.tape.tanh(parameters_.front()));
      outputs.push_back(values_.back().back());
    }
    if (!program.single) return;
    NodeId total = trace.sum(outputs);
    if (program.body.size() % 2 == 0) total = trace.tape.mul_const(total, 0.25);
    outputs = {total};
  }

  Trace trace;
  std::vector<NodeId> outputs;
  // Whether results may depend on rounding without bounds: a kink or a pole is near.
  bool fragile = false;

  std::vector<double> gradients() {
    std::vector<double> result;
    for (const NodeId id : parameters_) result.push_back(trace.tape.grad(id));
    return result;
  }

 private:
  NodeId push(NodeId id) {
    if (noise_ != 0) {
      noise_ = noise_ * 1664525U + 1013904223U;
      id = trace.tape.mul_const(id,
                                1.0 + 1e-12 * (static_cast<double>(noise_ >> 8U) / (1 << 23) - 1));
    }
    const double value = trace.tape.value(id);
    fragile = fragile || !(std::fabs(value) < 1e6);
    values_.back().push_back(id);
    return id;
  }
  // Notes an operand near a kink or a pole, if the operation has one.
  NodeId steep(NodeId id, bool has_one) {
    fragile = fragile || (has_one && std::fabs(trace.tape.value(id)) < 1e-5);
    return id;
  }
  NodeId value(std::uint8_t choice, std::int32_t t, std::size_t i = 0) {
    const std::size_t at = choice / 4 + i;
    const auto& own = values_.back();
    if (choice % 4 == 1 && !own.empty()) return own[own.size() - 1 - at % own.size()];
    if (choice % 4 == 2 && t > 0) {
      const auto& before = values_[static_cast<std::size_t>(t - 1)];
      return before[at % before.size()];
    }
    if (choice % 4 == 3 && own.size() > 1) return own[at % own.size()];
    return parameters_[at % parameters_.size()];
  }
  std::vector<NodeId> values(std::uint8_t choice, std::int32_t t, std::size_t count) {
    std::vector<NodeId> result;
    for (std::size_t i = 0; i < count; ++i) result.push_back(value(choice, t, i));
    return result;
  }
  void limit(std::int32_t slot, std::size_t count) {
    std::int32_t& least = program_.limits[slot];
    least = std::min(least, static_cast<std::int32_t>(count));
  }
  std::size_t token(std::int32_t slot) const {
    return static_cast<std::size_t>(document_->tokens[static_cast<std::size_t>(slot)]);
  }
  NodeId dot(const std::vector<NodeId>& a, const std::vector<NodeId>& b) {
    std::vector<NodeId> products;
    for (std::size_t i = 0; i < a.size(); ++i) products.push_back(trace.tape.mul(a[i], b[i]));
    return trace.sum(products);
  }
  NodeId largest(const std::vector<NodeId>& of) {
    if (document_ == nullptr) return trace.largest(of);
    double top = trace.tape.value(of.front());
    for (const NodeId each : of) top = std::fmax(top, trace.tape.value(each));
    return trace.tape.leaf(top);
  }
  std::vector<NodeId> softmax(const std::vector<NodeId>& logits) {
    std::vector<NodeId> result;
    const NodeId top = largest(logits);
    for (const NodeId each : logits) {
      result.push_back(trace.tape.exp(trace.tape.sub(each, top)));
    }
    const NodeId total = trace.sum(result);
    for (NodeId& each : result) each = trace.tape.div(each, total);
    return result;
  }

  void run(const Operation& op, std::int32_t t) {
    nanochat::Tape& tape = trace.tape;
    const std::size_t count = op.count;
    switch (op.kind) {
      case Kind::binary: {
        constexpr NodeId (nanochat::Tape::* of_two[])(NodeId, NodeId) = {
            &nanochat::Tape::add, &nanochat::Tape::sub, &nanochat::Tape::mul, &nanochat::Tape::div};
        push(
            (tape.*of_two[op.count % 4])(value(op.a, t), steep(value(op.b, t), op.count % 4 == 3)));
        return;
      }
      case Kind::unary: {
        constexpr NodeId (nanochat::Tape::* of_one[])(NodeId) = {
            &nanochat::Tape::neg, &nanochat::Tape::exp, &nanochat::Tape::tanh, &nanochat::Tape::log,
            &nanochat::Tape::relu};
        push((tape.*of_one[op.count - 1])(steep(value(op.a, t), op.count >= 4)));
        return;
      }
      case Kind::constant: {
        constexpr NodeId (nanochat::Tape::* with_number[])(NodeId, double) = {
            &nanochat::Tape::add_const, &nanochat::Tape::mul_const, &nanochat::Tape::div_const,
            &nanochat::Tape::pow_const};
        push((tape.*with_number[op.b % 4])(steep(value(op.a, t), op.b % 4 == 3), op.constant));
        return;
      }
      case Kind::from_constant:
        push(op.b % 2 == 0 ? tape.subtract_from(op.constant, value(op.a, t))
                           : tape.divide_into(op.constant, steep(value(op.a, t), true)));
        return;
      case Kind::gather: {
        const std::size_t block = op.a % program_.blocks.size();
        const Sizes sizes = program_.blocks[block];
        const std::int32_t slot = t + op.b % 2;
        limit(slot, sizes.rows);
        for (std::size_t column = 0; column < sizes.cols; ++column) {
          push(document_ == nullptr
                   ? trace.gather(slot, block, column)
                   : firsts_[block] + static_cast<NodeId>(token(slot) * sizes.cols + column));
        }
        return;
      }
      case Kind::input:
        push(document_ == nullptr ? trace.input(t)
                                  : tape.leaf(document_->inputs[static_cast<std::size_t>(t)]));
        return;
      case Kind::select: {
        const std::vector<NodeId> from = values(op.a, t, count);
        const std::int32_t slot = t + op.b % 2;
        limit(slot, count);
        push(document_ == nullptr ? trace.select(slot, from) : from[token(slot)]);
        return;
      }
      case Kind::largest:
        push(largest(values(op.a, t, count)));
        return;
      case Kind::sum:
        push(trace.sum(values(op.a, t, count)));
        return;
      case Kind::dot:
        push(dot(values(op.a, t, count), values(op.b, t, count)));
        return;
      case Kind::linear: {
        const std::size_t block = op.a % program_.blocks.size();
        const Sizes sizes = program_.blocks[block];
        const std::vector<NodeId> x = values(op.b, t, sizes.cols);
        for (std::size_t r = 0; r < sizes.rows; ++r) {
          std::vector<NodeId> row;
          for (std::size_t c = 0; c < sizes.cols; ++c) {
            row.push_back(firsts_[block] + static_cast<NodeId>(r * sizes.cols + c));
          }
          push(dot(row, x));
        }
        return;
      }
      case Kind::softmax:
        for (const NodeId each : softmax(values(op.a, t, count))) push(each);
        return;
      case Kind::attend: {
        std::vector<NodeId> scores, column;
        const NodeId query = value(op.b, t);
        for (const auto& earlier : values_) {
          if (earlier.size() <= op.a % 4U) break;
          scores.push_back(tape.mul(query, earlier[op.a % 4U]));
          column.push_back(earlier[op.a / 4U % earlier.size()]);
        }
        if (!scores.empty()) push(dot(softmax(scores), column));
        return;
      }
    }
  }

  Program& program_;
  const Document* document_;
  std::uint32_t noise_;
  std::vector<NodeId> firsts_, parameters_;
  std::vector<std::vector<NodeId>> values_;
};

program::VectorProgram compile(Run& recorded, program::Numerics numerics, bool single) {
  program::Graph graph = recorded.trace.graph(recorded.outputs);
  CHECK(program::violation_in(graph).empty());
  const program::Loss loss = program::optimise(graph, numerics, single, {});
  CHECK(program::violation_in(graph).empty());
  program::VectorProgram result = program::lower(graph, numerics);
  result.weight = loss.weight;
  result.start = loss.start;
  CHECK(program::violation_in(result).empty());
  return result;
}

// A batch as the arrays of a replay.
struct Batch {
  std::vector<std::int32_t> lengths, tokens;
  std::vector<double> inputs, scale;

  Batch(const program::VectorProgram& vectors, const std::vector<Document>& documents) {
    for (const Document& each : documents) {
      lengths.push_back(std::min(each.length, vectors.positions));
      scale.push_back(each.scale * vectors.weight);
      for (std::int32_t s = 0; s < vectors.slots; ++s) {
        // Tokens beyond the document must not be read.
        tokens.push_back(s <= each.length ? each.tokens[static_cast<std::size_t>(s)] : 1 << 30);
      }
      for (std::int32_t i = 0; i < vectors.inputs; ++i) {
        inputs.push_back(each.inputs[static_cast<std::size_t>(i)]);
      }
    }
  }
  program::Documents view() const {
    return {static_cast<std::int32_t>(lengths.size()),
            lengths.data(),
            tokens.data(),
            inputs.data(),
            scale.data(),
            nullptr};
  }
};

struct Result {
  std::vector<double> totals, gradients;
  bool fragile = false;
};

// The documents on the tape, one after the other.
Result by_tape(Program& program, const std::vector<Document>& documents, std::uint32_t noise = 0) {
  Result result;
  result.gradients.resize(program.parameters.size());
  for (const Document& each : documents) {
    Run eager(program, &each, noise);
    nanochat::Tape& tape = eager.trace.tape;
    double total = program.single ? -0.0 : 0.0;  // a sum of losses begins with 0
    for (const NodeId id : eager.outputs) total += tape.value(id);
    result.totals.push_back(total);
    const NodeId loss = program.single ? eager.outputs.front() : eager.trace.sum(eager.outputs);
    tape.backward(program.single ? loss : tape.mul_const(loss, each.scale));
    const std::vector<double> gradients = eager.gradients();
    for (std::size_t i = 0; i < gradients.size(); ++i) result.gradients[i] += gradients[i];
    result.fragile = result.fragile || eager.fragile;
  }
  return result;
}

template <class T>
Result by_replay(program::Shards<T>& shards, const Program& program, const Batch& batch,
                 double weight, bool at_once) {
  for (std::size_t i = 0; i < program.parameters.size(); ++i) {
    shards.values()[i] = static_cast<T>(program.parameters[i]);
  }
  Result result;
  result.totals.resize(batch.lengths.size());
  if (at_once) {
    shards.forward_backward(batch.view(), result.totals.data(), false);
  } else {
    shards.forward(batch.view(), result.totals.data());
    shards.backward(false);
  }
  if (program.single) {
    for (double& each : result.totals) each *= weight;
  }
  for (std::size_t i = 0; i < program.parameters.size(); ++i) {
    result.gradients.push_back(static_cast<double>(shards.gradients()[i]));
  }
  return result;
}

bool same(double a, double b) { return same_bits(a, b) || (std::isnan(a) && std::isnan(b)); }

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return same(x, y); });
}

// Each number may differ by rounding: by a multiple of what a small change of every operation does.
void check_close(const std::vector<double>& found, const std::vector<double>& expected,
                 const std::vector<double>& perturbed, double factor) {
  double spread = 0, size = 1;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    spread = std::max(spread, std::fabs(perturbed[i] - expected[i]));
    size = std::max(size, std::fabs(expected[i]));
  }
  if (!(size < 1e6) || !(spread < 1e-6 * size)) return;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::fabs(found[i] - expected[i]) <= factor * (200 * spread + 1e-10 * size));
  }
}

template <class T>
void check_threads(const program::VectorProgram& vectors, const simd::Table<T>& kernels,
                   const Program& program, const Batch& batch, const Result& expected) {
  for (const int threads : {2, 3}) {
    program::Shards<T> shards(vectors, kernels, threads);
    for (const bool at_once : {false, true}) {
      const Result found = by_replay(shards, program, batch, vectors.weight, at_once);
      CHECK(same(found.totals, expected.totals));
      if (!at_once) CHECK(same(found.gradients, expected.gradients));
    }
  }
}

}  // namespace

void fuzz::fuzz(Input& input) {
  Program program(input);
  Run recorded(program, nullptr);
  const bool exact = input.chance(2);
  const auto numerics = exact ? program::Numerics::exact : program::Numerics::fast;
  const program::VectorProgram vectors = compile(recorded, numerics, program.single);
  for (std::int32_t s = 0; s < vectors.slots; ++s) {
    CHECK(vectors.limits[static_cast<std::size_t>(s)] >= program.limits[s]);
  }
  if (input.chance(8)) {
    CHECK(!program::listing(vectors).empty());
    program::Trained trained;
    trained.blocks = recorded.trace.recording.blocks;
    trained.last_slot = program::last_slots(vectors);
    trained.values = trained.first_moments = trained.second_moments = program.parameters;
    CHECK(!program::to_c(vectors, trained).empty());
  }

  const simd::Tables& tables = simd::tables();
  program::Shards<double> shards(vectors, exact ? tables.exact : tables.fast64, 1);
  for (std::int64_t rounds = input.between(1, 3); rounds > 0; --rounds) {
    const bool many = input.chance(16);
    std::vector<Document> documents;
    for (std::int64_t d = many ? input.between(64, 200) : input.between(1, 5); d > 0; --d) {
      Document document{program.single
                            ? program.positions
                            : static_cast<std::int32_t>(input.between(1, program.positions)),
                        {},
                        {},
                        program.single ? 1.0 : input.one_of({1.0, 0.25, -3.0})};
      for (std::int32_t s = 0; s <= program.positions; ++s) {
        document.tokens.push_back(static_cast<std::int32_t>(input.between(0, 255)) %
                                  program.limits[s]);
        document.inputs.push_back(input.number(0));
      }
      documents.push_back(document);
    }
    const Batch batch(vectors, documents);
    const Result found = by_replay(shards, program, batch, vectors.weight, input.chance(2));
    if (many) {
      const Result plain = by_replay(shards, program, batch, vectors.weight, false);
      CHECK(same(plain.totals, found.totals));
      check_threads(vectors, exact ? tables.exact : tables.fast64, program, batch, plain);
      continue;
    }
    const Result expected = by_tape(program, documents);
    if (exact) {
      CHECK(same(found.totals, expected.totals));
      if (!vectors.ordered) continue;  // nanochat.compile refuses such programs
      const bool is_whole = documents.front().length == program.positions;
      if (documents.size() == 1 && (is_whole || !recorded.fragile)) {
        CHECK(same(found.gradients, expected.gradients));
      }
    }
    // Numbers of parameters alone are computed for all documents; an infinite one makes the
    // gradients of documents that do not reach it NaN.
    if (expected.fragile || recorded.fragile) continue;
    const Result perturbed = by_tape(program, documents, 1);
    check_close(found.totals, expected.totals, perturbed.totals, 1);
    check_close(found.gradients, expected.gradients, perturbed.gradients, 1);
    if (exact) continue;
    program::Shards<float> singles(vectors, tables.fast32, 1);
    const Result rough = by_replay(singles, program, batch, vectors.weight, true);
    check_close(rough.totals, expected.totals, perturbed.totals, 1e6);
    check_close(rough.gradients, expected.gradients, perturbed.gradients, 1e6);
  }
}

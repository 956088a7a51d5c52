// A replay against backward() on the tape: every shape of batch, and no memory but its own.
#include <cmath>

#include "program_testing.hpp"
#include "scalar/program/replay.hpp"
#include "testing.hpp"

using namespace nanochat::program;
using testing::NodeId;
using testing::Trace;

namespace {

constexpr std::int32_t longest = 6;

struct Random {
  std::uint32_t state;
  std::int32_t below(std::int32_t n) {
    state = state * 1664525U + 1013904223U;
    return static_cast<std::int32_t>((state >> 8U) % static_cast<std::uint32_t>(n));
  }
  double number() { return below(2001) / 1000.0 - 1.0; }
};

// A tanh recurrence that attends to its earlier states; a cross entropy a position.
struct Model {
  Trace trace;
  std::int32_t vocab, width;
  NodeId embedding, recurrent, head, start;
  std::size_t count;

  Model(std::int32_t vocab_size, std::int32_t hidden) : vocab(vocab_size), width(hidden) {
    const auto v = static_cast<std::size_t>(vocab), h = static_cast<std::size_t>(width);
    embedding = trace.parameters(v, h);
    recurrent = trace.parameters(h, h);
    head = trace.parameters(v, h);
    start = trace.parameters(1, h);
    count = 2 * v * h + h * h + h;
    Random random{99};
    for (const Block& block : trace.recording.blocks) {
      for (std::size_t i = 0; i < block.rows * block.cols; ++i) {
        trace.tape.values(block.first)[i] = random.number() * 0.5;
      }
    }
  }

  NodeId at(NodeId first, std::int32_t i) const { return first + static_cast<NodeId>(i); }

  NodeId dot(const std::vector<NodeId>& a, const std::vector<NodeId>& b) {
    std::vector<NodeId> products;
    for (std::size_t i = 0; i < a.size(); ++i) products.push_back(trace.tape.mul(a[i], b[i]));
    return trace.sum(products);
  }
  std::vector<NodeId> linear(NodeId matrix, std::int32_t rows, const std::vector<NodeId>& x) {
    std::vector<NodeId> result;
    for (std::int32_t r = 0; r < rows; ++r) {
      std::vector<NodeId> row;
      for (std::int32_t c = 0; c < width; ++c) row.push_back(at(matrix, r * width + c));
      result.push_back(dot(row, x));
    }
    return result;
  }
  // tokens: null while recording.
  std::vector<NodeId> softmax(const std::vector<NodeId>& logits, bool recording) {
    std::vector<NodeId> exps;
    if (recording) {
      const NodeId top = trace.largest(logits);
      for (const NodeId logit : logits) exps.push_back(trace.tape.exp(trace.tape.sub(logit, top)));
    } else {
      double top = trace.tape.value(logits.front());
      for (const NodeId logit : logits) top = std::fmax(top, trace.tape.value(logit));
      for (const NodeId logit : logits) {
        exps.push_back(trace.tape.exp(trace.tape.add_const(logit, -top)));
      }
    }
    const NodeId total = trace.sum(exps);
    for (NodeId& e : exps) e = trace.tape.div(e, total);
    return exps;
  }
  std::vector<NodeId> losses(const std::int32_t* tokens, std::int32_t length) {
    std::vector<NodeId> state, result;
    std::vector<std::vector<NodeId>> states;
    for (std::int32_t i = 0; i < width; ++i) state.push_back(at(start, i));
    for (std::int32_t t = 0; t < length; ++t) {
      std::vector<NodeId> next = linear(recurrent, width, state);
      if (!states.empty()) {
        std::vector<NodeId> scores;
        for (const auto& earlier : states) scores.push_back(dot(next, earlier));
        const std::vector<NodeId> weights = softmax(scores, tokens == nullptr);
        for (std::int32_t i = 0; i < width; ++i) {
          std::vector<NodeId> column;
          for (const auto& earlier : states) column.push_back(earlier[static_cast<std::size_t>(i)]);
          NodeId& each = next[static_cast<std::size_t>(i)];
          each = trace.tape.add(each, dot(weights, column));
        }
      }
      state.clear();
      for (std::int32_t i = 0; i < width; ++i) {
        const NodeId x = tokens == nullptr ? trace.gather(t, 0, static_cast<std::size_t>(i))
                                           : at(embedding, tokens[t] * width + i);
        state.push_back(trace.tape.tanh(trace.tape.add(next[static_cast<std::size_t>(i)], x)));
      }
      states.push_back(state);
      const std::vector<NodeId> chances = softmax(linear(head, vocab, state), tokens == nullptr);
      const NodeId chance = tokens == nullptr ? trace.select(t + 1, chances)
                                              : chances[static_cast<std::size_t>(tokens[t + 1])];
      result.push_back(trace.tape.neg(trace.tape.log(chance)));
    }
    return result;
  }

  VectorProgram compile(Numerics numerics) {
    Graph graph = trace.graph(losses(nullptr, longest));
    const Loss loss = optimise(graph, numerics, true, {});
    VectorProgram program = lower(graph, numerics);
    program.weight = loss.weight;
    program.start = loss.start;
    return program;
  }
};

struct Batch {
  std::vector<std::int32_t> lengths, tokens;
  std::vector<double> scale;
  std::vector<std::uint8_t> counted;

  Batch(Random& random, std::int32_t vocab) {
    const std::int32_t sizes[] = {1, 1, 2, 3, 4, 5, 8, 9, 16, 23};
    const std::int32_t count = sizes[random.below(10)];
    const std::int32_t most = 1 + random.below(longest);
    for (std::int32_t d = 0; d < count; ++d) {
      lengths.push_back(1 + random.below(most));
      scale.push_back(0.5 + random.below(8) / 8.0);
      for (std::int32_t t = 0; t <= longest; ++t) {
        // What a document does not reach must not be read.
        tokens.push_back(t <= lengths.back() ? random.below(vocab) : 1 << 30);
      }
      for (std::int32_t t = 0; t < longest; ++t) counted.push_back(random.below(4) > 0);
    }
  }
  std::int32_t count() const { return static_cast<std::int32_t>(lengths.size()); }
  Documents documents(bool all) const {
    return {count(), lengths.data(), tokens.data(),
            nullptr, scale.data(),   all ? nullptr : counted.data()};
  }
};

// Gradients of the batch by backward(), document by document.
std::vector<double> by_tape(Model& model, const Batch& batch, bool all,
                            std::vector<double>& totals) {
  const auto each = [&](auto&& visit) {
    for (const Block& block : model.trace.recording.blocks) {
      for (std::size_t i = 0; i < block.rows * block.cols; ++i)
        visit(model.trace.tape.grads(block.first)[i]);
    }
  };
  each([](double& g) { g = 0.0; });
  totals.clear();
  for (std::int32_t d = 0; d < batch.count(); ++d) {
    const auto at = static_cast<std::size_t>(d);
    const std::vector<NodeId> losses =
        model.losses(batch.tokens.data() + d * (longest + 1), batch.lengths[at]);
    totals.push_back(0.0);
    std::vector<NodeId> scaled;
    for (std::size_t t = 0; t < losses.size(); ++t) {
      if (!all && batch.counted[at * longest + t] == 0) continue;
      totals.back() += model.trace.tape.value(losses[t]);
      scaled.push_back(model.trace.tape.mul_const(losses[t], batch.scale[at]));
    }
    if (!scaled.empty()) model.trace.tape.backward(model.trace.sum(scaled));
  }
  std::vector<double> gradients;
  each([&](double& g) { gradients.push_back(g); });
  return gradients;
}

template <class T>
void walk(std::int32_t vocab, std::int32_t width, Numerics numerics,
          const nanochat::simd::Table<T>& kernels, double tolerance) {
  Model recorded(vocab, width);
  const VectorProgram program = recorded.compile(numerics);
  Replay<T> replay(program, kernels);
  Random random{static_cast<std::uint32_t>(vocab * 100 + width)};
  for (int round = 0; round < 60; ++round) {
    Model model(vocab, width);  // a tape of its own each time: what it records dies with it
    T* to = replay.values();
    for (const Block& block : model.trace.recording.blocks) {
      for (std::size_t i = 0; i < block.rows * block.cols; ++i) {
        *to++ = static_cast<T>(model.trace.tape.values(block.first)[i]);
      }
    }
    const Batch batch(random, vocab);
    const bool all = random.below(3) > 0, twice = random.below(4) == 0;
    std::vector<double> expected_totals, totals(batch.lengths.size());
    const std::vector<double> expected = by_tape(model, batch, all, expected_totals);
    replay.forward(batch.documents(all), totals.data());
    replay.backward(false);
    if (twice) replay.backward(true);
    for (std::size_t d = 0; d < totals.size(); ++d) {
      CHECK(std::fabs(totals[d] - expected_totals[d]) <= tolerance * (1.0 + totals[d]));
    }
    double size = 1.0;
    for (const double g : expected) size = std::fmax(size, std::fabs(g));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double g = static_cast<double>(replay.gradients()[i]);
      CHECK(std::fabs(g - expected[i] * (twice ? 2.0 : 1.0)) <= tolerance * size);
    }
  }
}

}  // namespace

TEST_CASE(ragged_batches_of_a_small_model_agree_with_the_tape) {
  const auto& tables = nanochat::simd::tables();
  walk<double>(3, 2, Numerics::fast, tables.fast64, 1e-13);
  walk<double>(3, 2, Numerics::exact, tables.exact, 1e-13);
  walk<float>(3, 2, Numerics::fast, tables.fast32, 1e-4);
}

TEST_CASE(ragged_batches_of_a_wider_model_agree_with_the_tape) {
  const auto& tables = nanochat::simd::tables();
  walk<double>(15, 8, Numerics::fast, tables.fast64, 1e-13);
  walk<double>(5, 9, Numerics::exact, tables.exact, 1e-13);
  walk<float>(15, 8, Numerics::fast, tables.fast32, 1e-4);
}

TEST_CASE(every_instruction_set_agrees_with_the_tape) {
  for (const char* name : {"avx512", "avx2", "portable"}) {
    const auto* tables = nanochat::simd::tables_named(name);
    if (tables != nullptr) walk<double>(7, 5, Numerics::fast, tables->fast64, 1e-13);
  }
}

TEST_CASE(exact_gradients_of_one_document_have_the_bits_of_the_tape_or_say_that_they_do_not) {
  Model model(4, 3);
  const VectorProgram program = model.compile(Numerics::exact);
  if (!program.ordered) return;
  Replay<double> replay(program, nanochat::simd::tables().exact);
  Random random{5};
  for (int round = 0; round < 40; ++round) {
    Batch batch(random, 4);
    if (batch.count() > 1) continue;
    Model eager(4, 3);
    double* to = replay.values();
    for (const Block& block : eager.trace.recording.blocks) {
      for (std::size_t i = 0; i < block.rows * block.cols; ++i)
        *to++ = eager.trace.tape.values(block.first)[i];
    }
    double total = 0.0;
    replay.forward(batch.documents(true), &total);
    replay.backward(false);
    eager.trace.tape.backward(eager.trace.tape.mul_const(
        eager.trace.sum(eager.losses(batch.tokens.data(), batch.lengths[0])), batch.scale[0]));
    std::size_t i = 0;
    for (const Block& block : eager.trace.recording.blocks) {
      for (std::size_t j = 0; j < block.rows * block.cols; ++j, ++i) {
        CHECK(testing::same_bits(replay.gradients()[i], eager.trace.tape.grads(block.first)[j]));
      }
    }
  }
}

// Shared by the tests of Replay and Shards: a small model with attention, ragged batches for it,
// and its gradients by backward().
#ifndef NANOCHAT_TESTS_PROGRAM_MODEL_HPP_
#define NANOCHAT_TESTS_PROGRAM_MODEL_HPP_

#include <cmath>

#include "program_testing.hpp"
#include "scalar/program/replay/replay.hpp"

namespace testing {

using namespace nanochat::program;

inline constexpr std::int32_t longest = 6;

struct Random {
  std::uint32_t state;
  std::int32_t below(std::int32_t n) {
    state = state * 1664525U + 1013904223U;
    return static_cast<std::int32_t>((state >> 8U) % static_cast<std::uint32_t>(n));
  }
  double number() { return below(2001) / 1000.0 - 1.0; }
};

// A tanh recurrence that attends to its earlier states, with a cross entropy per position. Without
// memory a state depends on its token alone.
struct Model {
  Trace trace;
  std::int32_t vocab, width;
  bool memory;
  NodeId embedding, recurrent, output, start;
  std::size_t count;

  Model(std::int32_t vocab_size, std::int32_t hidden, bool has_memory = true)
      : vocab(vocab_size), width(hidden), memory(has_memory) {
    const auto v = static_cast<std::size_t>(vocab), h = static_cast<std::size_t>(width);
    embedding = trace.parameters(v, h);
    recurrent = trace.parameters(h, h);
    output = trace.parameters(v, h);
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
      std::vector<NodeId> next;
      if (memory) next = linear(recurrent, width, state);
      if (memory && !states.empty()) {
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
        state.push_back(
            trace.tape.tanh(memory ? trace.tape.add(next[static_cast<std::size_t>(i)], x) : x));
      }
      states.push_back(state);
      const std::vector<NodeId> chances = softmax(linear(output, vocab, state), tokens == nullptr);
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

  Batch(Random& random, std::int32_t vocab, std::int32_t count) {
    const std::int32_t most = 1 + random.below(longest);
    for (std::int32_t d = 0; d < count; ++d) {
      lengths.push_back(1 + random.below(most));
      scale.push_back(0.5 + random.below(8) / 8.0);
      for (std::int32_t t = 0; t <= longest; ++t) {
        // Tokens beyond the document must not be read.
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
inline std::vector<double> by_tape(Model& model, const Batch& batch, bool all,
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

}  // namespace testing

#endif  // NANOCHAT_TESTS_PROGRAM_MODEL_HPP_

// Compares a replay with backward() on the tape, for every shape of batch.
#include <cmath>

#include "program_model.hpp"
#include "scalar/program/replay/replay.hpp"
#include "testing.hpp"

using namespace nanochat::program;
using testing::Batch;
using testing::Model;
using testing::Random;

namespace {

Batch some_batch(Random& random, std::int32_t vocab) {
  const std::int32_t sizes[] = {1, 1, 2, 3, 4, 5, 8, 9, 16, 23};
  const std::int32_t count = sizes[random.below(10)];
  return {random, vocab, count};
}

template <class T>
void walk(std::int32_t vocab, std::int32_t width, Numerics numerics,
          const nanochat::simd::Table<T>& kernels, double tolerance) {
  Model recorded(vocab, width);
  const VectorProgram program = recorded.compile(numerics);
  Replay<T> replay(program, kernels);
  Random random{static_cast<std::uint32_t>(vocab * 100 + width)};
  for (int round = 0; round < 60; ++round) {
    Model model(vocab, width);  // a new tape per round frees what the last round recorded
    T* to = replay.values();
    for (const Block& block : model.trace.recording.blocks) {
      for (std::size_t i = 0; i < block.rows * block.cols; ++i) {
        *to++ = static_cast<T>(model.trace.tape.values(block.first)[i]);
      }
    }
    const Batch batch = some_batch(random, vocab);
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

TEST_CASE(a_recurrence_adds_gradients_in_another_order_than_the_tape) {
  CHECK(!Model(4, 3).compile(Numerics::exact).ordered);
}

TEST_CASE(exact_gradients_of_one_document_are_bit_identical_to_the_tape) {
  Model model(4, 3, false);
  const VectorProgram program = model.compile(Numerics::exact);
  CHECK(program.ordered);
  Replay<double> replay(program, nanochat::simd::tables().exact);
  Random random{5};
  for (int round = 0; round < 40; ++round) {
    const Batch batch(random, 4, 1);
    Model eager(4, 3, false);
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

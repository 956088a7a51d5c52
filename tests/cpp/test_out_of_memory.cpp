// A replay that runs out of memory at any allocation throws, and its next run is right.
#include <new>
#include <vector>

#include "failing_allocations.hpp"
#include "program_model.hpp"
#include "scalar/program/replay/replay.hpp"
#include "testing.hpp"

namespace {

using namespace nanochat::program;
using testing::budget;

struct Result {
  std::vector<double> totals, gradients;
};

Result run(Replay<double>& replay, const testing::Batch& batch, std::size_t parameters) {
  Result result{std::vector<double>(batch.lengths.size()), {}};
  replay.forward(batch.documents(true), result.totals.data());
  replay.backward(false);
  result.gradients.assign(replay.gradients(), replay.gradients() + parameters);
  return result;
}

void load(Replay<double>& replay, testing::Model& model) {
  double* to = replay.values();
  for (const Block& block : model.trace.recording.blocks) {
    for (std::size_t i = 0; i < block.rows * block.cols; ++i) {
      *to++ = model.trace.tape.values(block.first)[i];
    }
  }
}

// Returns how many allocations failed before a run had enough.
int fail_at_every_allocation(std::int32_t documents) {
  testing::Model model(5, 4);
  const VectorProgram program = model.compile(Numerics::fast);
  const nanochat::simd::Table<double>& kernels = nanochat::simd::tables().fast64;
  testing::Random random{7};
  const testing::Batch batch(random, 5, documents), other(random, 5, documents == 1 ? 2 : 1);
  Replay<double> untouched(program, kernels);
  load(untouched, model);
  const Result expected = run(untouched, batch, program.parameters);
  for (int allowed = 0;; ++allowed) {
    Replay<double> replay(program, kernels);
    load(replay, model);
    run(replay, other, program.parameters);
    std::vector<double> totals(batch.lengths.size());
    bool thrown = false;
    const Documents given = batch.documents(true);
    budget = allowed;
    try {
      replay.forward(given, totals.data());
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    budget = -1;
    const Result result = run(replay, batch, program.parameters);
    CHECK(result.totals == expected.totals);
    CHECK(result.gradients == expected.gradients);
    if (!thrown) return allowed;
  }
}

}  // namespace

TEST_CASE(a_shape_that_ran_out_of_memory_is_bound_again) {
  CHECK(fail_at_every_allocation(1) > 10);
  CHECK(fail_at_every_allocation(3) > 10);
}

// Shards of a batch: the same bits for any number of threads, and the gradients of backward().
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>

#include "program_model.hpp"
#include "scalar/program/replay/shards.hpp"
#include "testing.hpp"
#include "threads/workers.hpp"

using namespace nanochat::program;
using nanochat::Workers;
using testing::Batch;
using testing::Model;
using testing::Random;

namespace {

constexpr std::int32_t vocab = 40, width = 32;

const VectorProgram& shared_program() {
  static const VectorProgram program = Model(vocab, width).compile(Numerics::fast);
  return program;
}

template <class T>
void load(const Model& model, T* to) {
  for (const Block& block : model.trace.recording.blocks) {
    for (std::size_t i = 0; i < block.rows * block.cols; ++i) {
      *to++ = static_cast<T>(model.trace.tape.values(block.first)[i]);
    }
  }
}

// All results: totals and gradients, of both passes at once and one after the other, and outputs.
template <class T>
std::vector<double> numbers(Shards<T>& shards, const Batch& batch, bool all) {
  std::vector<double> found(batch.lengths.size());
  shards.forward_backward(batch.documents(all), found.data(), false);
  for (std::size_t i = 0; i < shared_program().parameters; ++i) {
    found.push_back(static_cast<double>(shards.gradients()[i]));
  }
  std::vector<double> totals(batch.lengths.size());
  shards.forward(batch.documents(all), totals.data());
  shards.backward(false);
  found.insert(found.end(), totals.begin(), totals.end());
  for (std::size_t i = 0; i < shared_program().parameters; ++i) {
    found.push_back(static_cast<double>(shards.gradients()[i]));
  }
  for (std::int32_t d = 0; d < batch.count(); ++d) {
    for (std::int32_t t = 0; t < batch.lengths[static_cast<std::size_t>(d)]; ++t) {
      found.push_back(shards.output(static_cast<std::size_t>(t), d));
    }
  }
  return found;
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!testing::same_bits(a[i], b[i])) return false;
  }
  return a.size() == b.size();
}

template <class T>
void compare_threads(const nanochat::simd::Table<T>& kernels) {
  const Model model(vocab, width);
  Shards<T> one(shared_program(), kernels, 1), two(shared_program(), kernels, 2),
      three(shared_program(), kernels, 3);
  for (auto* shards : {&one, &two, &three}) load(model, shards->values());
  Random random{7};
  bool split = false;
  for (const std::int32_t count : {64, 1, 2, 200, 33, 64, 16, 128, 17, 64}) {
    const Batch batch(random, vocab, count);
    const bool all = random.below(2) == 0;
    const std::vector<double> expected = numbers(one, batch, all);
    split = split || one.shards_in_use() > 1;
    CHECK(same(numbers(two, batch, all), expected));
    CHECK(same(numbers(three, batch, all), expected));
    CHECK(same(numbers(two, batch, all), expected));
  }
  CHECK(split);
}

template <class T>
void compare_with_the_tape(const nanochat::simd::Table<T>& kernels, double tolerance) {
  Shards<T> shards(shared_program(), kernels, 2);
  Random random{11};
  for (const std::int32_t count : {64, 3, 96, 128, 71, 128, 40, 64}) {
    Model model(vocab, width);
    load(model, shards.values());
    const Batch batch(random, vocab, count);
    const bool all = random.below(2) == 0, twice = random.below(2) == 0;
    std::vector<double> expected_totals, totals(batch.lengths.size());
    const std::vector<double> expected = testing::by_tape(model, batch, all, expected_totals);
    if (random.below(2) == 0) {
      shards.forward(batch.documents(all), totals.data());
      shards.backward(false);
      if (twice) shards.backward(true);
    } else {
      shards.forward_backward(batch.documents(all), totals.data(), false);
      if (twice) shards.forward_backward(batch.documents(all), totals.data(), true);
    }
    for (std::size_t d = 0; d < totals.size(); ++d) {
      CHECK(std::fabs(totals[d] - expected_totals[d]) <= tolerance * (1.0 + totals[d]));
    }
    double size = 1.0;
    for (const double g : expected) size = std::fmax(size, std::fabs(g));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto g = static_cast<double>(shards.gradients()[i]);
      CHECK(std::fabs(g - expected[i] * (twice ? 2.0 : 1.0)) <= tolerance * size);
    }
  }
}

}  // namespace

TEST_CASE(any_number_of_threads_gives_the_same_bits) {
  const auto& tables = nanochat::simd::tables();
  compare_threads<double>(tables.fast64);
  compare_threads<float>(tables.fast32);
}

TEST_CASE(gradients_of_shards_are_those_of_the_tape) {
  const auto& tables = nanochat::simd::tables();
  compare_with_the_tape<double>(tables.fast64, 1e-13);
  compare_with_the_tape<float>(tables.fast32, 1e-4);
}

TEST_CASE(the_arrays_of_a_batch_may_be_freed_before_backward) {
  const Model model(vocab, width);
  Shards<double> shards(shared_program(), nanochat::simd::tables().fast64, 2);
  load(model, shards.values());
  Random random{17};
  const Batch batch(random, vocab, 40);
  const std::vector<double> found = numbers(shards, batch, false);
  const std::size_t start = 2 * batch.lengths.size() + shared_program().parameters;
  {
    Batch copy = batch;
    std::vector<double> totals(batch.lengths.size());
    shards.forward(copy.documents(false), totals.data());
    copy.scale.assign(copy.scale.size(), std::nan(""));
    copy.tokens.assign(copy.tokens.size(), 1 << 30);
  }
  shards.backward(false);
  for (std::size_t i = 0; i < shared_program().parameters; ++i) {
    CHECK(testing::same_bits(shards.gradients()[i], found[start + i]));
  }
}

TEST_CASE(small_batches_and_exact_batches_are_one_shard) {
  Random random{19};
  const Batch small(random, vocab, 2 * least_documents<double> - 1), large(random, vocab, 400);
  const Shards<double> fast(shared_program(), nanochat::simd::tables().fast64, 8);
  CHECK(fast.shards_of(small.documents(true)) == 1);
  CHECK(fast.shards_of(large.documents(true)) > 1);
  const VectorProgram program = Model(vocab, width).compile(Numerics::exact);
  const Shards<double> exact(program, nanochat::simd::tables().exact, 8);
  CHECK(exact.shards_of(large.documents(true)) == 1);
}

TEST_CASE(a_forked_process_starts_new_threads) {
  const Model model(vocab, width);
  Shards<double> shards(shared_program(), nanochat::simd::tables().fast64, 2);
  load(model, shards.values());
  Random random{23};
  const Batch batch(random, vocab, 64);
  const std::vector<double> expected = numbers(shards, batch, true);
  const pid_t child = fork();
  if (child == 0) _exit(same(numbers(shards, batch, true), expected) ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(same(numbers(shards, batch, true), expected));
}

TEST_CASE(workers_run_every_task_once_and_throw_the_first_exception) {
  for (const int threads : {1, 2, 4}) {
    Workers workers(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<int> runs(static_cast<std::size_t>(round % 9));
      workers.run(round % 9, [&](int task) { ++runs[static_cast<std::size_t>(task)]; });
      for (const int each : runs) CHECK(each == 1);
    }
    std::vector<int> runs(8);
    int caught = -1;
    try {
      workers.run(8, [&](int task) {
        ++runs[static_cast<std::size_t>(task)];
        if (task == 3 || task == 6) throw task;
      });
    } catch (const int task) {
      caught = task;
    }
    CHECK(caught == 3);
    for (const int each : runs) CHECK(each == 1);
    workers.run(8, [&](int task) { ++runs[static_cast<std::size_t>(task)]; });
    for (const int each : runs) CHECK(each == 2);
  }
}

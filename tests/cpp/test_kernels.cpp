// The row kernels of every instruction set, compared with the formula of abi.h in long double.
#include <algorithm>
#include <random>
#include <type_traits>

#include "kernel_testing.hpp"
#include "kernels/cpu/cross_entropy/cross_entropy.hpp"

namespace {

using namespace kernel_testing;
using nanochat::kernels::cross_entropy_rows;
using nanochat::kernels::CrossEntropy;
using nanochat::kernels::CrossEntropyResult;
using Real = long double;

// Stored logits of one type, and their values.
template <class S>
struct Stored {
  int dtype;
  S (*narrowed)(double);
  double (*widened)(S);
  double unit;  // the largest relative error of rounding to the type

  using Number = std::conditional_t<std::is_same_v<S, double>, double, float>;
};

const Stored<float> floats{NCK_FLOAT32, [](double x) { return static_cast<float>(x); },
                           [](float x) { return static_cast<double>(x); }, 0x1p-24};
const Stored<double> doubles{NCK_FLOAT64, [](double x) { return x; }, [](double x) { return x; },
                             0x1p-53};
const Stored<std::uint16_t> bfloat16s{NCK_BFLOAT16, [](double x) { return narrow(bfloat16, x); },
                                      [](std::uint16_t x) { return widen(bfloat16, x); }, 0x1p-8};
const Stored<std::uint16_t> float16s{NCK_FLOAT16, [](double x) { return narrow(float16, x); },
                                     [](std::uint16_t x) { return widen(float16, x); }, 0x1p-11};

struct Options {
  double label_smoothing, z_loss, softcap;
  bool weights, in_place, streaming;
};

struct Row {
  Real loss, log_sum;
  std::vector<Real> gradient;
};

// Computes one row by the formula. weights: of the classes; weight, upstream: of the row.
Row formula(const std::vector<double>& logits, std::int64_t target,
            const std::vector<double>& weights, double weight, double upstream,
            const Options& options) {
  const std::size_t vocab = logits.size();
  const Real cap = options.softcap, epsilon = options.label_smoothing;
  std::vector<Real> z(logits.begin(), logits.end());
  if (cap > 0) {
    for (Real& each : z) each = cap * std::tanh(each / cap);
  }
  const Real largest = *std::max_element(z.begin(), z.end());
  Real sum = 0, by_class = 0, class_weight = 0;
  for (const Real each : z) sum += std::exp(each - largest);
  const Real lse = largest + std::log(sum);
  for (std::size_t j = 0; j < vocab; ++j) {
    by_class += weights[j] * (lse - z[j]);
    class_weight += weights[j];
  }
  const Real own = (1 - epsilon) * weights[index(target)];
  const Real smooth = epsilon / static_cast<Real>(vocab);
  Row row{
      weight * (own * (lse - z[index(target)]) + smooth * by_class + options.z_loss * lse * lse),
      lse, std::vector<Real>(vocab)};
  for (std::size_t j = 0; j < vocab; ++j) {
    Real g = std::exp(z[j] - lse) * (own + smooth * class_weight + 2 * options.z_loss * lse) -
             smooth * weights[j] - (j == index(target) ? own : 0);
    if (cap > 0) g *= 1 - z[j] / cap * (z[j] / cap);
    row.gradient[j] = weight * upstream * g;
  }
  return row;
}

bool near(Real got, Real wanted, Real tolerance) {
  return std::fabs(got - wanted) <= tolerance * (1 + std::fabs(wanted));
}

template <class S>
void check_kernel(const Tables& tables, const Stored<S>& type, std::int64_t vocab,
                  const Options& options, std::mt19937_64& random) {
  using N = typename Stored<S>::Number;
  constexpr std::int64_t rows = 5, ignore = -3;
  const std::int64_t stride = vocab + 3;
  std::normal_distribution<double> normal(0, 3);
  std::uniform_real_distribution<double> uniform(0.25, 2);
  const S guard = type.narrowed(-77);
  std::vector<S> logits(index(rows * stride), guard);
  std::vector<std::int64_t> targets(rows);
  std::vector<N> class_weights(index(vocab), 1), token_weights(rows, 1), upstream(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < vocab; ++j)
      logits[index(i * stride + j)] = type.narrowed(normal(random));
    targets[index(i)] = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(vocab));
    upstream[index(i)] = static_cast<N>(uniform(random));
    if (options.weights) token_weights[index(i)] = static_cast<N>(uniform(random));
  }
  targets[2] = ignore;
  double class_weight_sum = 0;
  for (N& each : class_weights) {
    if (options.weights) each = static_cast<N>(uniform(random));
    class_weight_sum += static_cast<double>(each);
  }
  std::vector<S> output = options.in_place ? logits : std::vector<S>(logits.size(), guard);
  const CrossEntropy call{
      .logits = options.in_place ? output.data() : logits.data(),
      .vocab = vocab,
      .row_stride = stride,
      .targets = targets.data(),
      .class_weights = options.weights ? class_weights.data() : nullptr,
      .token_weights = options.weights ? token_weights.data() : nullptr,
      .class_weight_sum = class_weight_sum,
      .ignore_index = ignore,
      .label_smoothing = options.label_smoothing,
      .z_loss = options.z_loss,
      .softcap = options.softcap,
      .upstream = upstream.data(),
      .upstream_stride = 1,
      .scale = 1,
      .gradient = output.data(),
      .gradient_stride = stride,
      .correct = true,
      .streaming = options.streaming,
  };
  std::vector<char> room(nanochat::kernels::cross_entropy_scratch(vocab, type.dtype) + 64);
  char* scratch = room.data();
  scratch += (64 - reinterpret_cast<std::uintptr_t>(scratch) % 64) % 64;
  CrossEntropyResult result;
  tables.cross_entropy->rows[type.dtype](call, 0, rows, scratch, result);

  const Real loose = sizeof(N) == 8 ? 1e-13L : 1e-5L;
  for (std::int64_t i = 0; i < rows; ++i) {
    std::vector<double> row(index(vocab));
    for (std::int64_t j = 0; j < vocab; ++j)
      row[index(j)] = type.widened(logits[index(i * stride + j)]);
    const bool is_ignored = targets[index(i)] == ignore;
    const Row wanted = formula(row, is_ignored ? 0 : targets[index(i)],
                               {class_weights.begin(), class_weights.end()},
                               static_cast<double>(token_weights[index(i)]),
                               static_cast<double>(upstream[index(i)]), options);
    const Real use = is_ignored ? 0 : 1;
    CHECK(near(result.losses[i], use * wanted.loss, loose));
    CHECK(near(result.log_sums[i], use * wanted.log_sum, loose));
    const auto largest = std::max_element(row.begin(), row.end()) - row.begin();
    CHECK(result.correct[i] == (!is_ignored && largest == targets[index(i)]));
    for (std::int64_t j = 0; j < stride && i * stride + j < rows * stride; ++j) {
      const S got = output[index(i * stride + j)];
      if (j >= vocab) {
        CHECK(got == guard);
      } else {
        const Real g = use * wanted.gradient[index(j)];
        CHECK(std::fabs(type.widened(got) - g) <= loose + std::fabs(g) * (loose + type.unit));
      }
    }
  }
}

TEST_CASE(every_instruction_set_computes_the_formula) {
  std::mt19937_64 random(11);
  for_each_set([&](const char* name, const Tables& tables) {
    std::printf("  %s\n", name);
    for (const std::int64_t vocab : {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130, 300}) {
      for (const bool weights : {false, true}) {
        for (const bool in_place : {false, true}) {
          for (const Options& options :
               {Options{0, 0, 0, weights, in_place, false}, Options{0, 0, 0, weights, false, true},
                Options{0.1, 0.01, 0, weights, in_place, false},
                Options{0.3, 0, 10, weights, in_place, false},
                Options{0, 0.02, 4, weights, in_place, false}}) {
            check_kernel(tables, floats, vocab, options, random);
            check_kernel(tables, doubles, vocab, options, random);
            check_kernel(tables, bfloat16s, vocab, options, random);
            check_kernel(tables, float16s, vocab, options, random);
          }
        }
      }
    }
  });
}

TEST_CASE(only_known_instruction_sets_have_tables) {
  CHECK(nanochat::kernels::tables_named("portable") != nullptr);
  for (const char* name : {"", "nonsense", "AVX2", "avx51", "avx5122"}) {
    CHECK(nanochat::kernels::tables_named(name) == nullptr);
  }
  CHECK(nanochat::kernels::tables_named(nanochat::kernels::tables_name()) ==
        &nanochat::kernels::tables());
}

}  // namespace

// One call of the CUDA cross-entropy, run by the CPU and compared with the CPU's.
#ifndef NANOCHAT_TESTS_CROSS_ENTROPY_TRIAL_HPP_
#define NANOCHAT_TESTS_CROSS_ENTROPY_TRIAL_HPP_

#include <array>
#include <limits>
#include <optional>

#include "twins.hpp"

namespace cross_entropy {

using namespace twins;

inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr std::int64_t ignored = -100;

enum class Contents { ordinary, equal_values, minus_infinities, infinities, nans };
inline constexpr int all_contents = 5;
enum class Result { none, in_place, apart };
inline constexpr int all_results = 3;
enum class Upstream { none, one, per_row };

// What a call asks for besides its sizes.
struct Wanted {
  double label_smoothing = 0, z_loss = 0, softcap = 0;
  bool has_class_weights = false, has_token_weights = false;
  Upstream upstream = Upstream::none;
};
inline const std::array<Wanted, 8> all_wanted = {{
    {},
    {.label_smoothing = 0.1},
    {.z_loss = 0.01},
    {.softcap = 5},
    {.has_class_weights = true},
    {.has_token_weights = true, .upstream = Upstream::per_row},
    {.label_smoothing = 0.3, .has_class_weights = true, .upstream = Upstream::one},
    {.label_smoothing = 0.2,
     .z_loss = 0.01,
     .softcap = 15,
     .has_class_weights = true,
     .has_token_weights = true,
     .upstream = Upstream::one},
}};

struct Problem {
  Layout logits;
  std::int64_t gradient_extra, gradient_offset;
  Result result;
  Contents contents;
  std::size_t wanted;
  std::int32_t reduction;
  std::uint64_t seed;

  std::string text() const {
    char line[400];
    static_cast<void>(std::snprintf(
        line, sizeof line,
        "dtype %d, rows %lld, vocab %lld, extra %lld, offset %lld, gradient: extra %lld, offset "
        "%lld, result %d, contents %d, options %zu, reduction %d, seed %llu; device: capability "
        "%d, shared memory %d",
        logits.dtype, static_cast<long long>(logits.rows), static_cast<long long>(logits.vocab),
        static_cast<long long>(logits.extra), static_cast<long long>(logits.offset),
        static_cast<long long>(gradient_extra), static_cast<long long>(gradient_offset),
        static_cast<int>(result), static_cast<int>(contents), wanted, reduction,
        static_cast<unsigned long long>(seed), host_gpu::device().capability_major,
        host_gpu::device().shared_bytes));
    return line;
  }
};

inline float logit(Random& random, Contents contents, std::int64_t vocab) {
  const float value = random.number(-6, 6);
  switch (contents) {
    case Contents::equal_values:
      return std::round(value);
    case Contents::minus_infinities:
      return random.one_in(9) ? -infinity : value;
    case Contents::infinities:
      return random.one_in(2 * vocab) ? infinity : value;
    case Contents::nans:
      return random.one_in(2 * vocab) ? std::numeric_limits<float>::quiet_NaN() : value;
    default:
      return value;
  }
}

// The kernels that rows were given to, told by their launches.
struct Paths {
  int small = 0, block = 0, cluster = 0, streamed = 0;

  void count(const std::vector<host_gpu::Launch>& launches) {
    constexpr unsigned threads_of_sums = 1024;
    for (const host_gpu::Launch& launch : launches) {
      if (launch.threads == threads_of_sums) continue;
      if (launch.cluster > 1) {
        ++cluster;
      } else if (launch.dynamic_bytes > 0) {
        ++block;
      } else {
        ++(launch.threads == 128 ? small : streamed);
      }
    }
  }
  void print(const char* name) const {
    std::printf("  %s: %d small, %d block, %d cluster, %d streamed\n", name, small, block, cluster,
                streamed);
  }
};

// A problem with its arrays.
class Trial {
 public:
  explicit Trial(const Problem& problem)
      : problem_(problem),
        wanted_(all_wanted[problem.wanted]),
        random_(problem.seed),
        rows_(problem.logits.rows),
        logits_("logits", problem.logits),
        targets_("targets", rows_, 0),
        class_weights_("class weights", problem.logits.vocab, 1.0f),
        token_weights_("token weights", rows_, 1.0f),
        upstream_("upstream", rows_, 1.5f),
        losses_("losses", results(), untouched),
        log_sums_("log sums", rows_, untouched),
        correct_("correct", results(), untouched),
        workspace_("workspace",
                   index(nck_cuda_workspace(rows_, problem.logits.vocab, problem.logits.dtype))) {
    const std::int64_t vocab = problem.logits.vocab;
    logits_.fill([&](auto, auto) { return logit(random_, problem.contents, vocab); });
    for (std::int64_t i = 0; i < rows_; ++i) {
      targets_.set(i, random_.one_in(6) ? ignored : random_.below(vocab));
      token_weights_.set(i, random_.number(0.2, 2));
      if (wanted_.upstream == Upstream::per_row) upstream_.set(i, random_.number(-2, 2));
    }
    for (std::int64_t j = 0; j < vocab; ++j) class_weights_.set(j, random_.number(0.2, 2));
    if (problem.result == Result::apart) {
      Layout layout = problem.logits;
      layout.extra = problem.gradient_extra;
      layout.offset = problem.gradient_offset;
      apart_.emplace("gradient", layout);
    }
  }

  void run(Paths& paths) {
    host_gpu::take_launches();
    call_device();
    call_host();
    const auto launches = host_gpu::take_launches();
    for (const host_gpu::Launch& launch : launches) expect(launch.stream == stream());
    paths.count(launches);
    expect(has_no_faults());
    compare_results();
    if (problem_.result != Result::none) compare_gradients();
    expect(logits_.is_intact_between_rows());
    if (apart_) expect(apart_->is_intact_between_rows());
  }

 private:
  static constexpr float untouched = -7;
  static void* stream() { return reinterpret_cast<void*>(std::uintptr_t{48}); }

  void expect(bool claim) { CHECK_CASE(claim, problem_.text()); }

  std::int64_t results() const { return problem_.reduction == NCK_NONE ? rows_ : 1; }

  Matrix* gradient() {
    return problem_.result == Result::none    ? nullptr
           : problem_.result == Result::apart ? &*apart_
                                              : &logits_;
  }

  nck_loss loss() const {
    return {ignored, wanted_.label_smoothing, wanted_.z_loss, wanted_.softcap, problem_.reduction};
  }

  void call_device() {
    const nck_loss options = loss();
    const Layout& at = problem_.logits;
    Matrix* const to = gradient();
    const std::int32_t status = nck_cuda_cross_entropy(
        logits_.on_device(), rows_, at.vocab, at.stride(), at.dtype, targets_.on_device(),
        wanted_.has_class_weights ? class_weights_.on_device() : nullptr,
        wanted_.has_token_weights ? token_weights_.on_device() : nullptr, &options,
        wanted_.upstream == Upstream::none ? nullptr : upstream_.on_device(),
        wanted_.upstream == Upstream::per_row ? 1 : 0, to == nullptr ? nullptr : to->on_device(),
        to == nullptr ? 0 : to->layout().stride(), losses_.on_device(), log_sums_.on_device(),
        correct_.on_device(), workspace_.data(), stream());
    CHECK_CASE(status == NCK_OK, problem_.text() + ": " + nck_cuda_last_error());
  }

  void call_host() {
    const nck_loss options = loss();
    const Layout& at = problem_.logits;
    Matrix* const to = gradient();
    const std::int32_t status = nck_cross_entropy(
        logits_.on_host(), rows_, at.vocab, at.stride(), at.dtype, targets_.on_host(),
        wanted_.has_class_weights ? class_weights_.on_host() : nullptr,
        wanted_.has_token_weights ? token_weights_.on_host() : nullptr, &options,
        wanted_.upstream == Upstream::none ? nullptr : upstream_.on_host(),
        wanted_.upstream == Upstream::per_row ? 1 : 0, to == nullptr ? nullptr : to->on_host(),
        to == nullptr ? 0 : to->layout().stride(), losses_.on_host(), log_sums_.on_host(),
        correct_.on_host(), 1);
    CHECK_CASE(status == NCK_OK, problem_.text() + ": " + nck_last_error());
  }

  void compare_results() {
    bool has_nan = false;
    for (std::int64_t i = 0; i < rows_; ++i) {
      const float log_sum = log_sums_.on_host()[i];
      expect(are_near(log_sums_.on_device()[i], log_sum, 1e-5, 1e-5));
      has_nan = has_nan || std::isnan(log_sum);
    }
    for (std::int64_t i = 0; i < results(); ++i) {
      expect(are_near(losses_.on_device()[i], losses_.on_host()[i], 3e-5, 3e-5));
      // Which logit of a row with NaN is the largest is not defined.
      if (!has_nan) expect(are_near(correct_.on_device()[i], correct_.on_host()[i], 1e-6, 1e-6));
    }
  }

  // Equal but for float32's rounding, and of 16 bits but for one unit in the last place.
  void compare_gradients() {
    const std::int32_t dtype = problem_.logits.dtype;
    const double relative = dtype == NCK_FLOAT32    ? 2e-5
                            : dtype == NCK_BFLOAT16 ? 1.0 / 100
                                                    : 1.0 / 900;
    const double scale = problem_.reduction == NCK_MEAN ? 1.0 / static_cast<double>(rows_) : 1;
    const double absolute = (dtype == NCK_FLOAT16 ? 1.2e-7 : 1e-8) + relative * 1e-3 * scale;
    const Matrix& both = *gradient();
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t j = 0; j < problem_.logits.vocab; ++j) {
        expect(are_near(both.of_device(row, j), both.of_host(row, j), relative, absolute));
      }
    }
  }

  const Problem problem_;
  const Wanted& wanted_;
  Random random_;
  std::int64_t rows_;
  Matrix logits_;
  std::optional<Matrix> apart_;
  Array<std::int64_t> targets_;
  Array<float> class_weights_, token_weights_, upstream_, losses_, log_sums_, correct_;
  host_gpu::DeviceMemory workspace_;
};

inline void run(const Problem& problem, Paths& paths) {
  Trial trial(problem);
  trial.run(paths);
}

// A problem whose other properties are random.
inline Problem random_problem(Random& random, std::int32_t dtype, std::int64_t rows,
                              std::int64_t vocab) {
  return {.logits = {dtype, rows, vocab, random.one_in(4) ? 0 : random.below(9), random.below(9)},
          .gradient_extra = random.below(7),
          .gradient_offset = random.below(9),
          .result = static_cast<Result>(random.one_in(8) ? 0 : 1 + random.below(2)),
          .contents = static_cast<Contents>(random.below(all_contents)),
          .wanted = index(random.below(all_wanted.size())),
          .reduction = static_cast<std::int32_t>(random.below(3)),
          .seed = random.bits()};
}

}  // namespace cross_entropy

#endif  // NANOCHAT_TESTS_CROSS_ENTROPY_TRIAL_HPP_

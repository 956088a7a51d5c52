// The CUDA cross-entropy, run by the CPU and compared with the CPU's, on all paths: rows in
// registers, in a block, in a cluster, and streamed.
#include <array>
#include <optional>

#include "twins.hpp"

namespace {

using namespace twins;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t ignored = -100;

enum class Contents { ordinary, equal_values, minus_infinities, infinities, nans };
constexpr int all_contents = 5;
enum class Result { none, in_place, apart };
constexpr int all_results = 3;
enum class Upstream { none, one, per_row };

// What a call asks for besides its sizes.
struct Wanted {
  double label_smoothing = 0, z_loss = 0, softcap = 0;
  bool has_class_weights = false, has_token_weights = false;
  Upstream upstream = Upstream::none;
};
const std::array<Wanted, 8> all_wanted = {{
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

float logit(Random& random, Contents contents, std::int64_t vocab) {
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

void run(const Problem& problem, Paths& paths) {
  Trial trial(problem);
  trial.run(paths);
}

// A problem whose other properties are random.
Problem random_problem(Random& random, std::int32_t dtype, std::int64_t rows, std::int64_t vocab) {
  return {.logits = {dtype, rows, vocab, random.one_in(4) ? 0 : random.below(9), random.below(9)},
          .gradient_extra = random.below(7),
          .gradient_offset = random.below(9),
          .result = static_cast<Result>(random.one_in(8) ? 0 : 1 + random.below(2)),
          .contents = static_cast<Contents>(random.below(all_contents)),
          .wanted = index(random.below(all_wanted.size())),
          .reduction = static_cast<std::int32_t>(random.below(3)),
          .seed = random.bits()};
}

TEST_CASE(small_rows_equal_those_of_the_cpu_for_all_options) {
  Random random(1);
  Paths paths;
  for (const std::int32_t dtype : dtypes) {
    for (std::size_t wanted = 0; wanted < all_wanted.size(); ++wanted) {
      for (const std::int32_t reduction : {NCK_NONE, NCK_MEAN, NCK_SUM}) {
        for (int result = 0; result < all_results; ++result) {
          for (int contents = 0; contents < all_contents; ++contents) {
            Problem problem = random_problem(random, dtype, 1 + random.below(6), 37);
            problem.wanted = wanted;
            problem.reduction = reduction;
            problem.result = static_cast<Result>(result);
            problem.contents = static_cast<Contents>(contents);
            run(problem, paths);
          }
        }
      }
    }
  }
  paths.print("all options");
  CHECK(paths.small == 3 * 8 * 3 * 3 * 5);
}

TEST_CASE(rows_of_all_lengths_equal_those_of_the_cpu) {
  Random random(2);
  Paths paths;
  for (const std::int32_t dtype : dtypes) {
    for (const std::int64_t vocab :
         {1, 2, 3, 5, 8, 9, 16, 31, 63, 65, 127, 129, 255, 256, 511, 777, 1023, 1024, 1025, 4099}) {
      for (int i = 0; i < scaled(2); ++i) {
        const std::int64_t rows = 1 + random.below(vocab > 1024 ? 2 : 9);
        run(random_problem(random, dtype, rows, vocab), paths);
      }
    }
  }
  paths.print("all lengths");
  CHECK(paths.small > 0 && paths.block > 0);
}

// Devices with so little shared memory that short rows take the paths of long ones.
TEST_CASE(long_rows_equal_those_of_the_cpu_on_devices_of_all_sizes) {
  using host_gpu::Device;
  const int reserved = host_gpu::static_shared_bytes;
  struct Expected {
    Device device;
    bool has_blocks, has_clusters, has_streamed;
  };
  Random random(3);
  for (const Expected& expected : {Expected{{9, reserved + 4096, 4}, true, true, true},
                                   Expected{{8, reserved + 4096, 4}, true, false, true},
                                   Expected{{9, reserved + 4096, 0}, true, false, true},
                                   Expected{{9, reserved + 1040, 4}, false, true, true},
                                   Expected{{9, reserved + 256, 4}, false, false, true}}) {
    host_gpu::device() = expected.device;
    Paths paths;
    for (const std::int32_t dtype : dtypes) {
      for (const std::int64_t vocab : {1025, 1031, 1999, 2048, 4099, 6000}) {
        for (int i = 0; i < scaled(2); ++i) {
          run(random_problem(random, dtype, 1 + random.below(3), vocab), paths);
        }
      }
    }
    char name[100];
    static_cast<void>(std::snprintf(name, sizeof name, "capability %d, %d bytes, %d clusters",
                                    expected.device.capability_major, expected.device.shared_bytes,
                                    expected.device.active_clusters));
    paths.print(name);
    CHECK((paths.block > 0) == expected.has_blocks);
    CHECK((paths.cluster > 0) == expected.has_clusters);
    CHECK((paths.streamed > 0) == expected.has_streamed);
  }
  host_gpu::device() = {};
}

TEST_CASE(targets_outside_of_the_vocabulary_give_rows_of_nan) {
  for (const std::int64_t vocab : {300, 1500}) {
    for (const Contents contents : {Contents::ordinary, Contents::nans}) {
      Random random(4);
      const Layout layout{NCK_FLOAT32, 4, vocab, 3, 1};
      Matrix logits("logits", layout), gradient("gradient", layout);
      logits.fill([&](auto, auto) { return logit(random, contents, vocab); });
      Array<std::int64_t> targets("targets", 4, ignored);
      targets.set(0, vocab);
      targets.set(1, -1);
      targets.set(2, std::numeric_limits<std::int64_t>::min());
      Array<float> losses("losses", 4, 5), log_sums("log sums", 4, 5), correct("correct", 4, 5);
      host_gpu::DeviceMemory workspace("workspace", index(nck_cuda_workspace(4, vocab, 0)));
      const nck_loss loss{ignored, 0, 0, 0, NCK_NONE};
      CHECK(nck_cuda_cross_entropy(logits.on_device(), 4, vocab, layout.stride(), NCK_FLOAT32,
                                   targets.on_device(), nullptr, nullptr, &loss, nullptr, 0,
                                   gradient.on_device(), layout.stride(), losses.on_device(),
                                   log_sums.on_device(), correct.on_device(), workspace.data(),
                                   nullptr) == NCK_OK);
      CHECK(has_no_faults());
      for (std::int64_t row = 0; row < 4; ++row) {
        const bool is_stray = row < 3;
        CHECK(std::isnan(losses.on_device()[row]) == is_stray);
        CHECK(std::isnan(log_sums.on_device()[row]) == is_stray);
        CHECK(correct.on_device()[row] == 0);
        for (std::int64_t j = 0; j < vocab; ++j) {
          const float each = gradient.of_device(row, j);
          CHECK(is_stray ? std::isnan(each) : each == 0);
        }
      }
    }
  }
}

TEST_CASE(calls_without_rows_reduce_nothing) {
  Array<float> losses("losses", 1, 5), correct("correct", 1, 5);
  host_gpu::DeviceMemory workspace("workspace", index(nck_cuda_workspace(0, 7, 0)));
  const auto run = [&](std::int32_t reduction) {
    const nck_loss loss{ignored, 0, 0, 0, reduction};
    CHECK(nck_cuda_cross_entropy(nullptr, 0, 7, 7, NCK_FLOAT32, nullptr, nullptr, nullptr, &loss,
                                 nullptr, 0, nullptr, 0, losses.on_device(), nullptr,
                                 correct.on_device(), workspace.data(), nullptr) == NCK_OK);
    CHECK(nck_cross_entropy(nullptr, 0, 7, 7, NCK_FLOAT32, nullptr, nullptr, nullptr, &loss,
                            nullptr, 0, nullptr, 0, losses.on_host(), nullptr, correct.on_host(),
                            1) == NCK_OK);
    CHECK(has_no_faults());
  };
  for (const std::int32_t reduction : {NCK_NONE, NCK_SUM, NCK_MEAN}) {
    run(reduction);
    CHECK(are_near(*losses.on_device(), *losses.on_host(), 0, 0));
    CHECK(are_near(*correct.on_device(), *correct.on_host(), 0, 0));
  }
  CHECK(std::isnan(*losses.on_device()));
}

TEST_CASE(target_weights_equal_those_of_the_cpu) {
  Random random(5);
  for (int i = 0; i < scaled(12); ++i) {
    const std::int64_t rows = i == 0 ? 0 : 1 + random.below(3000), vocab = 1 + random.below(50);
    Array<std::int64_t> targets("targets", rows, ignored);
    Array<float> class_weights("class weights", vocab, 1), token_weights("token weights", rows, 1);
    for (std::int64_t row = 0; row < rows; ++row) {
      if (!random.one_in(5)) targets.set(row, random.below(vocab));
      token_weights.set(row, random.number(0, 2));
    }
    for (std::int64_t j = 0; j < vocab; ++j) class_weights.set(j, random.number(0, 2));
    const bool has_classes = random.one_in(2), has_tokens = random.one_in(2);
    host_gpu::DeviceMemory weight("weight", sizeof(float));
    double expected = 0;
    CHECK(nck_cuda_target_weight(targets.on_device(), rows, vocab, NCK_FLOAT32,
                                 has_classes ? class_weights.on_device() : nullptr,
                                 has_tokens ? token_weights.on_device() : nullptr, ignored,
                                 weight.data(), nullptr) == NCK_OK);
    CHECK(nck_target_weight(targets.on_host(), rows, vocab, NCK_FLOAT32,
                            has_classes ? class_weights.on_host() : nullptr,
                            has_tokens ? token_weights.on_host() : nullptr, ignored, &expected,
                            nullptr) == NCK_OK);
    CHECK(has_no_faults());
    CHECK(are_near(element(weight.data(), NCK_FLOAT32), expected, 1e-7, 0));
  }
}

}  // namespace

// The CUDA cross-entropy, run by the CPU and compared with the CPU's, on all paths: rows in
// registers, in a block, in a cluster, and streamed.
#include "cross_entropy_trial.hpp"

namespace {

using namespace cross_entropy;

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

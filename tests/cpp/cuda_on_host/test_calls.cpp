// Calls of the CUDA library around its kernels: failures of the CUDA runtime, and several threads
// of the program.
#include <cstring>
#include <thread>

#include "twins.hpp"

namespace {

using namespace twins;

// A call whose row takes shared memory in proportion to the vocabulary.
class Call {
 public:
  explicit Call(std::int64_t vocab)
      : layout_{NCK_FLOAT32, 1, vocab, 0, 0},
        logits_("logits", layout_),
        gradient_("gradient", layout_),
        target_("target", 1, 3),
        result_("loss", 1, 0),
        workspace_("workspace", index(nck_cuda_workspace(1, vocab, NCK_FLOAT32))) {
    logits_.fill([](auto, std::int64_t j) { return static_cast<float>(j % 7); });
  }

  std::int32_t run() {
    const nck_loss loss{-100, 0, 0, 0, NCK_SUM};
    return nck_cuda_cross_entropy(logits_.on_device(), 1, layout_.vocab, layout_.vocab, NCK_FLOAT32,
                                  target_.on_device(), nullptr, nullptr, &loss, nullptr, 0,
                                  gradient_.on_device(), layout_.vocab, result_.on_device(),
                                  nullptr, nullptr, workspace_.data(), nullptr);
  }
  float loss() { return *result_.on_device(); }

 private:
  Layout layout_;
  Matrix logits_, gradient_;
  Array<std::int64_t> target_;
  Array<float> result_;
  host_gpu::DeviceMemory workspace_;
};

TEST_CASE(a_failure_of_the_runtime_is_one_status_and_does_not_reach_the_next_call) {
  // Rows of one block and of a cluster: each call of the runtime that they make fails in turn.
  for (const int shared_bytes : {232448, 1024 + 4096}) {
    host_gpu::device().shared_bytes = shared_bytes;
    Call call(1500);
    int failures = 0;
    for (;; ++failures) {
      host_gpu::fail_after(failures);
      const std::int32_t status = call.run();
      const bool has_failed = status != NCK_OK;
      host_gpu::fail_after(-1);
      CHECK(cudaGetLastError() == cudaSuccess);
      if (!has_failed) break;
      CHECK(status == NCK_DEVICE);
      const std::string message = nck_cuda_last_error();
      CHECK(message.ends_with(": unknown error"));
      CHECK(call.run() == NCK_OK);
      CHECK(cudaGetLastError() == cudaSuccess);
    }
    CHECK(failures >= 7);
    CHECK(has_no_faults());
  }
  host_gpu::device() = {};
}

TEST_CASE(threads_that_launch_one_kernel_with_different_sizes_do_not_disturb_each_other) {
  // Both sizes are above the 48 KiB that need no permission.
  constexpr std::int64_t vocabs[] = {13000, 50000};
  const int calls = scaled(10);
  float alone[2];
  for (int i = 0; i < 2; ++i) {
    Call call(vocabs[i]);
    CHECK(call.run() == NCK_OK);
    alone[i] = call.loss();
  }
  std::thread threads[2];
  for (int i = 0; i < 2; ++i) {
    threads[i] = std::thread([&, i] {
      Call call(vocabs[i]);
      for (int repeat = 0; repeat < calls; ++repeat) {
        CHECK(call.run() == NCK_OK);
        CHECK(call.loss() == alone[i]);
      }
      CHECK(has_no_faults());
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(has_no_faults());
}

TEST_CASE(a_call_between_the_permission_and_the_launch_of_another_does_not_take_its_memory) {
  Call large(50000), small(13000);
  int between = 0;
  host_gpu::before_next_launch([&] { between += small.run() == NCK_OK ? 1 : 0; });
  CHECK(large.run() == NCK_OK);
  CHECK(between == 1);
  CHECK(has_no_faults());
}

}  // namespace

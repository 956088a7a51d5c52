// nck_cuda_cross_entropy and its workspace: checks arguments, chooses a kernel, reduces losses.
#include "kernels/cuda/checks.hpp"
#include "kernels/cuda/cross_entropy/cross_entropy.hpp"

namespace nanochat::kernels {
namespace {

// The workspace: the totals, then a loss and a correctness per row.
constexpr std::int64_t totals_bytes = 64;
static_assert(sizeof(Totals) <= totals_bytes);

std::int64_t workspace_bytes(std::int64_t rows) {
  return totals_bytes + 2 * rows * static_cast<std::int64_t>(sizeof(float));
}

void queue_rows(const CrossEntropyCall& call, cudaStream_t stream) {
  if (call.targets.vocab <= small_vocab) {
    queue_small_rows(call, stream);
  } else if (call.gradient == nullptr) {
    queue_streamed_rows(call, stream);
  } else if (fits_in_block(call)) {
    queue_block_rows(call, stream);
  } else if (fits_in_cluster(call)) {
    queue_cluster_rows(call, stream);
  } else {
    queue_streamed_rows(call, stream);
  }
}

// Queues the rows and the sums over them. Results of rows that are summed go to the workspace.
void queue_reduced(CrossEntropyCall call, std::int32_t reduction, void* workspace,
                   cudaStream_t stream) {
  auto* const totals = static_cast<Totals*>(workspace);
  float* const losses = call.losses;
  float* const correct = call.correct;
  const bool smooths = call.terms.smooth > 0 && call.terms.has_class_weights;
  call.is_mean = reduction == NCK_MEAN;
  if (call.is_mean || smooths) {
    queue_totals(call.targets, totals, stream);
    call.totals = totals;
  }
  if (reduction != NCK_NONE) {
    auto* const rows = reinterpret_cast<float*>(static_cast<char*>(workspace) + totals_bytes);
    if (losses != nullptr) call.losses = rows;
    if (correct != nullptr) call.correct = rows + call.targets.rows;
  }
  if (call.targets.rows > 0) queue_rows(call, stream);
  if (reduction == NCK_NONE) return;
  if (losses != nullptr) {
    queue_sum(call.losses, call.targets.rows, call.is_mean ? &totals->weight : nullptr, losses,
              stream);
  }
  if (correct != nullptr) {
    queue_sum(call.correct, call.targets.rows, call.is_mean ? &totals->counted : nullptr, correct,
              stream);
  }
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" {

std::int64_t nck_cuda_workspace(std::int64_t rows, std::int64_t /*vocab*/, std::int32_t /*dtype*/) {
  using namespace nanochat::kernels;
  // nck_cuda_sample takes the workspace too, but needs none.
  return rows < 0 || rows > most_rows ? workspace_bytes(0) : workspace_bytes(rows);
}

std::int32_t nck_cuda_cross_entropy(const void* logits, std::int64_t rows, std::int64_t vocab,
                                    std::int64_t row_stride, std::int32_t dtype,
                                    const std::int64_t* targets, const void* class_weights,
                                    const void* token_weights, const nck_loss* loss,
                                    const void* upstream, std::int64_t upstream_stride,
                                    void* gradient, std::int64_t gradient_stride, void* losses,
                                    void* log_sums, void* correct, void* workspace, void* stream) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_cuda_matrix("logits", logits, rows, vocab, row_stride, dtype);
    check_loss(loss);
    check_upstream_stride(upstream_stride);
    check_workspace(workspace);
    if (rows > 0) check_pointer(targets, "targets");
    if (gradient != nullptr) {
      check_cuda_matrix("gradient", gradient, rows, vocab, gradient_stride, dtype);
      check_apart("logits", logits, row_stride, "gradient", gradient, gradient_stride, rows, vocab,
                  dtype);
    }
    const CrossEntropyCall call{
        .logits = logits,
        .gradient = gradient,
        .row_stride = row_stride,
        .gradient_stride = gradient_stride,
        .dtype = dtype,
        .targets = {targets, rows, vocab, loss->ignore_index,
                    static_cast<const float*>(class_weights),
                    static_cast<const float*>(token_weights)},
        .upstream = static_cast<const float*>(upstream),
        .upstream_stride = upstream_stride,
        .terms = loss_terms(loss->label_smoothing, loss->z_loss, loss->softcap, vocab,
                            class_weights != nullptr),
        .totals = nullptr,
        .is_mean = false,
        .losses = static_cast<float*>(losses),
        .log_sums = static_cast<float*>(log_sums),
        .correct = static_cast<float*>(correct),
    };
    queue_reduced(call, loss->reduction, workspace, static_cast<cudaStream_t>(stream));
  });
}

}  // extern "C"

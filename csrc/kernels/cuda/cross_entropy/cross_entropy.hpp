// The cross-entropy of rows in four ways, chosen by how much of a row a group of threads can hold.
#ifndef NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_CROSS_ENTROPY_HPP_
#define NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_CROSS_ENTROPY_HPP_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cross_entropy/totals.hpp"
#include "kernels/row_arithmetic.hpp"

namespace nanochat::kernels {

// The arguments of a kernel; pointers as in abi.h.
struct CrossEntropyCall {
  const void* logits;
  void* gradient;  // or null
  std::int64_t row_stride, gradient_stride;
  std::int32_t dtype;
  Targets targets;
  const float* upstream;  // or null for ones
  std::int64_t upstream_stride;
  LossTerms terms;
  const Totals* totals;  // or null: mean_scale 1, class_sum vocab
  bool is_mean;
  float *losses, *log_sums, *correct;  // one per row, or null
};

inline bool is_plain(const LossTerms& terms) noexcept {
  return !(terms.smooth > 0) && !(terms.softcap > 0);
}

// Rows of at most this many logits fit in the registers of part of a warp.
inline constexpr std::int32_t small_vocab = 1024;
void queue_small_rows(const CrossEntropyCall& call, cudaStream_t stream);

// Rows that fit in the shared memory of one block; the logits are read once.
bool fits_in_block(const CrossEntropyCall& call);
void queue_block_rows(const CrossEntropyCall& call, cudaStream_t stream);

// Rows that fit in the shared memory of a cluster of blocks; the logits are read once.
bool fits_in_cluster(const CrossEntropyCall& call);
void queue_cluster_rows(const CrossEntropyCall& call, cudaStream_t stream);

// Rows of any size; with a gradient the logits are read twice.
void queue_streamed_rows(const CrossEntropyCall& call, cudaStream_t stream);

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_CROSS_ENTROPY_HPP_

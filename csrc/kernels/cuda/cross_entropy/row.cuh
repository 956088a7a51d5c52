// Shared by the cross-entropy kernels: a row's inputs, its sums over slots and threads, and its
// results. The arithmetic is in row_arithmetic.hpp.
#ifndef NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_ROW_CUH_
#define NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_ROW_CUH_

#include <type_traits>

#include "kernels/cuda/cross_entropy/cross_entropy.hpp"
#include "kernels/cuda/slots.cuh"
#include "kernels/cuda/warp.cuh"

namespace nanochat::kernels {

// The sums over a row.
struct RowSums {
  RowSum sum;
  float deviations;  // Σ c · (z − pivot), with label smoothing
};

template <class S, bool is_plain>
__device__ inline RowSums merged_sums(const RowSums& a, const RowSums& b) {
  return {merged<S::is_fast>(a.sum, b.sum), is_plain ? 0.0f : a.deviations + b.deviations};
}

// Sums over groups of `lanes` neighboring lanes, a power of two. All lanes get the same bits.
template <class S, bool is_plain>
__device__ inline RowSums sum_over_lanes(RowSums own, int lanes) {
  for (int other = lanes / 2; other > 0; other /= 2) {
    RowSums far{};
    far.sum.maximum = __shfl_xor_sync(whole_warp, own.sum.maximum, other);
    far.sum.rest = __shfl_xor_sync(whole_warp, own.sum.rest, other);
    far.sum.first = __shfl_xor_sync(whole_warp, own.sum.first, other);
    if constexpr (!is_plain) far.deviations = __shfl_xor_sync(whole_warp, own.deviations, other);
    own = merged_sums<S, is_plain>(own, far);
  }
  return own;
}

// Sums over a block of whole warps. shared: one element per warp.
template <class S, bool is_plain>
__device__ inline RowSums sum_over_block(RowSums own, RowSums* shared) {
  own = sum_over_lanes<S, is_plain>(own, warp_lanes);
  const unsigned lane = threadIdx.x % warp_lanes;
  if (lane == 0) shared[threadIdx.x / warp_lanes] = own;
  __syncthreads();
  const bool is_warp = lane < blockDim.x / warp_lanes;
  return sum_over_lanes<S, is_plain>(is_warp ? shared[lane] : RowSums{empty_sum(), 0.0f},
                                     warp_lanes);
}

// One row of a call. is_plain: neither label smoothing nor a soft-cap.
template <class S, bool is_plain>
class LossRow {
 public:
  static constexpr int elements = slot_elements<S>;

  __device__ LossRow(const CrossEntropyCall& call, std::int64_t row)
      : call_(call),
        row_(row),
        logits_(static_cast<const typename S::Bits*>(call.logits) + row * call.row_stride),
        slots_(logits_, vocab()),
        target_(call.targets.ids[row]),
        kind_(row_kind(target_, call.targets.vocab, call.targets.ignore_index)) {
    if (kind_ == RowKind::token) z_target_ = capped_logit(S::to_float(logits_[target_]));
  }

  __device__ const Slots<S>& slots() const { return slots_; }
  __device__ bool has_token() const { return kind_ == RowKind::token; }
  __device__ bool has_gradient() const { return call_.gradient != nullptr; }

  __device__ void add(RowSums& sums, const uint4& raw, std::int32_t slot) const {
    float z[elements];
    values(raw, slot, z);
    const std::int32_t index = slots_.index(slot);
    sums.sum = with_elements<S::is_fast>(sums.sum, z, index, vocab());
    if constexpr (!is_plain) {
      if (call_.terms.smooth > 0.0f) {
        sums.deviations += deviations_of(z, index, vocab(), z_target_, call_.targets.class_weights);
      }
    }
  }

  // Returns the gradient's factors. Call it when all threads of the row have read its logits;
  // `writes` is true in one of them.
  __device__ RowSlopes finish(const RowSums& sums, bool writes) const {
    const RowOutcome outcome =
        finish_row(call_.terms, weights(), sums.sum, z_target_, sums.deviations);
    if (writes) write(outcome.loss, outcome.log_sum, sums.sum.first == target_);
    return outcome.slopes;
  }

  // The loss and the gradient of a row whose target is not a token.
  __device__ float finish_empty(bool writes) const {
    const float value = kind_ == RowKind::ignored ? 0.0f : float_nan;
    if (writes) write(value, value, false);
    return value;
  }

  __device__ Slots<S> gradient() const {
    auto* const all = static_cast<typename S::Bits*>(call_.gradient);
    return Slots<S>(all + row_ * call_.gradient_stride, vocab(), slots_.phase());
  }

  __device__ uint4 differentiate(const uint4& raw, std::int32_t slot,
                                 const RowSlopes& slopes) const {
    float z[elements];
    values(raw, slot, z);
    differentiate_elements<S::is_fast, is_plain>(z, slots_.index(slot), vocab(), target_, slopes,
                                                 call_.terms, call_.targets.class_weights);
    return packed<S>(z);
  }

 private:
  __device__ std::int32_t vocab() const { return static_cast<std::int32_t>(call_.targets.vocab); }

  __device__ float capped_logit(float logit) const {
    if constexpr (is_plain) return logit;
    if (!(call_.terms.softcap > 0.0f)) return logit;
    return capped(logit, call_.terms.softcap, call_.terms.inverse_cap);
  }

  __device__ void values(const uint4& raw, std::int32_t slot, float (&z)[elements]) const {
    unpack<S>(raw, z);
    cap_elements<is_plain>(z, slots_.index(slot), vocab(), call_.terms);
  }

  __device__ RowWeights weights() const {
    const float token = value_or_one(call_.targets.token_weights, row_);
    const float upstream = value_or_one(call_.upstream, row_ * call_.upstream_stride);
    const float scale = call_.is_mean ? call_.totals->mean_scale : 1.0f;
    const float classes =
        call_.totals == nullptr ? static_cast<float>(vocab()) : call_.totals->class_sum;
    return {value_or_one(call_.targets.class_weights, target_), token, token * upstream * scale,
            classes};
  }

  __device__ void write(float loss, float log_sum, bool is_correct) const {
    if (call_.losses != nullptr) call_.losses[row_] = loss;
    if (call_.log_sums != nullptr) call_.log_sums[row_] = log_sum;
    if (call_.correct != nullptr) call_.correct[row_] = is_correct ? 1.0f : 0.0f;
  }

  const CrossEntropyCall& call_;
  std::int64_t row_;
  const typename S::Bits* logits_;
  Slots<S> slots_;
  std::int64_t target_;
  RowKind kind_;
  float z_target_ = 0.0f;
};

// Fills the gradient of a row whose target is not a token. first, step: the slots of this thread.
template <class S, bool is_plain>
__device__ inline void fill_gradient(const LossRow<S, is_plain>& row, float value,
                                     std::int32_t first, std::int32_t step) {
  if (!row.has_gradient()) return;
  float z[slot_elements<S>];
#pragma unroll
  for (float& each : z) each = value;
  const uint4 raw = packed<S>(z);
  const Slots<S> gradient = row.gradient();
  for (std::int32_t slot = first; slot < row.slots().count(); slot += step) {
    gradient.store(slot, raw);
  }
}

// Calls body(storage, is_plain) with the types of a call's variant.
template <class Body>
void with_variant(const CrossEntropyCall& call, const Body& body) {
  with_storage(call.dtype, [&](auto storage) {
    if (is_plain(call.terms)) {
      body(storage, std::true_type{});
    } else {
      body(storage, std::false_type{});
    }
  });
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CUDA_CROSS_ENTROPY_ROW_CUH_

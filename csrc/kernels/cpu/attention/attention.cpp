// nck_attention and nck_attention_backward: check the arguments and share the heads among threads.
#include "kernels/cpu/attention/attention.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// Checks the per-token indices: positions and starts.
void check_tokens(const Attention& call) {
  const std::int64_t length = call.shape.sequence_length;
  for (std::int64_t t = 0; t < call.shape.rows * length; ++t) {
    if (call.cosines != nullptr &&
        (call.positions[t] < 0 || call.positions[t] >= call.shape.angle_rows)) {
      throw Failure(NCK_ARGUMENT, "positions must be in [0, %lld) for token %lld, got %lld",
                    static_cast<long long>(call.shape.angle_rows), static_cast<long long>(t),
                    static_cast<long long>(call.positions[t]));
    }
    if (call.starts == nullptr) continue;
    const std::int64_t column = t % length, start = call.starts[t];
    const std::int64_t least = column == 0 ? 0 : call.starts[t - 1];
    if (start < least || start > column) {
      throw Failure(NCK_ARGUMENT, "starts must be in [%lld, %lld] for token %lld, got %lld",
                    static_cast<long long>(least), static_cast<long long>(column),
                    static_cast<long long>(t), static_cast<long long>(start));
    }
  }
}

Attention checked(const nck_attention_shape* shape, const void* qkv, const void* cosines,
                  const void* sines, const std::int64_t* positions, const std::int64_t* starts,
                  std::int32_t threads) {
  check_pointer(shape, "shape");
  element_bytes(shape->dtype);
  check_range("rows", shape->rows, 0, std::int64_t{1} << 31U);
  check_range("sequence_length", shape->sequence_length, 1, std::int64_t{1} << 12U);
  check_range("heads", shape->heads, 1, std::int64_t{1} << 10U);
  check_range("head_dim", shape->head_dim, 1, std::int64_t{1} << 10U);
  if (shape->normed != 0 && !(shape->eps > 0 && shape->eps <= 1)) {
    throw Failure(NCK_ARGUMENT, "eps must be above 0 and at most 1, got %g", shape->eps);
  }
  check_threads(threads);
  const Attention call{*shape, qkv, cosines, sines, positions, starts, nullptr, nullptr};
  if (shape->rows == 0) return call;
  check_pointer(qkv, "qkv");
  if (cosines != nullptr) {
    check_pointer(sines, "sines");
    check_pointer(positions, "positions");
    // At most as many as for which the offsets fit in 63 bits.
    check_range("angle_rows", shape->angle_rows, 1, std::int64_t{1} << 48U);
    if (shape->head_dim % 2 != 0) {
      throw Failure(NCK_ARGUMENT, "head_dim must be even for a rotation, got %lld",
                    static_cast<long long>(shape->head_dim));
    }
  }
  check_tokens(call);
  return call;
}

// Bytes of working space per head: eight matrices of length × head_dim, two of length × length, and
// two rows. Each row is rounded up to vectors of 64 bytes.
std::size_t workspace_bytes(const nck_attention_shape& shape) noexcept {
  const std::int64_t bytes = shape.dtype == NCK_FLOAT64 ? 8 : 4, lanes = 64 / bytes;
  const auto room = [lanes](std::int64_t count) { return (count + lanes - 1) / lanes * lanes; };
  const std::int64_t size = room(shape.head_dim), length = room(shape.sequence_length);
  return static_cast<std::size_t>(bytes *
                                  (7 * shape.sequence_length * size + shape.head_dim * length +
                                   2 * shape.sequence_length * length + 2 * length));
}

using Kernel = void (*)(const Attention&, std::int64_t row, std::int64_t head,
                        void* scratch) noexcept;

void run(const Attention& call, Kernel kernel, std::int32_t threads) {
  const std::size_t bytes = workspace_bytes(call.shape);
  std::atomic<bool> has_memory{true};
  parallel_for(call.shape.rows * call.shape.heads, 1, threads,
               [&](std::int64_t index, std::int64_t) {
                 void* const memory = scratch(bytes);
                 if (memory == nullptr) {
                   has_memory = false;
                   return;
                 }
                 kernel(call, index / call.shape.heads, index % call.shape.heads, memory);
               });
  if (!has_memory) throw std::bad_alloc();
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_attention(const nck_attention_shape* shape, const void* qkv,
                                      const void* cosines, const void* sines,
                                      const std::int64_t* positions, const std::int64_t* starts,
                                      void* mixed, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    Attention call = checked(shape, qkv, cosines, sines, positions, starts, threads);
    if (shape->rows == 0) return;
    check_pointer(mixed, "mixed");
    call.result = mixed;
    run(call, tables().attention->forward[shape->dtype], threads);
  });
}

extern "C" std::int32_t nck_attention_backward(const nck_attention_shape* shape, const void* qkv,
                                               const void* cosines, const void* sines,
                                               const std::int64_t* positions,
                                               const std::int64_t* starts, const void* gradient,
                                               void* result, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    Attention call = checked(shape, qkv, cosines, sines, positions, starts, threads);
    if (shape->rows == 0) return;
    check_pointer(gradient, "gradient");
    check_pointer(result, "result");
    call.gradient = gradient;
    call.result = result;
    run(call, tables().attention->backward[shape->dtype], threads);
  });
}

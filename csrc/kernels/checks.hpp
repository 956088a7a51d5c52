// Checks of arguments, before a call reads or writes memory, for both devices.
#ifndef NANOCHAT_KERNELS_CHECKS_HPP_
#define NANOCHAT_KERNELS_CHECKS_HPP_

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/status.hpp"

namespace nanochat::kernels {

inline void check_pointer(const void* pointer, const char* name) {
  if (pointer == nullptr) throw Failure(NCK_ARGUMENT, "%s must not be NULL", name);
}

inline void check_range(const char* name, std::int64_t value, std::int64_t least,
                        std::int64_t most) {
  if (value >= least && value <= most) return;
  throw Failure(NCK_ARGUMENT, "%s must be in [%lld, %lld], got %lld", name,
                static_cast<long long>(least), static_cast<long long>(most),
                static_cast<long long>(value));
}

inline std::int64_t element_bytes(std::int32_t dtype) {
  switch (dtype) {
    case NCK_FLOAT32:
      return 4;
    case NCK_FLOAT64:
      return 8;
    case NCK_BFLOAT16:
    case NCK_FLOAT16:
      return 2;
    default:
      throw Failure(NCK_ARGUMENT, "dtype must be one of NCK_FLOAT32 … NCK_FLOAT16, got %d", dtype);
  }
}

// Lane numbers must fit in 32 bits.
inline constexpr std::int64_t most_vocab = std::int64_t{1} << 30U;

// Checks that rows ≥ 0, vocab is in [1, 2³⁰], stride ≥ vocab if there is a second row, and that
// offsets fit in 63 bits.
inline void check_matrix(const char* name, const void* data, std::int64_t rows, std::int64_t vocab,
                         std::int64_t stride, std::int32_t dtype) {
  const std::int64_t bytes = element_bytes(dtype);
  if (rows < 0) throw Failure(NCK_ARGUMENT, "rows must be at least 0, got %lld", (long long)rows);
  if (vocab < 1 || vocab > most_vocab) {
    throw Failure(NCK_ARGUMENT, "vocab must be in [1, 2^30], got %lld", (long long)vocab);
  }
  if (rows > 1 && stride < vocab) {
    throw Failure(NCK_ARGUMENT, "stride of %s must be at least vocab %lld, got %lld", name,
                  (long long)vocab, (long long)stride);
  }
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  if (rows > 1 && stride > (most / bytes - vocab) / (rows - 1)) {
    throw Failure(NCK_ARGUMENT, "%s of %lld rows of %lld are beyond 63 bits of address", name,
                  (long long)rows, (long long)vocab);
  }
  if (rows > 0) check_pointer(data, name);
}

// Beyond these limits, 1 / softcap or logit / softcap may not be a normal float.
inline void check_softcap(double softcap) {
  if (softcap != 0 && !(softcap >= 1e-30 && softcap <= 1e30)) {
    throw Failure(NCK_ARGUMENT, "softcap must be 0 or in [1e-30, 1e30], got %g", softcap);
  }
}

inline void check_loss(const nck_loss* loss) {
  check_pointer(loss, "loss");
  if (!(loss->label_smoothing >= 0 && loss->label_smoothing <= 1)) {
    throw Failure(NCK_ARGUMENT, "label_smoothing must be in [0, 1], got %g", loss->label_smoothing);
  }
  if (!(loss->z_loss >= 0) || std::isinf(loss->z_loss)) {
    throw Failure(NCK_ARGUMENT, "z_loss must be finite and at least 0, got %g", loss->z_loss);
  }
  check_softcap(loss->softcap);
  if (loss->reduction < NCK_NONE || loss->reduction > NCK_SUM) {
    throw Failure(NCK_ARGUMENT, "reduction must be NCK_NONE, NCK_MEAN or NCK_SUM, got %d",
                  loss->reduction);
  }
}

inline void check_upstream_stride(std::int64_t stride) {
  if (stride != 0 && stride != 1) {
    throw Failure(NCK_ARGUMENT, "upstream_stride must be 0 or 1, got %lld", (long long)stride);
  }
}

inline void check_scale(double scale) {
  if (!std::isfinite(scale)) throw Failure(NCK_ARGUMENT, "scale must be finite, got %g", scale);
}

inline void check_threads(std::int32_t threads) {
  if (threads < 1) throw Failure(NCK_ARGUMENT, "threads must be at least 1, got %d", threads);
}

[[noreturn]] inline void refuse_target(std::int64_t row, std::int64_t target, std::int64_t vocab,
                                       std::int64_t ignore_index) {
  throw Failure(NCK_TARGET,
                "target of row %lld must be in [0, %lld) or ignore_index %lld, got %lld",
                (long long)row, (long long)vocab, (long long)ignore_index, (long long)target);
}

// Checks that `b` is `a` or does not overlap it.
inline void check_apart(const char* a_name, const void* a, std::int64_t a_stride,
                        const char* b_name, const void* b, std::int64_t b_stride, std::int64_t rows,
                        std::int64_t vocab, std::int32_t dtype) {
  if (rows == 0 || (a == b && (rows == 1 || a_stride == b_stride))) return;
  const auto span = [&](std::int64_t stride) {
    return static_cast<std::uintptr_t>(((rows - 1) * stride + vocab) * element_bytes(dtype));
  };
  const auto a_first = reinterpret_cast<std::uintptr_t>(a);
  const auto b_first = reinterpret_cast<std::uintptr_t>(b);
  if (a_first < b_first + span(b_stride) && b_first < a_first + span(a_stride)) {
    throw Failure(NCK_ARGUMENT,
                  "%s must be %s, with the same stride, or lie apart; they overlap, %lld bytes from"
                  " first to first",
                  b_name, a_name, static_cast<long long>(b_first - a_first));
  }
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CHECKS_HPP_

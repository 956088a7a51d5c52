// nck_scale_rows: checks the arguments and shares the rows among threads.
#include "kernels/cpu/scale_rows/scale_rows.hpp"

#include <algorithm>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

extern "C" std::int32_t nck_scale_rows(const void* matrix, std::int64_t rows, std::int64_t vocab,
                                       std::int64_t row_stride, std::int32_t dtype,
                                       const void* upstream, std::int64_t upstream_stride,
                                       void* result, std::int64_t result_stride,
                                       std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("matrix", matrix, rows, vocab, row_stride, dtype);
    check_matrix("result", result, rows, vocab, result_stride, dtype);
    check_apart("matrix", matrix, row_stride, "result", result, result_stride, rows, vocab, dtype);
    check_upstream_stride(upstream_stride);
    check_threads(threads);
    if (rows > 0) check_pointer(upstream, "upstream");
    const auto kernel = tables().scale_rows->rows[dtype];
    const ScaleRows call{matrix,          vocab,  row_stride,   upstream,
                         upstream_stride, result, result_stride};
    constexpr std::int64_t chunk_elements = 65536;
    parallel_for(rows, std::max<std::int64_t>(chunk_elements / vocab, 1), threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

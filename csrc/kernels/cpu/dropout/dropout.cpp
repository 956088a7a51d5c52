// nck_draw_masks and nck_dropout: check the arguments and share bytes or rows among threads.
#include "kernels/cpu/dropout/dropout.hpp"

#include <algorithm>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

// The fewest elements for which a thread is worth its start, and the mask bytes that take as long
// to draw. Chunks of bytes start at multiples of 8.
constexpr std::int64_t chunk_elements = 16384, chunk_bytes = 4096;
constexpr std::int64_t most_word = 0xffffffff, most_half = 0xffff;

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_draw_masks(std::int64_t seed, std::int64_t step,
                                       std::int64_t microbatch, std::int64_t rank,
                                       std::int64_t places, std::int64_t rows,
                                       std::int64_t hidden_size, std::int64_t kept,
                                       std::uint8_t* masks, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_range("seed", seed, 0, most_word);
    check_range("step", step, 0, most_word);
    check_range("microbatch", microbatch, 0, most_word);
    check_range("rank", rank, 0, most_half);
    check_range("places", places, 0, most_half + 1);
    check_range("hidden_size", hidden_size, 1, most_vocab);
    const std::int64_t row_bytes = (hidden_size + 7) / 8;
    check_range("rows", rows, 0, (most_word + 1) / row_bytes);
    check_range("kept", kept, 1, most_half + 1);
    check_threads(threads);
    const std::int64_t bytes = rows * row_bytes;
    if (places * bytes == 0) return;
    check_pointer(masks, "masks");
    const auto draw = tables().dropout->draw;
    const DropoutMasks call{static_cast<std::uint32_t>(seed),
                            static_cast<std::uint32_t>(step),
                            static_cast<std::uint32_t>(microbatch),
                            static_cast<std::uint32_t>(rank),
                            static_cast<std::uint32_t>(kept - 1),
                            bytes,
                            masks};
    const std::int64_t chunks = (bytes + chunk_bytes - 1) / chunk_bytes;
    parallel_for(places * chunks, 1, threads, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t start = i % chunks * chunk_bytes;
        draw(call, static_cast<std::uint32_t>(i / chunks), start,
             std::min(start + chunk_bytes, bytes));
      }
    });
  });
}

extern "C" std::int32_t nck_dropout(const void* x, const void* onto, const std::uint8_t* mask,
                                    std::int64_t rows, std::int64_t hidden_size, std::int32_t dtype,
                                    double scale, void* result, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_matrix("x", x, rows, hidden_size, hidden_size, dtype);
    check_scale(scale);
    check_threads(threads);
    if (rows == 0) return;
    check_pointer(mask, "mask");
    check_pointer(result, "result");
    const auto kernel = tables().dropout->apply[dtype];
    const Dropout call{x, onto, mask, hidden_size, scale, result};
    parallel_for(rows, std::max<std::int64_t>(chunk_elements / hidden_size, 1), threads,
                 [&](std::int64_t first, std::int64_t last) { kernel(call, first, last); });
  });
}

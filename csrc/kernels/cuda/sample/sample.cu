// nck_cuda_sample: one block per row. Compiled without fused multiply-add (see CMakeLists.txt),
// because the draw must be bit-identical to its specification.
#include <cmath>

#include "kernels/cuda/checks.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/slots.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/draw_selection.hpp"
#include "kernels/philox.hpp"

namespace nanochat::kernels {
namespace {

constexpr int most_threads = 1024;
constexpr int loads_in_flight = 4;  // per thread
constexpr std::int64_t most_draw_vocab = std::int64_t{1} << 20U;

struct Shared {
  std::uint32_t low[draw_bins], high[draw_bins];
  std::uint64_t pieces[draw_pieces];
  std::int32_t largest[most_threads / warp_lanes];
};

__device__ std::uint64_t sum_over_warp(std::uint64_t own) {
  for (int other = warp_lanes / 2; other > 0; other /= 2) {
    own += __shfl_xor_sync(whole_warp, own, other);
  }
  return own;
}

// Calls visit(i, read(i)) for i = first, first + step, … below end. Several reads precede the
// visits.
template <class Read, class Visit>
__device__ void visit_all(std::int32_t first, std::int32_t end, std::int32_t step, const Read& read,
                          const Visit& visit) {
  for (std::int32_t begin = first; begin < end; begin += loads_in_flight * step) {
    decltype(read(0)) values[loads_in_flight];
#pragma unroll
    for (int i = 0; i < loads_in_flight; ++i) {
      const std::int32_t at = begin + i * step;
      values[i] = read(at < end ? at : begin);
    }
#pragma unroll
    for (int i = 0; i < loads_in_flight; ++i) {
      const std::int32_t at = begin + i * step;
      if (at < end) visit(at, values[i]);
    }
  }
}

// A block of threads as the Team of draw_selection.hpp.
class Block {
 public:
  __device__ explicit Block(Shared& shared) : shared_(shared) {}

  template <class Read, class Visit>
  __device__ void each(std::int32_t count, const Read& read, const Visit& visit) {
    visit_all(thread(), count, threads(), read, visit);
    __syncthreads();
  }

  template <class Read>
  __device__ std::int32_t largest(std::int32_t count, const Read& read) {
    std::int32_t own = order_of_minus_infinity;
    visit_all(thread(), count, threads(), read,
              [&](std::int32_t, std::int32_t order) { own = max(own, order); });
    own = __reduce_max_sync(whole_warp, own);
    if (lane() == 0) shared_.largest[warp()] = own;
    __syncthreads();
    own = lane() < warps() ? shared_.largest[lane()] : order_of_minus_infinity;
    return __reduce_max_sync(whole_warp, own);
  }

  template <class Read, class Value>
  __device__ std::uint64_t parts(std::int32_t begin, std::int32_t end, std::int32_t size,
                                 const Read& read, const Value& value) {
    __syncthreads();  // all threads have read the sums of the previous call
    for (std::int32_t piece = warp(); piece < draw_pieces; piece += warps()) {
      const std::int32_t first = begin + piece * size;
      std::uint64_t own = 0;
      using Input = decltype(read(0));
      visit_all(first + lane(), min(first + size, end), warp_lanes, read,
                [&](std::int32_t i, Input input) { own += value(i, input); });
      own = sum_over_warp(own);
      if (lane() == 0) shared_.pieces[piece] = own;
    }
    __syncthreads();
    return sum_over_warp(shared_.pieces[lane()]);
  }

  __device__ Found locate(std::uint64_t target) const {
    std::uint64_t sum = shared_.pieces[lane()];
    for (int below = 1; below < warp_lanes; below *= 2) {
      const std::uint64_t other = __shfl_up_sync(whole_warp, sum, below);
      if (lane() >= below) sum += other;
    }
    const int passed = __popc(__ballot_sync(whole_warp, sum <= target));
    const int piece = min(passed, draw_pieces - 1);
    const std::uint64_t before = __shfl_sync(whole_warp, sum, max(piece - 1, 0));
    return {piece, piece == 0 ? 0 : before};
  }

  __device__ void clear_bins() {
    __syncthreads();  // all threads have read the bins of the previous round
    for (std::int32_t i = thread(); i < draw_bins; i += threads()) {
      shared_.low[i] = shared_.high[i] = 0;
    }
    __syncthreads();
  }
  __device__ void add_to_bin(std::uint32_t bin, std::uint64_t value) {
    add_split(&shared_.low[bin], &shared_.high[bin], value,
              [](std::uint32_t* word, std::uint32_t amount) { return atomicAdd(word, amount); });
  }
  __device__ std::uint64_t bin(std::int32_t i) const {
    return std::uint64_t{shared_.high[i]} << 32U | shared_.low[i];
  }

 private:
  __device__ static std::int32_t thread() { return static_cast<std::int32_t>(threadIdx.x); }
  __device__ static std::int32_t threads() { return static_cast<std::int32_t>(blockDim.x); }
  __device__ static std::int32_t lane() { return thread() % warp_lanes; }
  __device__ static std::int32_t warp() { return thread() / warp_lanes; }
  __device__ static std::int32_t warps() { return threads() / warp_lanes; }

  Shared& shared_;
};

struct Sample {
  const void* logits;
  std::int64_t row_stride;
  std::int32_t vocab;
  const std::uint64_t* random;
  const std::int64_t* state;
  const std::int64_t* items;
  DrawOptions options;
  std::int64_t* tokens;
};

__device__ std::uint64_t random_of(const Sample& call, std::int64_t row) {
  if (call.random != nullptr) return call.random[row];
  const std::int64_t item = call.items == nullptr ? call.state[1] + row : call.items[row];
  return random_u64(static_cast<std::uint64_t>(call.state[0]), sampling_stream,
                    static_cast<std::uint64_t>(item), static_cast<std::uint64_t>(call.state[2]));
}

template <class S>
__global__ void __launch_bounds__(most_threads) sample_rows(const __grid_constant__ Sample call) {
  __shared__ Shared shared;
  Block block(shared);
  const std::int64_t row = blockIdx.x;
  const auto* const logits =
      static_cast<const typename S::Bits*>(call.logits) + row * call.row_stride;
  const std::int64_t token = draw_token(
      block, call.vocab, [logits](std::int32_t i) { return S::to_float(logits[i]); },
      random_of(call, row), call.options);
  if (threadIdx.x == 0) call.tokens[row] = token;
}

void check_draw(double temperature, std::int64_t top_k, double top_p) {
  if (!(temperature >= 0) || std::isinf(temperature)) {
    throw Failure(NCK_ARGUMENT, "temperature must be finite and >= 0, got %g", temperature);
  }
  if (top_k < 0) {
    throw Failure(NCK_ARGUMENT, "top_k must be at least 0, got %lld", (long long)top_k);
  }
  if (!(top_p > 0 && top_p <= 1)) {
    throw Failure(NCK_ARGUMENT, "top_p must be in (0, 1], got %g", top_p);
  }
}

int threads_for(std::int32_t vocab) {
  return vocab <= 2048 ? 128 : vocab <= 8192 ? 512 : most_threads;
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" std::int32_t nck_cuda_sample(const void* logits, std::int64_t rows, std::int64_t vocab,
                                        std::int64_t row_stride, std::int32_t dtype,
                                        const std::uint64_t* random, const std::int64_t* state,
                                        const std::int64_t* items, double temperature,
                                        std::int64_t top_k, double top_p, std::int64_t* tokens,
                                        void* /*workspace*/, void* stream) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_cuda_matrix("logits", logits, rows, vocab, row_stride, dtype);
    check_draw(temperature, top_k, top_p);
    if (vocab > most_draw_vocab) {
      throw Failure(NCK_ARGUMENT, "vocab must be at most 2^20 to draw, got %lld", (long long)vocab);
    }
    if (rows == 0) return;
    if (random == nullptr) check_pointer(state, "state, where random is NULL,");
    check_pointer(tokens, "tokens");
    const Sample call{logits, row_stride, static_cast<std::int32_t>(vocab),        random,
                      state,  items,      draw_options(temperature, top_k, top_p), tokens};
    with_storage(dtype, [&](auto storage) {
      launch("kernel of the draw", sample_rows<decltype(storage)>,
             Grid{rows, threads_for(call.vocab)}, static_cast<cudaStream_t>(stream), call);
    });
  });
}

// nck_open_decoder, nck_decode, nck_decode_rows, nck_close_decoder: check the arguments, pack the
// matrices, own the cache, and share the rows among threads. The computation of a token is in
// rows.cpp.
#include "kernels/cpu/decode/decode.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>
#include <vector>

#include "kernels/cpu/decode/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

std::int64_t round_up(std::int64_t count, std::int64_t unit) {
  return (count + unit - 1) / unit * unit;
}

struct GiveBack {
  void operator()(std::byte* memory) const noexcept { nck_give_buffer(memory); }
};
using Memory = std::unique_ptr<std::byte[], GiveBack>;

// From the store of large buffers: a sample is often followed by another, and huge pages are read
// faster.
Memory take_memory(std::int64_t bytes) {
  void* memory = nullptr;
  if (nck_take_buffer(bytes, &memory) != NCK_OK) throw std::bad_alloc();
  return Memory(static_cast<std::byte*>(memory));
}

// Packs matrices one after another, in the order of their use.
class Packer {
 public:
  Packer(const DecodeTable& table, std::int32_t dtype)
      : pack_(table.pack[dtype]),
        element_bytes_(element_bytes(dtype)),
        panel_outputs_(2 * table.vector_bytes / (dtype == NCK_FLOAT64 ? 8 : 4)) {}

  std::int64_t bytes(std::int64_t outputs, std::int64_t inputs) const {
    return round_up(round_up(outputs, panel_outputs_) * inputs * element_bytes_, 64);
  }
  void begin(std::byte* memory) { next_ = memory; }
  const void* packed(const void* matrix, std::int64_t outputs, std::int64_t inputs) {
    void* const to = next_;
    pack_(matrix, outputs, inputs, to);
    next_ += bytes(outputs, inputs);
    return to;
  }

 private:
  void (*pack_)(const void*, std::int64_t, std::int64_t, void*) noexcept;
  std::int64_t element_bytes_, panel_outputs_;
  std::byte* next_ = nullptr;
};

}  // namespace
}  // namespace nanochat::kernels

namespace nanochat::kernels {

// The rows that read, and what they read; see nck_decode_rows.
struct RowsToRead {
  const std::int64_t* rows;
  std::int64_t count;
  const std::int64_t* tokens;
  std::int64_t length;
  const std::int64_t* firsts;
};

}  // namespace nanochat::kernels

struct nck_decoder {
 public:
  nck_decoder(const nck_gpt& model, std::int64_t rows)
      : table_(*nanochat::kernels::tables().decode),
        dtype_(model.dtype),
        accum_bytes_(dtype_ == NCK_FLOAT64 ? 8 : 4) {
    describe(model, rows);
    pack(model);
    make_caches();
    const std::int64_t half = model_.rotates ? model_.head_dim / 2 : 0;
    for (std::int64_t i = 0; i < half; ++i) {
      const double part = static_cast<double>(i) / static_cast<double>(half);
      frequencies_.push_back(std::pow(model.rope_base, -part));
    }
    previous_tokens_.resize(static_cast<std::size_t>(rows * model_.lookback), -1);
    read_.resize(static_cast<std::size_t>(rows));
    firsts_.resize(static_cast<std::size_t>(rows));
    all_rows_.resize(static_cast<std::size_t>(rows));
    std::iota(all_rows_.begin(), all_rows_.end(), 0);
  }

  // All rows, at one position. Valid until the next call.
  nanochat::kernels::RowsToRead all_rows(const std::int64_t* tokens, std::int64_t length,
                                         std::int64_t first) noexcept {
    std::fill(firsts_.begin(), firsts_.end(), first);
    return {all_rows_.data(), model_.rows, tokens, length, firsts_.data()};
  }

  // These rows, at their positions; without firsts, after what they have read. Valid until the next
  // call.
  nanochat::kernels::RowsToRead some_rows(const std::int64_t* rows, std::int64_t count,
                                          const std::int64_t* tokens, std::int64_t length,
                                          const std::int64_t* firsts) noexcept {
    for (std::int64_t i = 0; firsts == nullptr && i < count; ++i) {
      firsts_[index(i)] = read_[index(rows[i])];
    }
    return {rows, count, tokens, length, firsts == nullptr ? firsts_.data() : firsts};
  }

  void check_rows(const std::int64_t* rows, std::int64_t count) const {
    using namespace nanochat::kernels;
    check_range("count", count, 1, model_.rows);
    for (std::int64_t i = 0; i < count; ++i) {
      check_range("rows", rows[i], 0, model_.rows - 1);
      if (i > 0 && rows[i] <= rows[i - 1]) {
        throw Failure(NCK_ARGUMENT, "rows must ascend, got %lld after %lld",
                      static_cast<long long>(rows[i]), static_cast<long long>(rows[i - 1]));
      }
    }
  }

  void check_step(const nanochat::kernels::RowsToRead& step) const {
    using namespace nanochat::kernels;
    check_range("length", step.length, 1, model_.block_size);
    const bool rolls = step.length == 1 && model_.wpe == nullptr;
    for (std::int64_t i = 0; i < step.count; ++i) {
      const std::int64_t first = step.firsts[i], read = read_[index(step.rows[i])];
      if (first != 0 && first != read) {
        throw Failure(NCK_ARGUMENT, "first must be 0 or the %lld tokens that were read, got %lld",
                      static_cast<long long>(read), static_cast<long long>(first));
      }
      if (!rolls && first > model_.block_size - step.length) {
        throw Failure(NCK_ARGUMENT, "first + length must be at most block_size %lld, got %lld",
                      static_cast<long long>(model_.block_size),
                      static_cast<long long>(first + step.length));
      }
    }
    for (std::int64_t i = 0; i < step.count * step.length; ++i) {
      if (step.tokens[i] < 0 || step.tokens[i] >= model_.vocab) {
        throw Failure(NCK_ARGUMENT, "token %lld of row %lld must be in [0, %lld), got %lld",
                      static_cast<long long>(i % step.length),
                      static_cast<long long>(step.rows[i / step.length]),
                      static_cast<long long>(model_.vocab), static_cast<long long>(step.tokens[i]));
      }
    }
  }

  void run(const nanochat::kernels::RowsToRead& step, void* logits, int threads) {
    using namespace nanochat::kernels;
    // What this thread may fail to allocate comes before any change of what was read.
    if (scratch(scratch_bytes_) == nullptr) throw std::bad_alloc();
    const std::int64_t angles_of_a_row = compute_angles(step);
    const std::int64_t* const with_previous = after_previous_tokens(step);
    // A new start writes over the caches, even if another thread then fails.
    for (std::int64_t i = 0; i < step.count; ++i) {
      if (step.firsts[i] == 0) read_[index(step.rows[i])] = 0;
    }
    const DecodeStep passed{step.rows,       step.firsts,    with_previous,
                            step.length,     angles_.data(), angles_.data() + angles_.size() / 2,
                            angles_of_a_row, logits};
    const auto kernel = table_.run[dtype_];
    const std::int64_t most = std::max<std::int64_t>(decode_tokens / step.length, 1);
    const std::int64_t share = (step.count + threads - 1) / threads;
    std::atomic<bool> has_memory{true};
    parallel_for(step.count, std::min(most, share), threads,
                 [&](std::int64_t first_row, std::int64_t last_row) {
                   void* const space = scratch(scratch_bytes_);
                   if (space == nullptr) {
                     has_memory = false;
                     return;
                   }
                   kernel(model_, passed, first_row, last_row, space);
                 });
    if (!has_memory) throw std::bad_alloc();
    for (std::int64_t i = 0; i < step.count; ++i) {
      read_[index(step.rows[i])] = step.firsts[i] + step.length;
    }
    keep_previous_tokens(step);
  }

 private:
  static std::size_t index(std::int64_t row) noexcept { return static_cast<std::size_t>(row); }

  void describe(const nck_gpt& model, std::int64_t rows) {
    using nanochat::kernels::round_up;
    const std::int64_t lanes = table_.vector_bytes / accum_bytes_;
    const std::int64_t head_dim = model.n_embd / model.n_head;
    // Padded by one vector, so tokens do not compete for the same sets of the first-level cache.
    const auto stride = [&](std::int64_t count) { return round_up(count, 2 * lanes) + lanes; };
    model_ = {
        .vocab = model.vocab,
        .n_embd = model.n_embd,
        .n_layer = model.n_layer,
        .n_head = model.n_head,
        .head_dim = head_dim,
        .block_size = model.block_size,
        .prev_token_tables = model.prev_token_tables,
        .hash_embed_rows = model.hash_embed_rows,
        .hash_embed_longest = model.hash_embed_longest,
        .lookback = std::max(model.prev_token_tables,
                             model.hash_embed_rows > 0 ? model.hash_embed_longest - 1 : 0),
        .squared = model.activation == NCK_RELU2,
        .qk_norm = model.qk_norm != 0,
        .input_norm = model.input_norm != 0,
        .output_norm = model.output_norm != 0,
        .rotates = model.rope_base > 0,
        .eps = model.eps,
        .softcap = model.softcap,
        .wte = model.wte,
        .wpe = model.wpe,
        .lm_head = nullptr,
        .layers = nullptr,
        .rows = rows,
        .keys = nullptr,
        .values = nullptr,
        .slots = round_up(model.block_size, lanes),
        .value_width = round_up(head_dim, lanes),
        .embd_stride = stride(model.n_embd),
        .qkv_stride = stride(3 * model.n_embd),
        .mlp_stride = stride(4 * model.n_embd),
    };
    const std::int64_t per_token = 2 * model_.embd_stride + model_.qkv_stride + model_.mlp_stride;
    scratch_bytes_ = static_cast<std::size_t>(
        (nanochat::kernels::decode_tokens * per_token + model_.slots) * accum_bytes_);
  }

  void pack(const nck_gpt& model) {
    nanochat::kernels::Packer packer(table_, dtype_);
    const std::int64_t n_embd = model.n_embd;
    const std::int64_t per_layer = packer.bytes(3 * n_embd, n_embd) + packer.bytes(n_embd, n_embd) +
                                   packer.bytes(4 * n_embd, n_embd) +
                                   packer.bytes(n_embd, 4 * n_embd);
    weights_ = nanochat::kernels::take_memory(per_layer * model.n_layer +
                                              packer.bytes(model.vocab, n_embd));
    packer.begin(weights_.get());
    for (std::int64_t i = 0; i < model.n_layer; ++i) {
      const nck_gpt_layer& layer = model.layers[i];
      const void* const wqkv = packer.packed(layer.wqkv, 3 * n_embd, n_embd);
      const void* const wo = packer.packed(layer.wo, n_embd, n_embd);
      const void* const fc1 = packer.packed(layer.fc1, 4 * n_embd, n_embd);
      const void* const fc2 = packer.packed(layer.fc2, n_embd, 4 * n_embd);
      layers_.push_back({wqkv, wo, fc1, fc2});
    }
    model_.layers = layers_.data();
    model_.lm_head = packer.packed(model.lm_head, model.vocab, n_embd);
  }

  void make_caches() {
    const std::int64_t heads = model_.n_layer * model_.rows * model_.n_head;
    const std::int64_t keys = model_.head_dim * model_.slots * accum_bytes_;
    const std::int64_t values = model_.block_size * model_.value_width * accum_bytes_;
    if (heads > (std::int64_t{1} << 62U) / (keys + values)) throw std::bad_alloc();
    caches_ = nanochat::kernels::take_memory(heads * (keys + values));
    model_.keys = caches_.get();
    model_.values = caches_.get() + heads * keys;
  }

  // Returns the tokens, each row preceded by its previous tokens, as DecodeStep takes them.
  const std::int64_t* after_previous_tokens(const nanochat::kernels::RowsToRead& step) {
    const std::int64_t past = model_.lookback, length = step.length;
    if (past == 0) return step.tokens;
    padded_tokens_.resize(static_cast<std::size_t>(step.count * (past + length)));
    for (std::int64_t i = 0; i < step.count; ++i) {
      std::int64_t* const to = padded_tokens_.data() + i * (past + length);
      if (step.firsts[i] == 0) {
        std::fill_n(to, past, -1);
      } else {
        std::copy_n(previous_tokens_.data() + step.rows[i] * past, past, to);
      }
      std::copy_n(step.tokens + i * length, length, to + past);
    }
    return padded_tokens_.data();
  }

  // Keeps the last tokens of the rows that after_previous_tokens() returned.
  void keep_previous_tokens(const nanochat::kernels::RowsToRead& step) noexcept {
    const std::int64_t past = model_.lookback, length = step.length;
    for (std::int64_t i = 0; past > 0 && i < step.count; ++i) {
      std::copy_n(padded_tokens_.data() + i * (past + length) + length, past,
                  previous_tokens_.data() + step.rows[i] * past);
    }
  }

  // Computes cos and sin of the angles of each position, in double. Returns the number of angles
  // per row, 0 if all rows are at one position and share them.
  std::int64_t compute_angles(const nanochat::kernels::RowsToRead& step) {
    const auto half = static_cast<std::int64_t>(frequencies_.size());
    const bool shared = std::all_of(step.firsts, step.firsts + step.count,
                                    [&](std::int64_t first) { return first == step.firsts[0]; });
    const std::int64_t of_a_row = step.length * half, rows = shared ? 1 : step.count;
    angles_.resize(static_cast<std::size_t>(2 * rows * of_a_row * accum_bytes_));
    const auto fill = [&](auto* cosines) {
      using A = std::remove_reference_t<decltype(*cosines)>;
      A* const sines = cosines + rows * of_a_row;
      for (std::int64_t i = 0; i < rows * step.length; ++i) {
        const std::int64_t row = i / step.length, column = i % step.length;
        const auto position = static_cast<double>(step.firsts[row] + column);
        for (std::int64_t j = 0; j < half; ++j) {
          const double angle = position * frequencies_[static_cast<std::size_t>(j)];
          cosines[i * half + j] = static_cast<A>(std::cos(angle));
          sines[i * half + j] = static_cast<A>(std::sin(angle));
        }
      }
    };
    if (dtype_ == NCK_FLOAT64) {
      fill(reinterpret_cast<double*>(angles_.data()));
    } else {
      fill(reinterpret_cast<float*>(angles_.data()));
    }
    return shared ? 0 : of_a_row;
  }

  const nanochat::kernels::DecodeTable& table_;
  std::int32_t dtype_;
  std::int64_t accum_bytes_;  // bytes of an element of the accumulation dtype
  nanochat::kernels::DecodeModel model_{};
  nanochat::kernels::Memory weights_, caches_;
  std::vector<nanochat::kernels::DecodeLayer> layers_;
  std::vector<double> frequencies_;
  std::vector<std::byte> angles_;
  std::vector<std::int64_t> previous_tokens_, padded_tokens_;
  std::vector<std::int64_t> read_;               // (rows,) tokens that each row has read
  std::vector<std::int64_t> all_rows_, firsts_;  // (rows,) of all_rows()
  std::size_t scratch_bytes_ = 0;
};

extern "C" {

std::int32_t nck_open_decoder(const nck_gpt* model, std::int64_t rows, nck_decoder** decoder) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(model, "model");
    check_pointer(static_cast<const void*>(decoder), "decoder");
    check_sizes(*model, rows);
    check_options(*model);
    check_weights(*model);
    *decoder = new nck_decoder(*model, rows);
  });
}

std::int32_t nck_decode(nck_decoder* decoder, const std::int64_t* tokens, std::int64_t length,
                        std::int64_t first, void* logits, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(decoder, "decoder");
    check_pointer(tokens, "tokens");
    check_pointer(logits, "logits");
    check_threads(threads);
    const RowsToRead step = decoder->all_rows(tokens, length, first);
    decoder->check_step(step);
    decoder->run(step, logits, threads);
  });
}

std::int32_t nck_decode_rows(nck_decoder* decoder, const std::int64_t* rows, std::int64_t count,
                             const std::int64_t* tokens, std::int64_t length,
                             const std::int64_t* firsts, void* logits, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(decoder, "decoder");
    check_pointer(rows, "rows");
    check_pointer(tokens, "tokens");
    check_pointer(logits, "logits");
    check_threads(threads);
    decoder->check_rows(rows, count);
    const RowsToRead step = decoder->some_rows(rows, count, tokens, length, firsts);
    decoder->check_step(step);
    decoder->run(step, logits, threads);
  });
}

// NOLINTNEXTLINE(misc-const-correctness): abi.h declares it without const
void nck_close_decoder(nck_decoder* decoder) { delete decoder; }

}  // extern "C"

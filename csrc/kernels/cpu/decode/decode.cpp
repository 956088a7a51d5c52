// nck_open_decoder, nck_decode, nck_close_decoder: arguments checked, a model's matrices packed,
// its cache owned, rows shared out. What is done to a token is in decode_rows.cpp.
#include "kernels/cpu/decode/decode.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "kernels/cpu/decode/checks.hpp"
#include "kernels/cpu/runtime/parallel.hpp"
#include "kernels/cpu/runtime/scratch.hpp"
#include "kernels/cpu/runtime/tables.hpp"

namespace nanochat::kernels {
namespace {

std::int64_t filled_up(std::int64_t count, std::int64_t unit) {
  return (count + unit - 1) / unit * unit;
}

struct Give {
  void operator()(std::byte* memory) const noexcept { nck_give_buffer(memory); }
};
using Memory = std::unique_ptr<std::byte[], Give>;

// From the store, for one sample is often followed by the next, and huge pages are read faster.
Memory memory_of(std::int64_t bytes) {
  void* memory = nullptr;
  if (nck_take_buffer(bytes, &memory) != NCK_OK) throw std::bad_alloc();
  return Memory(static_cast<std::byte*>(memory));
}

// Packs one matrix after another into memory that has room for them, in the order of their use.
class Packer {
 public:
  Packer(const DecodeTable& table, std::int32_t dtype)
      : pack_(table.pack[dtype]),
        element_(element_bytes(dtype)),
        panel_(2 * table.vector_bytes / (dtype == NCK_FLOAT64 ? 8 : 4)) {}

  std::int64_t bytes(std::int64_t outputs, std::int64_t inputs) const {
    return filled_up(filled_up(outputs, panel_) * inputs * element_, 64);
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
  std::int64_t element_, panel_;
  std::byte* next_ = nullptr;
};

}  // namespace
}  // namespace nanochat::kernels

struct nck_decoder {
 public:
  nck_decoder(const nck_gpt& model, std::int64_t rows)
      : table_(*nanochat::kernels::tables().decode),
        dtype_(model.dtype),
        number_(dtype_ == NCK_FLOAT64 ? 8 : 4) {
    describe(model, rows);
    pack(model);
    make_caches();
    const std::int64_t half = decode_.rotates ? decode_.head_dim / 2 : 0;
    for (std::int64_t i = 0; i < half; ++i) {
      const double part = static_cast<double>(i) / static_cast<double>(half);
      frequencies_.push_back(std::pow(model.rope_base, -part));
    }
  }

  void check_step(const std::int64_t* tokens, std::int64_t width, std::int64_t first) const {
    using namespace nanochat::kernels;
    check_range("width", width, 1, decode_.block_size);
    if (first != 0 && first != read_) {
      throw Failure(NCK_ARGUMENT, "first must be 0 or the %lld tokens that were read, got %lld",
                    static_cast<long long>(read_), static_cast<long long>(first));
    }
    const bool rolls = width == 1 && decode_.wpe == nullptr;
    if (!rolls && first > decode_.block_size - width) {
      throw Failure(NCK_ARGUMENT, "first + width must be at most block_size %lld, got %lld",
                    static_cast<long long>(decode_.block_size),
                    static_cast<long long>(first + width));
    }
    for (std::int64_t i = 0; i < decode_.rows * width; ++i) {
      if (tokens[i] < 0 || tokens[i] >= decode_.vocab) {
        throw Failure(NCK_ARGUMENT, "token %lld of row %lld must be in [0, %lld), got %lld",
                      static_cast<long long>(i % width), static_cast<long long>(i / width),
                      static_cast<long long>(decode_.vocab), static_cast<long long>(tokens[i]));
      }
    }
  }

  void run(const std::int64_t* tokens, std::int64_t width, std::int64_t first, void* logits,
           int threads) {
    using namespace nanochat::kernels;
    turn(first, width);
    const auto half = static_cast<std::int64_t>(frequencies_.size());
    const DecodeStep step{with_past(tokens, width, first),         width, first, angles_.data(),
                          angles_.data() + width * half * number_, logits};
    const auto kernel = table_.run[dtype_];
    const std::int64_t most = std::max<std::int64_t>(decode_tokens / width, 1);
    const std::int64_t share = (decode_.rows + threads - 1) / threads;
    std::atomic<bool> has_memory{true};
    parallel_for(decode_.rows, std::min(most, share), threads,
                 [&](std::int64_t first_row, std::int64_t last_row) {
                   void* const space = scratch(scratch_bytes_);
                   if (space == nullptr) {
                     has_memory = false;
                     return;
                   }
                   kernel(decode_, step, first_row, last_row, space);
                 });
    if (!has_memory) throw std::bad_alloc();
    read_ = first + width;
    remember(width);
  }

 private:
  void describe(const nck_gpt& model, std::int64_t rows) {
    using nanochat::kernels::filled_up;
    const std::int64_t lanes = table_.vector_bytes / number_;
    const std::int64_t head_dim = model.n_embd / model.n_head;
    // A vector more, so that tokens do not meet in the same sets of the first-level cache.
    const auto stride = [&](std::int64_t width) { return filled_up(width, 2 * lanes) + lanes; };
    decode_ = {
        .vocab = model.vocab,
        .n_embd = model.n_embd,
        .n_layer = model.n_layer,
        .n_head = model.n_head,
        .head_dim = head_dim,
        .block_size = model.block_size,
        .past_embeds = model.past_embeds,
        .ngram_rows = model.ngram_rows,
        .ngram_longest = model.ngram_longest,
        .lookback = std::max(model.past_embeds, model.ngram_rows > 0 ? model.ngram_longest - 1 : 0),
        .squared = model.activation == NCK_RELU2,
        .qk_norm = model.qk_norm != 0,
        .input_norm = model.input_norm != 0,
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
        .slots = filled_up(model.block_size, lanes),
        .value_width = filled_up(head_dim, lanes),
        .embd_stride = stride(model.n_embd),
        .qkv_stride = stride(3 * model.n_embd),
        .inner_stride = stride(4 * model.n_embd),
    };
    const std::int64_t a_token =
        2 * decode_.embd_stride + decode_.qkv_stride + decode_.inner_stride;
    scratch_bytes_ = static_cast<std::size_t>(
        (nanochat::kernels::decode_tokens * a_token + decode_.slots) * number_);
  }

  void pack(const nck_gpt& model) {
    nanochat::kernels::Packer packer(table_, dtype_);
    const std::int64_t width = model.n_embd;
    const std::int64_t a_layer = packer.bytes(3 * width, width) + packer.bytes(width, width) +
                                 packer.bytes(4 * width, width) + packer.bytes(width, 4 * width);
    weights_ =
        nanochat::kernels::memory_of(a_layer * model.n_layer + packer.bytes(model.vocab, width));
    packer.begin(weights_.get());
    for (std::int64_t i = 0; i < model.n_layer; ++i) {
      const nck_gpt_layer& layer = model.layers[i];
      const void* const wqkv = packer.packed(layer.wqkv, 3 * width, width);
      const void* const wo = packer.packed(layer.wo, width, width);
      const void* const fc1 = packer.packed(layer.fc1, 4 * width, width);
      const void* const fc2 = packer.packed(layer.fc2, width, 4 * width);
      layers_.push_back({wqkv, wo, fc1, fc2});
    }
    decode_.layers = layers_.data();
    decode_.lm_head = packer.packed(model.lm_head, model.vocab, width);
  }

  void make_caches() {
    const std::int64_t heads = decode_.n_layer * decode_.rows * decode_.n_head;
    const std::int64_t keys = decode_.head_dim * decode_.slots * number_;
    const std::int64_t values = decode_.block_size * decode_.value_width * number_;
    if (heads > (std::int64_t{1} << 62U) / (keys + values)) throw std::bad_alloc();
    caches_ = nanochat::kernels::memory_of(heads * (keys + values));
    decode_.keys = caches_.get();
    decode_.values = caches_.get() + heads * keys;
  }

  // The tokens behind those of each row that were read last, as DecodeStep takes them.
  const std::int64_t* with_past(const std::int64_t* tokens, std::int64_t width,
                                std::int64_t first) {
    const std::int64_t past = decode_.lookback;
    if (past == 0) return tokens;
    past_.resize(static_cast<std::size_t>(decode_.rows * past), -1);
    if (first == 0) std::fill(past_.begin(), past_.end(), -1);
    text_.resize(static_cast<std::size_t>(decode_.rows * (past + width)));
    for (std::int64_t row = 0; row < decode_.rows; ++row) {
      std::int64_t* const to = text_.data() + row * (past + width);
      std::copy_n(past_.data() + row * past, past, to);
      std::copy_n(tokens + row * width, width, to + past);
    }
    return text_.data();
  }

  // What with_past() gave ends with the tokens that were read last now.
  void remember(std::int64_t width) noexcept {
    const std::int64_t past = decode_.lookback;
    for (std::int64_t row = 0; past > 0 && row < decode_.rows; ++row) {
      std::copy_n(text_.data() + row * (past + width) + width, past, past_.data() + row * past);
    }
  }

  // cos and sin of each position's angles, computed in double.
  void turn(std::int64_t first, std::int64_t width) {
    const auto half = static_cast<std::int64_t>(frequencies_.size());
    angles_.resize(static_cast<std::size_t>(2 * width * half * number_));
    const auto fill = [&](auto* cosines) {
      using N = std::remove_reference_t<decltype(*cosines)>;
      N* const sines = cosines + width * half;
      for (std::int64_t i = 0; i < width; ++i) {
        const auto position = static_cast<double>(first + i);
        for (std::int64_t j = 0; j < half; ++j) {
          const double angle = position * frequencies_[static_cast<std::size_t>(j)];
          cosines[i * half + j] = static_cast<N>(std::cos(angle));
          sines[i * half + j] = static_cast<N>(std::sin(angle));
        }
      }
    };
    if (dtype_ == NCK_FLOAT64) {
      fill(reinterpret_cast<double*>(angles_.data()));
    } else {
      fill(reinterpret_cast<float*>(angles_.data()));
    }
  }

  const nanochat::kernels::DecodeTable& table_;
  std::int32_t dtype_;
  std::int64_t number_;  // bytes of one
  nanochat::kernels::Decode decode_{};
  nanochat::kernels::Memory weights_, caches_;
  std::vector<nanochat::kernels::DecodeLayer> layers_;
  std::vector<double> frequencies_;
  std::vector<std::byte> angles_;
  std::vector<std::int64_t> past_, text_;
  std::size_t scratch_bytes_ = 0;
  std::int64_t read_ = 0;
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

std::int32_t nck_decode(nck_decoder* decoder, const std::int64_t* tokens, std::int64_t width,
                        std::int64_t first, void* logits, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(decoder, "decoder");
    check_pointer(tokens, "tokens");
    check_pointer(logits, "logits");
    check_threads(threads);
    decoder->check_step(tokens, width, first);
    decoder->run(tokens, width, first, logits, threads);
  });
}

// NOLINTNEXTLINE(misc-const-correctness): as declared
void nck_close_decoder(nck_decoder* decoder) { delete decoder; }

}  // extern "C"

// The checks of nck_open_decoder. They read nothing through the model's pointers except the layers.
#ifndef NANOCHAT_KERNELS_CPU_DECODE_CHECKS_HPP_
#define NANOCHAT_KERNELS_CPU_DECODE_CHECKS_HPP_

#include <cmath>
#include <cstdint>

#include "kernels/checks.hpp"
#include "kernels/cpu/embedding/limits.hpp"

namespace nanochat::kernels {

// With these limits no product of sizes overflows 63 bits, except the size of the caches.
inline constexpr std::int64_t most_layers = 1 << 12, most_positions = 1 << 24,
                              most_decoder_rows = 1 << 20;

inline void check_sizes(const nck_gpt& model, std::int64_t rows) {
  check_range("vocab", model.vocab, 1, most_vocab);
  check_range("n_embd", model.n_embd, 1, most_embd);
  check_range("n_layer", model.n_layer, 0, most_layers);
  check_range("n_head", model.n_head, 1, model.n_embd);
  check_range("block_size", model.block_size, 1, most_positions);
  check_range("prev_token_tables", model.prev_token_tables, 0, most_past);
  check_range("hash_embed_rows", model.hash_embed_rows, 0, most_hash_embed_rows);
  if (model.hash_embed_rows > 0)
    check_range("hash_embed_longest", model.hash_embed_longest, 2, most_past);
  check_range("rows", rows, 1, most_decoder_rows);
  if (model.n_embd % model.n_head != 0) {
    throw Failure(NCK_ARGUMENT, "n_head must divide n_embd %lld, got %lld",
                  static_cast<long long>(model.n_embd), static_cast<long long>(model.n_head));
  }
}

inline void check_options(const nck_gpt& model) {
  if (model.dtype != NCK_FLOAT32 && model.dtype != NCK_FLOAT64 && model.dtype != NCK_BFLOAT16) {
    throw Failure(NCK_ARGUMENT, "dtype must be NCK_FLOAT32, NCK_FLOAT64 or NCK_BFLOAT16, got %d",
                  model.dtype);
  }
  if (model.activation != NCK_RELU && model.activation != NCK_RELU2) {
    throw Failure(NCK_ARGUMENT, "activation must be NCK_RELU or NCK_RELU2, got %d",
                  model.activation);
  }
  check_range("input_norm", model.input_norm, 0, 1);
  check_range("qk_norm", model.qk_norm, 0, 1);
  check_range("output_norm", model.output_norm, 0, 1);
  if (!(model.eps >= 0) || std::isinf(model.eps)) {
    throw Failure(NCK_ARGUMENT, "eps must be finite and at least 0, got %g", model.eps);
  }
  if (!(model.rope_base == 0 || model.rope_base >= 1) || std::isinf(model.rope_base)) {
    throw Failure(NCK_ARGUMENT, "rope_base must be 0 or finite and at least 1, got %g",
                  model.rope_base);
  }
  const std::int64_t head_dim = model.n_embd / model.n_head;
  if (model.rope_base > 0 && head_dim % 2 != 0) {
    throw Failure(NCK_ARGUMENT, "n_embd / n_head must be even under a rope_base, got %lld",
                  static_cast<long long>(head_dim));
  }
  check_softcap(model.softcap);
}

inline void check_weights(const nck_gpt& model) {
  check_pointer(model.wte, "wte");
  check_pointer(model.lm_head, "lm_head");
  if (model.n_layer > 0) check_pointer(model.layers, "layers");
  for (std::int64_t i = 0; i < model.n_layer; ++i) {
    const nck_gpt_layer& layer = model.layers[i];
    check_pointer(layer.wqkv, "wqkv");
    check_pointer(layer.wo, "wo");
    check_pointer(layer.fc1, "fc1");
    check_pointer(layer.fc2, "fc2");
  }
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_CPU_DECODE_CHECKS_HPP_

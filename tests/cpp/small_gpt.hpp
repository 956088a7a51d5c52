// Shared by the tests of nck_decode: a small model.
#ifndef NANOCHAT_TESTS_SMALL_GPT_HPP_
#define NANOCHAT_TESTS_SMALL_GPT_HPP_

#include <cstdint>
#include <vector>

#include "kernel_testing.hpp"

namespace testing {

// Small integers, which every type represents exactly.
template <class T>
inline std::vector<T> whole_numbers(std::int64_t count, unsigned seed) {
  std::vector<T> numbers(kernel_testing::index(count));
  for (T& number : numbers) {
    seed = seed * 1664525U + 1013904223U;
    number = static_cast<T>(static_cast<int>(seed >> 24U) % 9 - 4);
  }
  return numbers;
}

// A GPT of one layer with its weights. It looks back to two tokens besides the attention.
struct SmallGpt {
  static constexpr std::int64_t vocab = 29, width = 12, hash_embed_rows = 8;
  static constexpr std::int64_t embeddings = 3 * vocab + hash_embed_rows;
  std::vector<float> weights = whole_numbers<float>((12 * width + embeddings + vocab) * width, 5);
  nck_gpt_layer layer{};
  nck_gpt model{};

  SmallGpt() {
    for (float& weight : weights) weight /= 16;
    const float* const at = weights.data();
    layer = {at, at + 3 * width * width, at + 4 * width * width, at + 8 * width * width};
    model = {.vocab = vocab,
             .n_embd = width,
             .n_layer = 1,
             .n_head = 3,
             .block_size = 5,
             .prev_token_tables = 2,
             .hash_embed_rows = hash_embed_rows,
             .hash_embed_longest = 3,
             .dtype = NCK_FLOAT32,
             .activation = NCK_RELU2,
             .input_norm = 1,
             .qk_norm = 1,
             .output_norm = 1,
             .eps = 1e-5,
             .rope_base = 10000,
             .softcap = 15,
             .wte = at + 12 * width * width,
             .wpe = nullptr,
             .lm_head = at + (12 * width + embeddings) * width,
             .layers = &layer};
  }
  SmallGpt(const SmallGpt&) = delete;
  SmallGpt& operator=(const SmallGpt&) = delete;

  // Returns the logits of all steps, one token per row and step.
  std::vector<float> read(std::int64_t first_row, std::int64_t rows, int threads) const {
    constexpr std::int64_t steps = 8;
    nck_decoder* decoder = nullptr;
    CHECK(nck_open_decoder(&model, rows, &decoder) == NCK_OK);
    std::vector<float> all(kernel_testing::index(steps * rows * vocab));
    std::vector<std::int64_t> tokens(kernel_testing::index(rows));
    for (std::int64_t step = 0; step < steps; ++step) {
      for (std::int64_t row = 0; row < rows; ++row) {
        tokens[kernel_testing::index(row)] = ((first_row + row) * 7 + step * 3) % vocab;
      }
      CHECK(nck_decode(decoder, tokens.data(), 1, step, all.data() + step * rows * vocab,
                       threads) == NCK_OK);
    }
    nck_close_decoder(decoder);
    return all;
  }
};

}  // namespace testing

#endif  // NANOCHAT_TESTS_SMALL_GPT_HPP_

// The decoder: opened with sizes and options of any kind, then fed in any division of its tokens.
#include <algorithm>
#include <array>

#include "input.hpp"

namespace {

using fuzz::Buffer;
using fuzz::Input;
using fuzz::nan;

struct Close {
  void operator()(nck_decoder* decoder) const { nck_close_decoder(decoder); }
};
using Decoder = std::unique_ptr<nck_decoder, Close>;

struct Model {
  nck_gpt gpt{};
  std::vector<Buffer> kept;
  std::vector<nck_gpt_layer> layers;

  const void* matrix(Input& input, std::int64_t rows, std::int64_t columns, std::int32_t dtype) {
    kept.push_back(input.numbers(rows * columns, dtype));
    return kept.back().as<void>();
  }

  explicit Model(Input& input) {
    gpt.n_head = input.between(1, 3);
    gpt.n_embd = gpt.n_head * (input.chance(3) ? input.between(1, 20) : 2 * input.between(1, 4));
    gpt.vocab = input.between(1, 70);
    gpt.n_layer = input.between(0, 2);
    gpt.block_size = input.between(1, 24);
    gpt.prev_token_tables = input.chance(3) ? input.between(1, 3) : 0;
    gpt.hash_embed_rows = input.chance(3) ? input.between(1, 20) : 0;
    gpt.hash_embed_longest = input.between(2, 5);
    gpt.dtype = input.one_of<std::int32_t>({NCK_FLOAT32, NCK_FLOAT64, NCK_BFLOAT16});
    gpt.activation = input.one_of<std::int32_t>({NCK_RELU, NCK_RELU2});
    gpt.input_norm = input.one_of({0, 1});
    gpt.qk_norm = input.one_of({0, 1});
    gpt.output_norm = input.one_of({0, 1});
    gpt.eps = input.one_of({1e-5, 0.0, 1e300});
    gpt.rope_base = gpt.n_embd / gpt.n_head % 2 == 0 ? input.one_of({0.0, 10000.0, 1.0}) : 0;
    gpt.softcap = input.one_of({0.0, 15.0});
    const std::int32_t accum = fuzz::accum_of(gpt.dtype);
    const std::int64_t e = gpt.n_embd;
    gpt.wte =
        matrix(input, (gpt.prev_token_tables + 1) * gpt.vocab + gpt.hash_embed_rows, e, accum);
    gpt.wpe = input.chance(2) ? matrix(input, gpt.block_size, e, accum) : nullptr;
    gpt.lm_head = matrix(input, gpt.vocab, e, gpt.dtype);
    for (std::int64_t i = 0; i < gpt.n_layer; ++i) {
      const void* const wqkv = matrix(input, 3 * e, e, gpt.dtype);
      const void* const wo = matrix(input, e, e, gpt.dtype);
      const void* const fc1 = matrix(input, 4 * e, e, gpt.dtype);
      layers.push_back({wqkv, wo, fc1, matrix(input, e, 4 * e, gpt.dtype)});
    }
    gpt.layers = layers.data();
  }

  // The model as arguments, of which one may be refused.
  nck_gpt given(Input& input) {
    nck_gpt result = gpt;
    using List = std::initializer_list<std::int64_t>;
    const auto size = [&](std::int64_t& value, List refused) {
      value = input.argument(value, refused);
    };
    size(result.vocab, {0, -1, (1 << 30) + 1, fuzz::largest});
    size(result.n_embd, {0, -1, (1 << 16) + 1, fuzz::largest});
    size(result.n_layer, {-1, 4097, fuzz::largest});
    size(result.n_head, {0, -1, gpt.n_embd + 1, fuzz::largest});
    size(result.block_size, {0, -1, (1 << 24) + 1, fuzz::largest});
    size(result.prev_token_tables, {-1, 1025});
    size(result.hash_embed_rows, {-1, (std::int64_t{1} << 31) + 1});
    if (gpt.hash_embed_rows > 0) size(result.hash_embed_longest, {1, -1, 1025});
    result.dtype = input.argument<std::int32_t>(gpt.dtype, {NCK_FLOAT16, -1, 4});
    result.activation = input.argument<std::int32_t>(gpt.activation, {-1, 2});
    result.input_norm = input.argument(gpt.input_norm, {-1, 2});
    result.qk_norm = input.argument(gpt.qk_norm, {-1, 2});
    result.output_norm = input.argument(gpt.output_norm, {-1, 2});
    result.eps = input.argument(gpt.eps, {-1.0, nan, fuzz::infinity});
    result.rope_base = input.argument(gpt.rope_base, {-1.0, 0.5, nan, fuzz::infinity});
    result.softcap = input.argument(gpt.softcap, {-1.0, nan, 1e31});
    result.wte = input.pointer(const_cast<void*>(gpt.wte));
    result.lm_head = input.pointer(const_cast<void*>(gpt.lm_head));
    result.layers = input.pointer(layers.data(), gpt.n_layer > 0);
    if (gpt.n_layer > 0) {
      void* const wo = const_cast<void*>(layers.back().wo);
      layers.back().wo = input.pointer(wo);
    }
    return result;
  }
};

Decoder open(const nck_gpt& model, std::int64_t rows) {
  nck_decoder* opened = nullptr;
  CHECK(nck_open_decoder(&model, rows, &opened) == NCK_OK);
  return Decoder(opened);
}

}  // namespace

void fuzz::fuzz(Input& input) {
  Model model(input);
  const std::int64_t rows = input.between(1, 4), vocab = model.gpt.vocab;
  input.begin_call();
  const nck_gpt given = model.given(input);
  const auto given_rows = input.argument<std::int64_t>(rows, {0, -1, (1 << 20) + 1});
  nck_decoder* opened = nullptr;
  const std::int32_t status = nck_open_decoder(&given, given_rows, &opened);
  CHECK(status == (input.refused ? NCK_ARGUMENT : NCK_OK));
  CHECK((opened != nullptr) == (status == NCK_OK));
  if (opened == nullptr) return;
  const Decoder decoder(opened), whole = open(model.gpt, rows), alone = open(model.gpt, 1),
                                 apart = open(model.gpt, rows);

  // The tokens read so far, row by row, and their number.
  std::vector<std::vector<std::int64_t>> read(static_cast<std::size_t>(rows));
  std::int64_t count = 0;
  const std::int32_t accum = fuzz::accum_of(model.gpt.dtype);
  const std::int64_t bytes = rows * vocab * fuzz::bytes_of(accum);
  Buffer logits(bytes), expected(bytes), of_one_row(bytes / rows), last_row(bytes / rows);
  for (std::int64_t calls = input.between(1, 6); calls > 0; --calls) {
    const bool rolls = count == model.gpt.block_size && model.gpt.wpe == nullptr;
    if (!rolls && (count == model.gpt.block_size || input.chance(6))) {
      for (auto& row : read) row.clear();
      count = 0;
    }
    const std::int64_t length = rolls ? 1 : input.between(1, model.gpt.block_size - count);
    Buffer tokens = input.between_all(rows * length, 0, vocab - 1);
    auto* const at = tokens.as<std::int64_t>();
    input.begin_call();
    at[0] = input.argument<std::int64_t>(at[0], {-1, vocab, fuzz::largest, fuzz::smallest});
    const auto given_length =
        input.argument<std::int64_t>(length, {0, -1, model.gpt.block_size + 1, fuzz::largest});
    const auto first = input.argument<std::int64_t>(count, {-1, count + 1, fuzz::largest});
    const auto* const from = input.pointer(at);
    void* const to = input.pointer(logits.as<void>());
    nck_decoder* const of = input.pointer(decoder.get());
    const std::int32_t threads = input.threads();
    const std::vector<std::uint8_t> before = logits.copy();
    const std::int32_t decoded = nck_decode(of, from, given_length, first, to, threads);
    CHECK(decoded == (input.refused ? NCK_ARGUMENT : NCK_OK));
    if (input.refused) {
      CHECK(logits.copy() == before);
      continue;
    }
    for (std::int64_t row = 0; row < rows; ++row) {
      auto& tokens_of_row = read[static_cast<std::size_t>(row)];
      tokens_of_row.insert(tokens_of_row.end(), at + row * length, at + (row + 1) * length);
    }
    count += length;
    if (count > model.gpt.block_size) break;  // the cache has dropped the oldest
    std::vector<std::int64_t> all;
    for (const auto& row : read) all.insert(all.end(), row.begin(), row.end());
    CHECK(nck_decode(whole.get(), all.data(), count, 0, expected.as<void>(), 1) == NCK_OK);
    CHECK(fuzz::same_numbers(logits, expected, accum));
    CHECK(nck_decode(alone.get(), read.back().data(), count, 0, of_one_row.as<void>(), 1) ==
          NCK_OK);
    std::memcpy(last_row.as<void>(), logits.as<std::uint8_t>() + logits.size - last_row.size,
                last_row.size);
    CHECK(fuzz::same_numbers(last_row, of_one_row, accum));
    // The same row of a decoder of all rows, at a position of its own.
    const std::int64_t last = rows - 1, start = 0;
    CHECK(nck_decode_rows(apart.get(), &last, 1, read.back().data(), count, &start,
                          expected.as<void>(), threads < 1 ? 1 : threads) == NCK_OK);
    std::memcpy(last_row.as<void>(), expected.as<std::uint8_t>() + expected.size - last_row.size,
                last_row.size);
    CHECK(fuzz::same_numbers(last_row, of_one_row, accum));
  }
}

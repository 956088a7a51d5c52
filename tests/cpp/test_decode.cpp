// nck_decode: products of every instruction set on numbers that need no rounding, and the
// independence of a row's bits. tests/native/test_decode.py compares whole models with NumPy.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kernel_testing.hpp"
#include "kernels/cpu/decode/decode.hpp"
#include "small_gpt.hpp"

namespace kernels = nanochat::kernels;
using kernel_testing::for_each_set;
using kernel_testing::index;
using testing::SmallGpt;
using testing::whole_numbers;

namespace {

std::int64_t round_up(std::int64_t count, std::int64_t unit) {
  return (count + unit - 1) / unit * unit;
}

std::vector<std::uint16_t> brain_floats(const std::vector<float>& numbers) {
  std::vector<std::uint16_t> bits;
  for (const float x : numbers) {
    bits.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16U));
  }
  return bits;
}

// A model without layers: logits = lm_head · wte[token].
template <class N>
struct Products {
  std::int64_t vocab, width, rows;
  std::vector<N> wte = whole_numbers<N>(vocab * width, 1);
  std::vector<N> head = whole_numbers<N>(vocab * width, 2);

  void check(const kernels::DecodeTable& table, std::int32_t dtype, const void* stored) const {
    const std::int64_t lanes = table.vector_bytes / static_cast<std::int64_t>(sizeof(N));
    std::vector<N> packed(index(round_up(vocab, 2 * lanes) * width));
    table.pack[dtype](stored, vocab, width, packed.data());
    kernels::DecodeModel model{};
    model.vocab = vocab;
    model.n_embd = model.head_dim = width;
    model.n_head = model.block_size = 1;
    model.wte = wte.data();
    model.lm_head = packed.data();
    model.rows = rows;
    model.slots = model.value_width = lanes;
    model.embd_stride = model.qkv_stride = model.mlp_stride = round_up(width, 2 * lanes);
    std::vector<std::int64_t> tokens(index(rows));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int64_t>(i) % vocab;
    std::vector<N> logits(index(rows * vocab));
    std::vector<std::int64_t> all_rows(index(rows));
    std::iota(all_rows.begin(), all_rows.end(), 0);
    const std::vector<std::int64_t> firsts(index(rows));
    const kernels::DecodeStep step{
        all_rows.data(), firsts.data(), tokens.data(), 1, nullptr, nullptr, 0, logits.data()};
    std::vector<N> scratch(index(kernels::decode_tokens * 4 * model.embd_stride + lanes));
    table.run[dtype](model, step, 0, rows, scratch.data());
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t j = 0; j < vocab; ++j) {
        N sum = 0;
        for (std::int64_t k = 0; k < width; ++k) {
          sum += wte[index(tokens[index(row)] * width + k)] * head[index(j * width + k)];
        }
        CHECK(logits[index(row * vocab + j)] == sum);
      }
    }
  }
};

}  // namespace

TEST_CASE(every_set_multiplies_whole_numbers_exactly) {
  for_each_set([](const char*, const kernels::Tables& tables) {
    const kernels::DecodeTable& table = *tables.decode;
    for (const std::int64_t vocab : {1, 7, 16, 33, 65, 130, 257}) {
      for (const std::int64_t width : {1, 3, 16, 40, 129}) {
        for (const std::int64_t rows : {1, 2, 3, 7, 12, 23, 61}) {
          const Products<float> floats{vocab, width, rows};
          floats.check(table, NCK_FLOAT32, floats.head.data());
          floats.check(table, NCK_BFLOAT16, brain_floats(floats.head).data());
          const Products<double> doubles{vocab, width, rows};
          doubles.check(table, NCK_FLOAT64, doubles.head.data());
        }
      }
    }
  });
}

TEST_CASE(a_row_has_the_same_bits_among_any_rows_and_threads) {
  const SmallGpt small;
  constexpr std::int64_t rows = 60, vocab = SmallGpt::vocab;
  const std::vector<float> all = small.read(0, rows, 1);
  for (const int threads : {2, 3, 64}) CHECK(small.read(0, rows, threads) == all);
  for (const std::int64_t row : {0, 1, 47, 48, 59}) {
    const std::vector<float> alone = small.read(row, 1, 1);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(alone.size()); ++i) {
      CHECK(alone[index(i)] == all[index((i / vocab * rows + row) * vocab + i % vocab)]);
    }
  }
}

TEST_CASE(a_decoder_that_cannot_be_opened_reports_the_reason) {
  SmallGpt small;
  small.model.n_head = 5;
  nck_decoder* decoder = nullptr;
  CHECK(nck_open_decoder(&small.model, 1, &decoder) == NCK_ARGUMENT);
  CHECK(std::string(nck_last_error()) == "n_head must divide n_embd 12, got 5");
  CHECK(decoder == nullptr);
  CHECK(nck_open_decoder(nullptr, 1, &decoder) == NCK_ARGUMENT);
  CHECK(std::string(nck_last_error()) == "model must not be NULL");
  nck_close_decoder(nullptr);
}

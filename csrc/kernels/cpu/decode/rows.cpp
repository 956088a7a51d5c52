// A decode step over a few rows, layer by layer. Tokens that go through the layers together share
// each weight that is read; nothing else of a token depends on those beside it.
#include "kernels/cpu/decode/attention.hpp"
#include "kernels/cpu/decode/decode.hpp"
#include "kernels/cpu/decode/products.hpp"
#include "kernels/cpu/embedding/embedded_rows.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

template <class S>
class Pass {
  using N = Number<S>;
  using V = Whole<N>;

 public:
  Pass(const Decode& model, const DecodeStep& step, void* scratch) noexcept
      : model_(model), step_(step) {
    x_ = static_cast<N*>(scratch);
    normed_ = x_ + decode_tokens * model.embd_stride;
    qkv_ = normed_ + decode_tokens * model.embd_stride;
    inner_ = qkv_ + decode_tokens * model.qkv_stride;
    scores_ = inner_ + decode_tokens * model.inner_stride;
    scale_ = N{1} / square_root(broadcast<V>(static_cast<N>(model.head_dim)))[0];
  }

  void run(std::int64_t first_row, std::int64_t last_row) noexcept {
    const std::int64_t columns = step_.width < decode_tokens ? step_.width : decode_tokens;
    const std::int64_t rows = decode_tokens / columns;
    for (row_ = first_row; row_ < last_row; row_ += rows_) {
      rows_ = last_row - row_ < rows ? last_row - row_ : rows;
      for (column_ = 0; column_ < step_.width; column_ += columns_) {
        columns_ = step_.width - column_ < columns ? step_.width - column_ : columns;
        through_layers();
      }
      head();
    }
  }

 private:
  std::int64_t tokens() const noexcept { return rows_ * columns_; }
  std::int64_t row_of(std::int64_t token) const noexcept { return row_ + token / columns_; }
  std::int64_t column_of(std::int64_t token) const noexcept { return column_ + token % columns_; }

  void through_layers() noexcept {
    embed();
    for (std::int64_t layer = 0; layer < model_.n_layer; ++layer) {
      attention(layer, model_.layers[layer]);
      mlp(model_.layers[layer]);
    }
  }

  void embed() noexcept {
    for (std::int64_t i = 0; i < tokens(); ++i) {
      const std::int64_t column = column_of(i), lookback = model_.lookback;
      const std::int64_t* const token =
          step_.tokens + row_of(i) * (lookback + step_.width) + lookback + column;
      N* const x = x_ + i * model_.embd_stride;
      const N* const tables = static_cast<const N*>(model_.wte);
      const N* sum = nullptr;
      for_embedded_rows(
          model_, token, [&](std::int64_t k) { return token[-k] >= 0; },
          [&](std::int64_t row) {
            add(tables + row * model_.n_embd, sum, x);
            sum = x;
          });
      if (model_.wpe != nullptr) {
        add(static_cast<const N*>(model_.wpe) + (step_.first + column) * model_.n_embd, x, x);
      }
      if (model_.input_norm) normalise(x, model_.n_embd, model_.eps, x);
    }
  }

  // sum = a + b, or a alone where b is null; n_embd numbers each, sum may be b.
  void add(const N* a, const N* b, N* sum) noexcept {
    for_vectors<V>(model_.n_embd, [&](std::int64_t at, int count) {
      const V v = load_at(a, at, count);
      store_at(sum, at, count, b == nullptr ? v : v + load_at(b, at, count));
    });
  }

  void norm() noexcept {
    for (std::int64_t i = 0; i < tokens(); ++i) {
      const std::int64_t at = i * model_.embd_stride;
      normalise(x_ + at, model_.n_embd, model_.eps, normed_ + at);
    }
  }

  // x += from · matrixᵀ
  void join(const N* from, std::int64_t stride, std::int64_t inputs, const void* matrix) noexcept {
    product<S>(from, stride, tokens(), matrix, model_.n_embd, inputs,
               [&](std::int64_t row, std::int64_t column, V sums) {
                 N* const x = x_ + row * model_.embd_stride + column;
                 store(x, load<V>(x) + sums);
               });
  }

  void attention(std::int64_t layer, const DecodeLayer& matrices) noexcept {
    norm();
    product<S>(normed_, model_.embd_stride, tokens(), matrices.wqkv, 3 * model_.n_embd,
               model_.n_embd, [&](std::int64_t row, std::int64_t column, V sums) {
                 store(qkv_ + row * model_.qkv_stride + column, sums);
               });
    for (std::int64_t i = 0; i < tokens(); ++i) place(layer, i);
    for (std::int64_t i = 0; i < tokens(); ++i) {
      const std::int64_t seen = step_.first + column_of(i) + 1;
      for (std::int64_t h = 0; h < model_.n_head; ++h) {
        const Head<N> head{
            keys(layer, row_of(i), h), values(layer, row_of(i), h),
            model_.head_dim,           model_.slots,
            model_.value_width,        seen < model_.block_size ? seen : model_.block_size};
        const std::int64_t at = h * model_.head_dim;
        // What was normed is spent.
        attend(head, qkv_ + i * model_.qkv_stride + at, scale_, scores_,
               normed_ + i * model_.embd_stride + at);
      }
    }
    join(normed_, model_.embd_stride, model_.n_embd, matrices.wo);
  }

  // Rotates and normalises a token's queries and keys, and puts keys and values into the cache.
  void place(std::int64_t layer, std::int64_t i) noexcept {
    const std::int64_t column = column_of(i), row = row_of(i), size = model_.head_dim;
    const std::int64_t slot = (step_.first + column) % model_.block_size;
    N* const query = qkv_ + i * model_.qkv_stride;
    const N* const key = query + model_.n_embd;
    for (std::int64_t at = 0; at < 2 * model_.n_embd; at += size) {
      if (model_.rotates) {
        const std::int64_t angle = column * (size / 2);
        rotate(query + at, size / 2, static_cast<const N*>(step_.cosines) + angle,
               static_cast<const N*>(step_.sines) + angle);
      }
      if (model_.qk_norm) normalise(query + at, size, model_.eps, query + at);
    }
    for (std::int64_t h = 0; h < model_.n_head; ++h) {
      N* const cached = keys(layer, row, h) + slot;
      for (std::int64_t d = 0; d < size; ++d) cached[d * model_.slots] = key[h * size + d];
      const N* const value = key + model_.n_embd + h * size;
      N* const to = values(layer, row, h) + slot * model_.value_width;
      for_vectors<V>(
          size, [&](std::int64_t at, int count) { store(to + at, load_at(value, at, count)); });
    }
  }

  N* keys(std::int64_t layer, std::int64_t row, std::int64_t head) const noexcept {
    const std::int64_t number = (layer * model_.rows + row) * model_.n_head + head;
    return static_cast<N*>(model_.keys) + number * model_.head_dim * model_.slots;
  }

  N* values(std::int64_t layer, std::int64_t row, std::int64_t head) const noexcept {
    const std::int64_t number = (layer * model_.rows + row) * model_.n_head + head;
    return static_cast<N*>(model_.values) + number * model_.block_size * model_.value_width;
  }

  void mlp(const DecodeLayer& matrices) noexcept {
    norm();
    const bool squared = model_.squared;
    const std::int64_t width = 4 * model_.n_embd;
    product<S>(normed_, model_.embd_stride, tokens(), matrices.fc1, width, model_.n_embd,
               [&](std::int64_t row, std::int64_t column, V sums) {
                 const V v = sums < V{} ? V{} : sums;  // NaN stays
                 store(inner_ + row * model_.inner_stride + column, squared ? v * v : v);
               });
    join(inner_, model_.inner_stride, width, matrices.fc2);
  }

  // The logits after each row's last token.
  void head() noexcept {
    const bool capped = model_.softcap > 0;
    const V cap = broadcast<V>(static_cast<N>(model_.softcap));
    const V inverse = broadcast<V>(static_cast<N>(capped ? 1 / model_.softcap : 0));
    const N* const last = x_ + (columns_ - 1) * model_.embd_stride;
    N* const logits = static_cast<N*>(step_.logits) + row_ * model_.vocab;
    product<S>(last, columns_ * model_.embd_stride, rows_, model_.lm_head, model_.vocab,
               model_.n_embd, [&](std::int64_t row, std::int64_t column, V sums) {
                 constexpr int lanes = width<N>;
                 const std::int64_t left = model_.vocab - column;
                 store_at(logits + row * model_.vocab, column,
                          static_cast<int>(left < lanes ? left : lanes),
                          capped ? vector_tanh(sums * inverse) * cap : sums);
               });
  }

  const Decode& model_;
  const DecodeStep& step_;
  N* x_;       // the residual stream
  N* normed_;  // what a branch reads, and what attention gives
  N* qkv_;
  N* inner_;  // of the MLP
  N* scores_;
  N scale_;
  std::int64_t row_ = 0, rows_ = 0, column_ = 0, columns_ = 0;  // of the tokens at work
};

template <class S>
void run(const Decode& model, const DecodeStep& step, std::int64_t first_row, std::int64_t last_row,
         void* scratch) noexcept {
  Pass<S>(model, step, scratch).run(first_row, last_row);
}

}  // namespace

extern const DecodeTable decode_table;
const DecodeTable decode_table = {
    NCLAB_SIMD_BYTES,
    {&pack<float>, &pack<double>, &pack<BFloat16>, nullptr},
    {&run<float>, &run<double>, &run<BFloat16>, nullptr},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

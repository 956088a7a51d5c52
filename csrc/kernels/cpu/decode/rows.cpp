// A decode step over a few rows, layer by layer. Tokens that go through the layers together share
// every weight that is read; otherwise a token does not depend on the others.
#include "kernels/cpu/decode/attention.hpp"
#include "kernels/cpu/decode/decode.hpp"
#include "kernels/cpu/decode/products.hpp"
#include "kernels/cpu/embedding/embedded_rows.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

template <class S>
class DecodePass {
  using A = AccumType<S>;
  using V = Whole<A>;

 public:
  DecodePass(const DecodeModel& model, const DecodeStep& step, void* scratch) noexcept
      : model_(model), step_(step) {
    x_ = static_cast<A*>(scratch);
    normed_ = x_ + decode_tokens * model.embd_stride;
    qkv_ = normed_ + decode_tokens * model.embd_stride;
    mlp_ = qkv_ + decode_tokens * model.qkv_stride;
    scores_ = mlp_ + decode_tokens * model.mlp_stride;
    scale_ = A{1} / square_root(broadcast<V>(static_cast<A>(model.head_dim)))[0];
  }

  void run(std::int64_t first_row, std::int64_t last_row) noexcept {
    const std::int64_t columns = step_.length < decode_tokens ? step_.length : decode_tokens;
    const std::int64_t rows = decode_tokens / columns;
    for (row_ = first_row; row_ < last_row; row_ += rows_) {
      rows_ = last_row - row_ < rows ? last_row - row_ : rows;
      for (column_ = 0; column_ < step_.length; column_ += columns_) {
        columns_ = step_.length - column_ < columns ? step_.length - column_ : columns;
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
          step_.tokens + row_of(i) * (lookback + step_.length) + lookback + column;
      A* const x = x_ + i * model_.embd_stride;
      const A* const tables = static_cast<const A*>(model_.wte);
      const A* sum = nullptr;
      for_embedded_rows(
          model_, token, [&](std::int64_t k) { return token[-k] >= 0; },
          [&](std::int64_t row) {
            add(tables + row * model_.n_embd, sum, x);
            sum = x;
          });
      if (model_.wpe != nullptr) {
        const std::int64_t position = step_.firsts[row_of(i)] + column;
        add(static_cast<const A*>(model_.wpe) + position * model_.n_embd, x, x);
      }
      if (model_.input_norm) normalise(x, model_.n_embd, model_.eps, x);
    }
  }

  // sum = a + b, or a if b is null; n_embd elements each. sum may be b.
  void add(const A* a, const A* b, A* sum) noexcept {
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
  void add_product(const A* from, std::int64_t stride, std::int64_t inputs,
                   const void* matrix) noexcept {
    product<S>(from, stride, tokens(), matrix, model_.n_embd, inputs,
               [&](std::int64_t row, std::int64_t column, V sums) {
                 A* const x = x_ + row * model_.embd_stride + column;
                 store(x, load<V>(x) + sums);
               });
  }

  void attention(std::int64_t layer, const DecodeLayer& matrices) noexcept {
    norm();
    product<S>(normed_, model_.embd_stride, tokens(), matrices.wqkv, 3 * model_.n_embd,
               model_.n_embd, [&](std::int64_t row, std::int64_t column, V sums) {
                 store(qkv_ + row * model_.qkv_stride + column, sums);
               });
    for (std::int64_t i = 0; i < tokens(); ++i) prepare_and_cache(layer, i);
    for (std::int64_t i = 0; i < tokens(); ++i) {
      const std::int64_t seen = step_.firsts[row_of(i)] + column_of(i) + 1;
      const std::int64_t cached_row = step_.rows[row_of(i)];
      for (std::int64_t h = 0; h < model_.n_head; ++h) {
        const CachedHead<A> head{keys(layer, cached_row, h),
                                 values(layer, cached_row, h),
                                 model_.head_dim,
                                 model_.slots,
                                 model_.value_width,
                                 seen < model_.block_size ? seen : model_.block_size};
        const std::int64_t at = h * model_.head_dim;
        // The normed rows are no longer needed: the buffer takes the mixed values.
        attend(head, qkv_ + i * model_.qkv_stride + at, scale_, scores_,
               normed_ + i * model_.embd_stride + at);
      }
    }
    add_product(normed_, model_.embd_stride, model_.n_embd, matrices.wo);
  }

  // Rotates and normalizes a token's queries and keys, and writes keys and values to the cache.
  void prepare_and_cache(std::int64_t layer, std::int64_t i) noexcept {
    const std::int64_t column = column_of(i), size = model_.head_dim;
    const std::int64_t row = step_.rows[row_of(i)];
    const std::int64_t slot = (step_.firsts[row_of(i)] + column) % model_.block_size;
    A* const query = qkv_ + i * model_.qkv_stride;
    const A* const key = query + model_.n_embd;
    for (std::int64_t at = 0; at < 2 * model_.n_embd; at += size) {
      if (model_.rotates) {
        const std::int64_t angle = row_of(i) * step_.angle_stride + column * (size / 2);
        rotate(query + at, size / 2, static_cast<const A*>(step_.cosines) + angle,
               static_cast<const A*>(step_.sines) + angle);
      }
      if (model_.qk_norm) normalise(query + at, size, model_.eps, query + at);
    }
    for (std::int64_t h = 0; h < model_.n_head; ++h) {
      A* const cached = keys(layer, row, h) + slot;
      for (std::int64_t d = 0; d < size; ++d) cached[d * model_.slots] = key[h * size + d];
      const A* const value = key + model_.n_embd + h * size;
      A* const to = values(layer, row, h) + slot * model_.value_width;
      for_vectors<V>(
          size, [&](std::int64_t at, int count) { store(to + at, load_at(value, at, count)); });
    }
  }

  A* keys(std::int64_t layer, std::int64_t row, std::int64_t head) const noexcept {
    const std::int64_t index = (layer * model_.rows + row) * model_.n_head + head;
    return static_cast<A*>(model_.keys) + index * model_.head_dim * model_.slots;
  }

  A* values(std::int64_t layer, std::int64_t row, std::int64_t head) const noexcept {
    const std::int64_t index = (layer * model_.rows + row) * model_.n_head + head;
    return static_cast<A*>(model_.values) + index * model_.block_size * model_.value_width;
  }

  void mlp(const DecodeLayer& matrices) noexcept {
    norm();
    const bool squared = model_.squared;
    const std::int64_t mlp_size = 4 * model_.n_embd;
    product<S>(normed_, model_.embd_stride, tokens(), matrices.fc1, mlp_size, model_.n_embd,
               [&](std::int64_t row, std::int64_t column, V sums) {
                 const V v = sums < V{} ? V{} : sums;  // NaN stays NaN
                 store(mlp_ + row * model_.mlp_stride + column, squared ? v * v : v);
               });
    add_product(mlp_, model_.mlp_stride, mlp_size, matrices.fc2);
  }

  // Computes the logits after each row's last token.
  void head() noexcept {
    const bool capped = model_.softcap > 0;
    const V cap = broadcast<V>(static_cast<A>(model_.softcap));
    const V inverse = broadcast<V>(static_cast<A>(capped ? 1 / model_.softcap : 0));
    const A* last = x_ + (columns_ - 1) * model_.embd_stride;
    const std::int64_t stride = columns_ * model_.embd_stride;  // between the last tokens of rows
    if (model_.output_norm) {
      for (std::int64_t i = 0; i < rows_; ++i)
        normalise(last + i * stride, model_.n_embd, model_.eps, normed_ + i * stride);
      last = normed_;
    }
    A* const logits = static_cast<A*>(step_.logits);
    product<S>(last, stride, rows_, model_.lm_head, model_.vocab, model_.n_embd,
               [&](std::int64_t row, std::int64_t column, V sums) {
                 constexpr int lanes = width<A>;
                 const std::int64_t left = model_.vocab - column;
                 store_at(logits + step_.rows[row_ + row] * model_.vocab, column,
                          static_cast<int>(left < lanes ? left : lanes),
                          capped ? vector_tanh(sums * inverse) * cap : sums);
               });
  }

  const DecodeModel& model_;
  const DecodeStep& step_;
  A* x_;       // the residual stream
  A* normed_;  // the input of a branch, then the output of attention
  A* qkv_;
  A* mlp_;  // the inner activations of the MLP
  A* scores_;
  A scale_;
  std::int64_t row_ = 0, rows_ = 0, column_ = 0, columns_ = 0;  // of the current tokens
};

template <class S>
void run(const DecodeModel& model, const DecodeStep& step, std::int64_t first_row,
         std::int64_t last_row, void* scratch) noexcept {
  DecodePass<S>(model, step, scratch).run(first_row, last_row);
}

}  // namespace

extern const DecodeTable decode_table;
const DecodeTable decode_table = {
    NCLAB_SIMD_BYTES,
    {&pack<float>, &pack<double>, &pack<BFloat16>, nullptr},
    {&run<float>, &run<double>, &run<BFloat16>, nullptr},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

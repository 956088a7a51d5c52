// Causal attention of one head of one row, forward and backward, all in the caches. Queries are
// processed in blocks of four. Columns after a block's last token or before its first visible
// column are not computed. The backward pass computes the weights again: this costs a seventh more
// products, but the scores are never stored.
#include "kernels/cpu/attention/attention.hpp"
#include "kernels/cpu/attention/products.hpp"
#include "simd/math.hpp"
#include "simd/transpose.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed: the linker must not merge the copies of two instruction sets.
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs its own copy
namespace {

// Calls from the loops over tokens. Vectors go through memory where GCC does not inline them.
#define NCLAB_INLINE __attribute__((always_inline))

template <class A>
inline A square_root_of(A x) noexcept {
  if constexpr (sizeof(A) == 8) {
    return __builtin_sqrt(x);
  } else {
    return __builtin_sqrtf(x);
  }
}

template <class A>
constexpr std::int64_t whole_vectors(std::int64_t count) {
  return (count + width<A> - 1) / width<A> * width<A>;
}

// Hands out the working space as rows of whole vectors.
template <class A>
class Arena {
 public:
  explicit Arena(void* memory) noexcept : next_(static_cast<A*>(memory)) {}
  A* take(std::int64_t rows, std::int64_t row) noexcept {
    A* const taken = next_;
    next_ += rows * row;
    return taken;
  }

 private:
  A* next_;
};

template <class S>
class AttentionHead {
  using A = AccumType<S>;
  using V = Whole<A>;
  static constexpr std::int64_t lanes = width<A>;
  // The columns of a block begin at a multiple of this: whole vectors, and at most a block's first
  // row.
  static constexpr std::int64_t column_step = lanes > tile_rows ? lanes : tile_rows;

 public:
  AttentionHead(const Attention& call, std::int64_t row, std::int64_t head, void* scratch) noexcept
      : call_(call),
        length_(call.shape.sequence_length),
        head_dim_(call.shape.head_dim),
        token_stride_(call.shape.heads * head_dim_),
        head_stride_(whole_vectors<A>(head_dim_)),
        length_stride_(whole_vectors<A>(length_)),
        first_token_(row * length_),
        head_offset_(head * head_dim_),
        scale_(1 / square_root_of(static_cast<A>(head_dim_))) {
    Arena<A> arena(scratch);
    q_ = arena.take(length_, head_stride_);
    k_ = arena.take(length_, head_stride_);
    v_ = arena.take(length_, head_stride_);
    mixed_ = arena.take(length_, head_stride_);
    transposed_ = arena.take(head_dim_, length_stride_);
    weights_ = arena.take(length_, length_stride_);
    scores_ = arena.take(length_, length_stride_);
    q_gradient_ = arena.take(length_, head_stride_);
    k_gradient_ = arena.take(length_, head_stride_);
    v_gradient_ = arena.take(length_, head_stride_);
    q_inverse_ = arena.take(1, length_stride_);
    k_inverse_ = arena.take(1, length_stride_);
  }

  void forward() const noexcept {
    compute_weights();
    for (std::int64_t i = 0; i < length_; i += tile_rows) {
      const Block block = block_at(i);
      product<A>({weights_ + i * length_stride_, length_stride_, 1}, block.rows, v_, head_stride_,
                 block.low, block.high, mixed_ + i * head_stride_, head_stride_, head_stride_);
    }
    S* const result = static_cast<S*>(call_.result);
    for (std::int64_t t = 0; t < length_; ++t) {
      store_row(mixed_ + t * head_stride_,
                result + (first_token_ + t) * token_stride_ + head_offset_);
    }
  }

  void backward() const noexcept {
    compute_weights();
    const S* const gradient = static_cast<const S*>(call_.gradient);
    for (std::int64_t t = 0; t < length_; ++t) {  // from here on mixed_ holds the gradient
      load_row(gradient + (first_token_ + t) * token_stride_ + head_offset_,
               mixed_ + t * head_stride_);
    }
    transpose(v_);
    for (std::int64_t i = 0; i < length_; i += tile_rows) {
      const Block block = block_at(i);
      product<A>({mixed_ + i * head_stride_, head_stride_, 1}, block.rows, transposed_ + block.low,
                 length_stride_, 0, head_dim_, scores_ + i * length_stride_ + block.low,
                 length_stride_, block.columns);
      for (std::int64_t t = i; t < i + block.rows; ++t) differentiate_softmax(t, block);
      product<A>({scores_ + i * length_stride_, length_stride_, 1}, block.rows, k_, head_stride_,
                 block.low, block.high, q_gradient_ + i * head_stride_, head_stride_, head_stride_);
    }
    for (std::int64_t j = 0; j < length_; j += tile_rows) {
      const std::int64_t rows = length_ - j < tile_rows ? length_ - j : tile_rows;
      std::int64_t last = j;  // no query from here on sees these columns
      while (last < length_ && block_at(last).low <= j) last += tile_rows;
      last = last < length_ ? last : length_;
      product<A>({scores_ + j, 1, length_stride_}, rows, q_, head_stride_, j, last,
                 k_gradient_ + j * head_stride_, head_stride_, head_stride_);
      product<A>({weights_ + j, 1, length_stride_}, rows, mixed_, head_stride_, j, last,
                 v_gradient_ + j * head_stride_, head_stride_, head_stride_);
    }
    S* const result =
        static_cast<S*>(call_.result) + 3 * first_token_ * token_stride_ + head_offset_;
    for (std::int64_t t = 0; t < length_; ++t) {
      S* const to = result + 3 * t * token_stride_;
      // q_ holds the queries times scale_, so k_gradient_ is complete and q_gradient_ lacks scale_.
      prepare_backward(q_ + t * head_stride_, scale_, q_inverse_[t], q_gradient_ + t * head_stride_,
                       t, to);
      prepare_backward(k_ + t * head_stride_, 1, k_inverse_[t], k_gradient_ + t * head_stride_, t,
                       to + token_stride_);
      store_row(v_gradient_ + t * head_stride_, to + 2 * token_stride_);
    }
  }

 private:
  // Queries i … i + rows − 1. They see the columns low … high − 1. columns: their count, rounded up
  // to whole vectors.
  struct Block {
    std::int64_t rows, low, high, columns;
  };

  Block block_at(std::int64_t i) const noexcept {
    const std::int64_t rows = length_ - i < tile_rows ? length_ - i : tile_rows;
    const std::int64_t low = start(i) / column_step * column_step;
    return {rows, low, i + rows, whole_vectors<A>(i + rows - low)};
  }

  std::int64_t start(std::int64_t t) const noexcept {
    return call_.starts == nullptr ? 0 : call_.starts[first_token_ + t];
  }

  // Fills q_, k_, v_ and weights_.
  void compute_weights() const noexcept {
    const S* const qkv =
        static_cast<const S*>(call_.qkv) + 3 * first_token_ * token_stride_ + head_offset_;
    for (std::int64_t t = 0; t < length_; ++t) {
      const S* const token = qkv + 3 * t * token_stride_;
      q_inverse_[t] = prepare(token, scale_, t, q_ + t * head_stride_);
      k_inverse_[t] = prepare(token + token_stride_, 1, t, k_ + t * head_stride_);
      load_row(token + 2 * token_stride_, v_ + t * head_stride_);
    }
    transpose(k_);
    for (std::int64_t i = 0; i < length_; i += tile_rows) {
      const Block block = block_at(i);
      product<A>({q_ + i * head_stride_, head_stride_, 1}, block.rows, transposed_ + block.low,
                 length_stride_, 0, head_dim_, weights_ + i * length_stride_ + block.low,
                 length_stride_, block.columns);
      for (std::int64_t t = i; t < i + block.rows; ++t) softmax(t, block);
    }
  }

  // Rotates, normalizes and scales a query or key. Returns the inverse of its root mean square.
  A prepare(const S* from, A scale, std::int64_t t, A* to) const noexcept {
    store<V>(to + head_stride_ - lanes, V{});
    if (call_.cosines != nullptr) {
      if (head_dim_ <= 2 * lanes) return prepare_in_registers<1>(from, scale, t, to);
      if (head_dim_ <= 4 * lanes) return prepare_in_registers<2>(from, scale, t, to);
      if (head_dim_ <= 6 * lanes) return prepare_in_registers<3>(from, scale, t, to);
    }
    V squares{};
    if (call_.cosines == nullptr) {
      for_vectors<V>(head_dim_, [&](std::int64_t at, int count) {
        const V x = load_at(from, at, count);
        squares = fused_multiply_add(x, x, squares);
        store_at(to, at, count, x);
      });
    } else {
      const std::int64_t half = head_dim_ / 2;
      const Angles angles = angles_of(t);
      for_vectors<V>(half, [&](std::int64_t at, int count) {
        const Pair x = rotated(load_pair(from, at, count), angles, at, count);
        squares = fused_multiply_add(x.a, x.a, squares);
        squares = fused_multiply_add(x.b, x.b, squares);
        store_pair(to, at, count, x);
      });
    }
    const A inverse = inverse_rms(squares);
    const A factor = inverse * scale;
    for_vectors<V>(head_dim_, [&](std::int64_t at, int count) {
      store_at(to, at, count, load_at(to, at, count) * factor);
    });
    return inverse;
  }

  // prepare() with a rotation, for halves of at most `vectors` vectors, which stay in registers.
  template <int vectors>
  NCLAB_INLINE A prepare_in_registers(const S* from, A scale, std::int64_t t,
                                      A* to) const noexcept {
    const Angles angles = angles_of(t);
    Pair x[vectors];
    V squares{};
    for_halves<vectors>([&](int v, std::int64_t at, int count) NCLAB_INLINE {
      x[v] = rotated(load_pair(from, at, count), angles, at, count);
      squares = fused_multiply_add(x[v].a, x[v].a, squares);
      squares = fused_multiply_add(x[v].b, x[v].b, squares);
    });
    const A inverse = inverse_rms(squares);
    const A factor = inverse * scale;
    for_halves<vectors>([&](int v, std::int64_t at, int count) NCLAB_INLINE {
      store_pair(to, at, count, Pair{x[v].a * factor, x[v].b * factor});
    });
    return inverse;
  }

  // The derivative of prepare(). prepared: its result with `scale`; gradient: the result's
  // gradient, which is overwritten.
  void prepare_backward(const A* prepared, A scale, A inverse, A* gradient, std::int64_t t,
                        S* to) const noexcept {
    if (call_.cosines != nullptr) {
      if (head_dim_ <= 2 * lanes)
        return prepare_backward_in_registers<1>(prepared, scale, inverse, gradient, t, to);
      if (head_dim_ <= 4 * lanes)
        return prepare_backward_in_registers<2>(prepared, scale, inverse, gradient, t, to);
      if (head_dim_ <= 6 * lanes)
        return prepare_backward_in_registers<3>(prepared, scale, inverse, gradient, t, to);
    }
    V products{};
    for_vectors<V>(head_dim_, [&](std::int64_t at, int count) {
      products =
          fused_multiply_add(load_at(prepared, at, count), load_at(gradient, at, count), products);
    });
    const V gradient_factor = broadcast<V>(inverse * scale);
    const V input_factor = broadcast<V>(norm_coefficient(products, scale, inverse));
    for_vectors<V>(head_dim_, [&](std::int64_t at, int count) {
      const V x = load_at(prepared, at, count) * input_factor;
      store_at(gradient, at, count,
               fused_multiply_add(load_at(gradient, at, count), gradient_factor, x));
    });
    if (call_.cosines == nullptr) return store_row(gradient, to);
    const Angles angles = angles_of(t);
    for_vectors<V>(head_dim_ / 2, [&](std::int64_t at, int count) {
      store_pair(to, at, count, rotated_back(load_pair(gradient, at, count), angles, at, count));
    });
  }

  // prepare_backward() with a rotation, for halves of at most `vectors` vectors.
  template <int vectors>
  NCLAB_INLINE void prepare_backward_in_registers(const A* prepared, A scale, A inverse,
                                                  const A* gradient, std::int64_t t,
                                                  S* to) const noexcept {
    Pair x[vectors], g[vectors];
    V products{};
    for_halves<vectors>([&](int v, std::int64_t at, int count) NCLAB_INLINE {
      x[v] = load_pair(prepared, at, count);
      g[v] = load_pair(gradient, at, count);
      products = fused_multiply_add(x[v].a, g[v].a, products);
      products = fused_multiply_add(x[v].b, g[v].b, products);
    });
    const V gradient_factor = broadcast<V>(inverse * scale);
    const V input_factor = broadcast<V>(norm_coefficient(products, scale, inverse));
    const Angles angles = angles_of(t);
    for_halves<vectors>([&](int v, std::int64_t at, int count) NCLAB_INLINE {
      const Pair d{fused_multiply_add(g[v].a, gradient_factor, x[v].a * input_factor),
                   fused_multiply_add(g[v].b, gradient_factor, x[v].b * input_factor)};
      store_pair(to, at, count, rotated_back(d, angles, at, count));
    });
  }

  // The lanes of a query or key that are rotated together: one from each half.
  struct Pair {
    V a, b;
  };
  struct Angles {
    const A *cosines, *sines;
  };

  NCLAB_INLINE Angles angles_of(std::int64_t t) const noexcept {
    const std::int64_t at = call_.positions[first_token_ + t] * (head_dim_ / 2);
    return {static_cast<const A*>(call_.cosines) + at, static_cast<const A*>(call_.sines) + at};
  }

  template <class T>
  NCLAB_INLINE Pair load_pair(const T* from, std::int64_t at, int count) const noexcept {
    return {load_at(from, at, count), load_at(from + head_dim_ / 2, at, count)};
  }

  template <class T>
  NCLAB_INLINE void store_pair(T* to, std::int64_t at, int count, Pair x) const noexcept {
    store_at(to, at, count, x.a);
    store_at(to + head_dim_ / 2, at, count, x.b);
  }

  NCLAB_INLINE static Pair rotated(Pair x, Angles angles, std::int64_t at, int count) noexcept {
    const V cosine = load_at(angles.cosines, at, count), sine = load_at(angles.sines, at, count);
    return {fused_multiply_add(x.a, cosine, x.b * sine),
            fused_multiply_add(x.b, cosine, -(x.a * sine))};
  }

  NCLAB_INLINE static Pair rotated_back(Pair x, Angles angles, std::int64_t at,
                                        int count) noexcept {
    const V cosine = load_at(angles.cosines, at, count), sine = load_at(angles.sines, at, count);
    return {fused_multiply_add(x.a, cosine, -(x.b * sine)),
            fused_multiply_add(x.b, cosine, x.a * sine)};
  }

  // Calls body(index, offset, count) for the `vectors` vectors of a half; the last may be short.
  template <int vectors, class Body>
  NCLAB_INLINE void for_halves(const Body& body) const noexcept {
#pragma GCC unroll 4
    for (int v = 0; v + 1 < vectors; ++v) body(v, v * lanes, static_cast<int>(lanes));
    constexpr std::int64_t at = (vectors - 1) * lanes;
    body(vectors - 1, at, static_cast<int>(head_dim_ / 2 - at));
  }

  // The inverse root mean square from the sums of squares, or 1 without a norm.
  NCLAB_INLINE A inverse_rms(V squares) const noexcept {
    if (call_.shape.normed == 0) return 1;
    const A mean = sum_of_lanes(squares) / static_cast<A>(head_dim_);
    return 1 / square_root_of(mean + static_cast<A>(call_.shape.eps));
  }

  // The factor of the prepared row in the gradient of the norm.
  NCLAB_INLINE A norm_coefficient(V products, A scale, A inverse) const noexcept {
    if (call_.shape.normed == 0) return 0;
    return -sum_of_lanes(products) / static_cast<A>(head_dim_) * inverse / scale;
  }

  void load_row(const S* from, A* to) const noexcept {
    for_vectors<V>(head_dim_, [&](std::int64_t at, int count) {
      store<V>(to + at, load_at(from, at, count));
    });
  }

  void store_row(const A* from, S* to) const noexcept {
    for_vectors<V>(head_dim_, [&](std::int64_t at, int count) {
      store_at(to, at, count, load_at(from, at, count));
    });
  }

  // transposed_ = the transpose of (length, head_dim) rows, one tile at a time. The padding is 0.
  void transpose(const A* from) const noexcept {
    using TileRow = Vector<A, side<A>>;
    for (std::int64_t t = 0; t < length_stride_; t += side<A>) {
      for (std::int64_t d = 0; d < head_dim_; d += side<A>) {
        TileRow tile[side<A>];
#pragma GCC unroll 8
        for (int i = 0; i < side<A>; ++i) {
          tile[i] = t + i < length_ ? load<TileRow>(from + (t + i) * head_stride_ + d) : TileRow{};
        }
        transpose_square(tile);
#pragma GCC unroll 8
        for (int i = 0; i < side<A>; ++i) {
          if (d + i < head_dim_)
            store<TileRow>(transposed_ + (d + i) * length_stride_ + t, tile[i]);
        }
      }
    }
  }

  // Turns the scores of query t into weights. Columns of its block that it does not see become 0.
  void softmax(std::int64_t t, const Block& block) const noexcept {
    A* const row = weights_ + t * length_stride_ + block.low;
    const auto from = static_cast<Bits<A>>(start(t) - block.low);
    const auto to = static_cast<Bits<A>>(t - block.low);
    const V least = broadcast<V>(-static_cast<A>(__builtin_inff()));
    V most = least;
    for (std::int64_t at = 0; at < block.columns; at += lanes) {
      const auto column = lane_numbers<V>() + static_cast<Bits<A>>(at);
      const V score = load<V>(row + at);
      const V seen = ((column >= from) & (column <= to)) ? score : least;
      most = larger(most, seen);
      store<V>(row + at, seen);
    }
    const V maximum = broadcast<V>(largest_lane(most));
    V sums{};
    for (std::int64_t at = 0; at < block.columns; at += lanes) {
      const V seen = load<V>(row + at);
      const V power = seen == least ? V{} : exp_of_nonpositive(seen - maximum);
      sums += power;
      store<V>(row + at, power);
    }
    const V share = broadcast<V>(1 / sum_of_lanes(sums));
    for (std::int64_t at = 0; at < block.columns; at += lanes) {
      store<V>(row + at, load<V>(row + at) * share);
    }
  }

  // Turns the gradient of query t's weights, in scores_, into the gradient of its scores.
  void differentiate_softmax(std::int64_t t, const Block& block) const noexcept {
    const A* const weights = weights_ + t * length_stride_ + block.low;
    A* const row = scores_ + t * length_stride_ + block.low;
    V sums{};
    for (std::int64_t at = 0; at < block.columns; at += lanes) {
      sums = fused_multiply_add(load<V>(weights + at), load<V>(row + at), sums);
    }
    const V mean = broadcast<V>(sum_of_lanes(sums));
    for (std::int64_t at = 0; at < block.columns; at += lanes) {
      store<V>(row + at, load<V>(weights + at) * (load<V>(row + at) - mean));
    }
  }

  const Attention& call_;
  std::int64_t length_, head_dim_, token_stride_, head_stride_, length_stride_, first_token_,
      head_offset_;
  A scale_;
  // (length, head_stride) each. q_ includes scale_; mixed_ holds the mixed values or their
  // gradient. The padding of each row is 0: the products read it, and subnormal numbers left there
  // by earlier calls would slow them down tenfold.
  A *q_, *k_, *v_, *mixed_, *q_gradient_, *k_gradient_, *v_gradient_;
  A* transposed_;         // (head_dim, length_stride): keys or values, transposed
  A *weights_, *scores_;  // (length, length_stride)
  A *q_inverse_, *k_inverse_;
};

template <class S>
void forward(const Attention& call, std::int64_t row, std::int64_t head, void* scratch) noexcept {
  AttentionHead<S>(call, row, head, scratch).forward();
}

template <class S>
void backward(const Attention& call, std::int64_t row, std::int64_t head, void* scratch) noexcept {
  AttentionHead<S>(call, row, head, scratch).backward();
}

}  // namespace

extern const AttentionTable attention_table;
const AttentionTable attention_table = {
    {&forward<float>, &forward<double>, &forward<BFloat16>, &forward<Float16>},
    {&backward<float>, &backward<double>, &backward<BFloat16>, &backward<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

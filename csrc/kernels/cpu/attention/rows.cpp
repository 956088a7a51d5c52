// Causal attention of one head of one row, forward and backward, all of it in the caches. Four
// queries are a block; what lies after a block's last token or before its first visible column is
// not computed. The backward pass computes the weights again: a seventh more products, and nothing
// as large as the scores is ever kept.
#include "kernels/cpu/attention/attention.hpp"
#include "kernels/cpu/attention/products.hpp"
#include "simd/math.hpp"
#include "simd/transpose.hpp"

namespace nanochat::kernels::NCLAB_SIMD {
// Unnamed, so that no instruction set's copy stands in for another's:
// NOLINTNEXTLINE(cert-dcl59-cpp): each instruction set needs a copy of its own
namespace {

template <class N>
inline N square_root_of(N x) noexcept {
  if constexpr (sizeof(N) == 8) {
    return __builtin_sqrt(x);
  } else {
    return __builtin_sqrtf(x);
  }
}

template <class N>
constexpr std::int64_t whole_vectors(std::int64_t count) {
  return (count + width<N> - 1) / width<N> * width<N>;
}

// Hands out the working space, row by row of whole vectors.
template <class N>
class Space {
 public:
  explicit Space(void* memory) noexcept : next_(static_cast<N*>(memory)) {}
  N* take(std::int64_t rows, std::int64_t row) noexcept {
    N* const taken = next_;
    next_ += rows * row;
    return taken;
  }

 private:
  N* next_;
};

template <class S>
class Head {
  using N = Number<S>;
  using V = Whole<N>;
  static constexpr std::int64_t lanes = width<N>;
  // Columns of a block begin at a multiple of it: whole vectors, and no later than a block of rows.
  static constexpr std::int64_t step = lanes > tile_rows ? lanes : tile_rows;

 public:
  Head(const Attention& call, std::int64_t row, std::int64_t head, void* scratch) noexcept
      : call_(call),
        width_(call.shape.width),
        size_(call.shape.head_dim),
        stride_(call.shape.heads * size_),
        size_room_(whole_vectors<N>(size_)),
        width_room_(whole_vectors<N>(width_)),
        first_token_(row * width_),
        head_(head * size_),
        scale_(1 / square_root_of(static_cast<N>(size_))) {
    Space<N> space(scratch);
    q_ = space.take(width_, size_room_);
    k_ = space.take(width_, size_room_);
    v_ = space.take(width_, size_room_);
    mixed_ = space.take(width_, size_room_);
    across_ = space.take(size_, width_room_);
    weights_ = space.take(width_, width_room_);
    scores_ = space.take(width_, width_room_);
    d_q_ = space.take(width_, size_room_);
    d_k_ = space.take(width_, size_room_);
    d_v_ = space.take(width_, size_room_);
    q_inverse_ = space.take(1, width_room_);
    k_inverse_ = space.take(1, width_room_);
  }

  void forward() const noexcept {
    weigh();
    for (std::int64_t i = 0; i < width_; i += tile_rows) {
      const Block block = block_at(i);
      product<N>({weights_ + i * width_room_, width_room_, 1}, block.rows, v_, size_room_,
                 block.low, block.high, mixed_ + i * size_room_, size_room_, size_room_);
    }
    S* const result = static_cast<S*>(call_.result);
    for (std::int64_t t = 0; t < width_; ++t) {
      copy(mixed_ + t * size_room_, result + (first_token_ + t) * stride_ + head_);
    }
  }

  void backward() const noexcept {
    weigh();
    const S* const gradient = static_cast<const S*>(call_.gradient);
    for (std::int64_t t = 0; t < width_; ++t) {  // of the mixed values, from here on
      widened(gradient + (first_token_ + t) * stride_ + head_, mixed_ + t * size_room_);
    }
    turn(v_);
    for (std::int64_t i = 0; i < width_; i += tile_rows) {
      const Block block = block_at(i);
      product<N>({mixed_ + i * size_room_, size_room_, 1}, block.rows, across_ + block.low,
                 width_room_, 0, size_, scores_ + i * width_room_ + block.low, width_room_,
                 block.columns);
      for (std::int64_t t = i; t < i + block.rows; ++t) differentiate_softmax(t, block);
      product<N>({scores_ + i * width_room_, width_room_, 1}, block.rows, k_, size_room_, block.low,
                 block.high, d_q_ + i * size_room_, size_room_, size_room_);
    }
    for (std::int64_t j = 0; j < width_; j += tile_rows) {
      const std::int64_t rows = width_ - j < tile_rows ? width_ - j : tile_rows;
      std::int64_t last = j;  // beyond it no block of queries sees these columns
      while (last < width_ && block_at(last).low <= j) last += tile_rows;
      last = last < width_ ? last : width_;
      product<N>({scores_ + j, 1, width_room_}, rows, q_, size_room_, j, last,
                 d_k_ + j * size_room_, size_room_, size_room_);
      product<N>({weights_ + j, 1, width_room_}, rows, mixed_, size_room_, j, last,
                 d_v_ + j * size_room_, size_room_, size_room_);
    }
    S* const result = static_cast<S*>(call_.result) + 3 * first_token_ * stride_ + head_;
    for (std::int64_t t = 0; t < width_; ++t) {
      S* const to = result + 3 * t * stride_;
      // q_ holds the queries times scale_, so that d_k is whole and d_q lacks it.
      place_back(q_ + t * size_room_, scale_, q_inverse_[t], d_q_ + t * size_room_, t, to);
      place_back(k_ + t * size_room_, 1, k_inverse_[t], d_k_ + t * size_room_, t, to + stride_);
      copy(d_v_ + t * size_room_, to + 2 * stride_);
    }
  }

 private:
  // Queries i … i + rows − 1 and the columns that they see: low … high − 1, in whole vectors from
  // low on `columns`.
  struct Block {
    std::int64_t rows, low, high, columns;
  };

  Block block_at(std::int64_t i) const noexcept {
    const std::int64_t rows = width_ - i < tile_rows ? width_ - i : tile_rows;
    const std::int64_t low = start(i) / step * step;
    return {rows, low, i + rows, whole_vectors<N>(i + rows - low)};
  }

  std::int64_t start(std::int64_t t) const noexcept {
    return call_.starts == nullptr ? 0 : call_.starts[first_token_ + t];
  }

  // Fills q_, k_, v_ and the weights.
  void weigh() const noexcept {
    const S* const qkv = static_cast<const S*>(call_.qkv) + 3 * first_token_ * stride_ + head_;
    for (std::int64_t t = 0; t < width_; ++t) {
      const S* const token = qkv + 3 * t * stride_;
      q_inverse_[t] = place(token, scale_, t, q_ + t * size_room_);
      k_inverse_[t] = place(token + stride_, 1, t, k_ + t * size_room_);
      widened(token + 2 * stride_, v_ + t * size_room_);
    }
    turn(k_);
    for (std::int64_t i = 0; i < width_; i += tile_rows) {
      const Block block = block_at(i);
      product<N>({q_ + i * size_room_, size_room_, 1}, block.rows, across_ + block.low, width_room_,
                 0, size_, weights_ + i * width_room_ + block.low, width_room_, block.columns);
      for (std::int64_t t = i; t < i + block.rows; ++t) softmax(t, block);
    }
  }

  // Rotates a query or key, norms it, and scales it; returns what it was divided by, inverted.
  N place(const S* from, N scale, std::int64_t t, N* to) const noexcept {
    store<V>(to + size_room_ - lanes, V{});
    if (call_.cosines != nullptr) {
      if (size_ <= 2 * lanes) return place_turned<1>(from, scale, t, to);
      if (size_ <= 4 * lanes) return place_turned<2>(from, scale, t, to);
      if (size_ <= 6 * lanes) return place_turned<3>(from, scale, t, to);
    }
    V squares{};
    if (call_.cosines == nullptr) {
      for_vectors<V>(size_, [&](std::int64_t at, int count) {
        const V x = load_at(from, at, count);
        squares = fused_multiply_add(x, x, squares);
        store_at(to, at, count, x);
      });
    } else {
      const std::int64_t half = size_ / 2;
      const Angles angles = angles_of(t);
      for_vectors<V>(half, [&](std::int64_t at, int count) {
        const Pair x = turned(load_pair(from, at, count), angles, at, count);
        squares = fused_multiply_add(x.a, x.a, squares);
        squares = fused_multiply_add(x.b, x.b, squares);
        store_pair(to, at, count, x);
      });
    }
    const N inverse = inverse_of(squares);
    const N factor = inverse * scale;
    for_vectors<V>(size_, [&](std::int64_t at, int count) {
      store_at(to, at, count, load_at(to, at, count) * factor);
    });
    return inverse;
  }

  // place() with a rotation, for halves of at most `vectors` vectors: they stay in registers.
  template <int vectors>
  N place_turned(const S* from, N scale, std::int64_t t, N* to) const noexcept {
    const Angles angles = angles_of(t);
    Pair x[vectors];
    V squares{};
    for_halves<vectors>([&](int v, std::int64_t at, int count) {
      x[v] = turned(load_pair(from, at, count), angles, at, count);
      squares = fused_multiply_add(x[v].a, x[v].a, squares);
      squares = fused_multiply_add(x[v].b, x[v].b, squares);
    });
    const N inverse = inverse_of(squares);
    const N factor = inverse * scale;
    for_halves<vectors>([&](int v, std::int64_t at, int count) {
      store_pair(to, at, count, Pair{x[v].a * factor, x[v].b * factor});
    });
    return inverse;
  }

  // The way back: `placed` is what place() made with `scale`, `gradient` is of it and may change.
  void place_back(const N* placed, N scale, N inverse, N* gradient, std::int64_t t,
                  S* to) const noexcept {
    if (call_.cosines != nullptr) {
      if (size_ <= 2 * lanes) return turn_back<1>(placed, scale, inverse, gradient, t, to);
      if (size_ <= 4 * lanes) return turn_back<2>(placed, scale, inverse, gradient, t, to);
      if (size_ <= 6 * lanes) return turn_back<3>(placed, scale, inverse, gradient, t, to);
    }
    V products{};
    for_vectors<V>(size_, [&](std::int64_t at, int count) {
      products =
          fused_multiply_add(load_at(placed, at, count), load_at(gradient, at, count), products);
    });
    const V straight = broadcast<V>(inverse * scale);
    const V back = broadcast<V>(along(products, scale, inverse));
    for_vectors<V>(size_, [&](std::int64_t at, int count) {
      const V x = load_at(placed, at, count) * back;
      store_at(gradient, at, count, fused_multiply_add(load_at(gradient, at, count), straight, x));
    });
    if (call_.cosines == nullptr) return copy(gradient, to);
    const Angles angles = angles_of(t);
    for_vectors<V>(size_ / 2, [&](std::int64_t at, int count) {
      store_pair(to, at, count, turned_back(load_pair(gradient, at, count), angles, at, count));
    });
  }

  // place_back() with a rotation, for halves of at most `vectors` vectors.
  template <int vectors>
  void turn_back(const N* placed, N scale, N inverse, const N* gradient, std::int64_t t,
                 S* to) const noexcept {
    Pair x[vectors], g[vectors];
    V products{};
    for_halves<vectors>([&](int v, std::int64_t at, int count) {
      x[v] = load_pair(placed, at, count);
      g[v] = load_pair(gradient, at, count);
      products = fused_multiply_add(x[v].a, g[v].a, products);
      products = fused_multiply_add(x[v].b, g[v].b, products);
    });
    const V straight = broadcast<V>(inverse * scale);
    const V back = broadcast<V>(along(products, scale, inverse));
    const Angles angles = angles_of(t);
    for_halves<vectors>([&](int v, std::int64_t at, int count) {
      const Pair d{fused_multiply_add(g[v].a, straight, x[v].a * back),
                   fused_multiply_add(g[v].b, straight, x[v].b * back)};
      store_pair(to, at, count, turned_back(d, angles, at, count));
    });
  }

  // Lanes of a query or key that are rotated together: of its first half and of its second.
  struct Pair {
    V a, b;
  };
  struct Angles {
    const N *cosines, *sines;
  };

  Angles angles_of(std::int64_t t) const noexcept {
    const std::int64_t at = call_.positions[first_token_ + t] * (size_ / 2);
    return {static_cast<const N*>(call_.cosines) + at, static_cast<const N*>(call_.sines) + at};
  }

  template <class T>
  Pair load_pair(const T* from, std::int64_t at, int count) const noexcept {
    return {load_at(from, at, count), load_at(from + size_ / 2, at, count)};
  }

  template <class T>
  void store_pair(T* to, std::int64_t at, int count, Pair x) const noexcept {
    store_at(to, at, count, x.a);
    store_at(to + size_ / 2, at, count, x.b);
  }

  static Pair turned(Pair x, Angles angles, std::int64_t at, int count) noexcept {
    const V cosine = load_at(angles.cosines, at, count), sine = load_at(angles.sines, at, count);
    return {fused_multiply_add(x.a, cosine, x.b * sine),
            fused_multiply_add(x.b, cosine, -(x.a * sine))};
  }

  static Pair turned_back(Pair x, Angles angles, std::int64_t at, int count) noexcept {
    const V cosine = load_at(angles.cosines, at, count), sine = load_at(angles.sines, at, count);
    return {fused_multiply_add(x.a, cosine, -(x.b * sine)),
            fused_multiply_add(x.b, cosine, x.a * sine)};
  }

  // Calls body(number, offset, count) for the `vectors` vectors of a half; the last may be short.
  template <int vectors, class Body>
  void for_halves(const Body& body) const noexcept {
#pragma GCC unroll 4
    for (int v = 0; v + 1 < vectors; ++v) body(v, v * lanes, static_cast<int>(lanes));
    constexpr std::int64_t at = (vectors - 1) * lanes;
    body(vectors - 1, at, static_cast<int>(size_ / 2 - at));
  }

  // One over the root mean square of a query or key whose squares are summed in lanes; 1 if
  // unnormed.
  N inverse_of(V squares) const noexcept {
    if (call_.shape.normed == 0) return 1;
    const N mean = sum_of_lanes(squares) / static_cast<N>(size_);
    return 1 / square_root_of(mean + static_cast<N>(call_.shape.eps));
  }

  // How much of what was placed the norm takes out of its gradient.
  N along(V products, N scale, N inverse) const noexcept {
    if (call_.shape.normed == 0) return 0;
    return -sum_of_lanes(products) / static_cast<N>(size_) * inverse / scale;
  }

  void widened(const S* from, N* to) const noexcept {
    for_vectors<V>(
        size_, [&](std::int64_t at, int count) { store<V>(to + at, load_at(from, at, count)); });
  }

  void copy(const N* from, S* to) const noexcept {
    for_vectors<V>(size_, [&](std::int64_t at, int count) {
      store_at(to, at, count, load_at(from, at, count));
    });
  }

  // across_ = the transpose of (width, size) rows, a square at a time; what lies behind a row is 0.
  void turn(const N* from) const noexcept {
    using Row = Vector<N, side<N>>;
    for (std::int64_t t = 0; t < width_room_; t += side<N>) {
      for (std::int64_t d = 0; d < size_; d += side<N>) {
        Row square[side<N>];
#pragma GCC unroll 8
        for (int i = 0; i < side<N>; ++i) {
          square[i] = t + i < width_ ? load<Row>(from + (t + i) * size_room_ + d) : Row{};
        }
        transpose_square(square);
#pragma GCC unroll 8
        for (int i = 0; i < side<N>; ++i) {
          if (d + i < size_) store<Row>(across_ + (d + i) * width_room_ + t, square[i]);
        }
      }
    }
  }

  // Scores of query t become weights; columns of its block that it does not see become 0.
  void softmax(std::int64_t t, const Block& block) const noexcept {
    N* const row = weights_ + t * width_room_ + block.low;
    const auto from = static_cast<Bits<N>>(start(t) - block.low);
    const auto to = static_cast<Bits<N>>(t - block.low);
    const V least = broadcast<V>(-static_cast<N>(__builtin_inff()));
    V most = least;
    for (std::int64_t at = 0; at < block.columns; at += lanes) {
      const auto column = lane_numbers<V>() + static_cast<Bits<N>>(at);
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

  // scores_ of query t: from the gradient of its weights to that of its scores.
  void differentiate_softmax(std::int64_t t, const Block& block) const noexcept {
    const N* const weights = weights_ + t * width_room_ + block.low;
    N* const row = scores_ + t * width_room_ + block.low;
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
  std::int64_t width_, size_, stride_, size_room_, width_room_, first_token_, head_;
  N scale_;
  // (width, size_room) each; q_ times scale_, mixed_ the mixed values or their gradient. What lies
  // behind a row is 0: the products read it, and subnormal leavings there would slow them tenfold.
  N *q_, *k_, *v_, *mixed_, *d_q_, *d_k_, *d_v_;
  N* across_;             // (size, width_room) keys or values, transposed
  N *weights_, *scores_;  // (width, width_room)
  N *q_inverse_, *k_inverse_;
};

template <class S>
void forward(const Attention& call, std::int64_t row, std::int64_t head, void* scratch) noexcept {
  Head<S>(call, row, head, scratch).forward();
}

template <class S>
void backward(const Attention& call, std::int64_t row, std::int64_t head, void* scratch) noexcept {
  Head<S>(call, row, head, scratch).backward();
}

}  // namespace

extern const AttentionTable attention_table;
const AttentionTable attention_table = {
    {&forward<float>, &forward<double>, &forward<BFloat16>, &forward<Float16>},
    {&backward<float>, &backward<double>, &backward<BFloat16>, &backward<Float16>},
};

}  // namespace nanochat::kernels::NCLAB_SIMD

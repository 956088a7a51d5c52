// The kernel calls of one batch shape, with every address resolved. Used by replay, bind and moves.
#ifndef NANOCHAT_SCALAR_PROGRAM_BOUND_HPP_
#define NANOCHAT_SCALAR_PROGRAM_BOUND_HPP_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "scalar/program/replay/replay.hpp"
#include "scalar/simd/simd.hpp"

namespace nanochat::program {

enum class CallKind : std::uint8_t {
  gemm,
  outer,
  sum,
  cross,
  fan,
  map,
  largest,
  transpose,
  zero,
  forward_move,
  backward_move
};

template <class T>
struct MapCall {
  simd::Map op;
  T* dst;
  const T* src;
  std::size_t n;
  double constant;
};

template <class T>
struct RowsCall {
  T* dst;
  std::ptrdiff_t dst_step;
  const T* src;
  std::ptrdiff_t src_step;
  std::int32_t rows, lanes;
  std::int32_t count = 1;       // largest: destinations
  std::ptrdiff_t src_next = 0;  // from one's rows to the next one's
};

// Calls of one kind that follow each other.
struct CallRange {
  std::size_t begin, end;
};

// Arrays that calls point into: they never move, and all go at once.
template <class Element>
class Pool {
 public:
  Element* take(std::size_t count) {
    if (chunk_ == chunks_.size() || used_ + count > sizes_[chunk_]) next_chunk(count);
    Element* taken = chunks_[chunk_].get() + used_;
    used_ += count;
    return taken;
  }
  void clear() noexcept { chunk_ = used_ = 0; }

 private:
  void next_chunk(std::size_t count) {
    if (chunk_ < chunks_.size()) ++chunk_;
    used_ = 0;
    while (chunk_ < chunks_.size() && sizes_[chunk_] < count) ++chunk_;
    if (chunk_ < chunks_.size()) return;
    sizes_.push_back(std::max<std::size_t>(count, 4096));
    chunks_.push_back(std::make_unique<Element[]>(sizes_.back()));
  }

  std::vector<std::unique_ptr<Element[]>> chunks_;
  std::vector<std::size_t> sizes_;
  std::size_t chunk_ = 0, used_ = 0;
};

struct Layout {
  std::size_t base = 0;     // of row 0, in rows_
  std::ptrdiff_t step = 1;  // elements from row to row
  // Ragged: each stage is a block with a step of its own; where blocks begin, and the end.
  std::vector<std::ptrdiff_t> block{}, steps{};
};

// A call is its kind in the low 8 bits and its place among the calls of that kind above them.
template <class T>
struct Replay<T>::Bound {
  std::vector<std::int32_t> width;
  std::vector<Layout> layout;  // of each group
  std::vector<std::uint64_t> forward, backward;
  std::vector<simd::Gemm<T>> gemms;
  std::vector<simd::Sum<T>> sums;
  std::vector<simd::Cross<T>> crosses;
  std::vector<simd::Fan<T>> fans;
  std::vector<CallRange> ranges;  // of crosses or fans
  std::vector<MapCall<T>> maps;
  std::vector<RowsCall<T>> rows_calls;
  Pool<simd::Term<T>> terms;
  Pool<const T*> pointers;
  Pool<std::int32_t> alive;
  std::vector<T*> columns;  // of each group, once bound: lanes as rows
  Pool<T> scratch;

  void clear() {
    forward.clear();
    backward.clear();
    gemms.clear();
    sums.clear();
    crosses.clear();
    fans.clear();
    ranges.clear();
    maps.clear();
    rows_calls.clear();
    terms.clear();
    pointers.clear();
    alive.clear();
    scratch.clear();
    columns.assign(columns.size(), nullptr);
  }
  void call(bool is_forward, CallKind kind, std::size_t at) {
    (is_forward ? forward : backward)
        .push_back(static_cast<std::uint64_t>(at) << 8U | static_cast<std::uint64_t>(kind));
  }
  // A call that joins the one before it where that is of its kind and its neighbour.
  void call_next(bool is_forward, CallKind kind, std::size_t at) {
    const std::vector<std::uint64_t>& list = is_forward ? forward : backward;
    if (!list.empty() && static_cast<CallKind>(list.back() & 0xFFU) == kind &&
        ranges.back().end == at) {
      ++ranges.back().end;
      return;
    }
    call(is_forward, kind, ranges.size());
    ranges.push_back({at, at + 1});
  }
};

template <class T>
std::int32_t Replay<T>::lanes(std::int32_t g, std::int32_t stage) const noexcept {
  const Group& group = program_.groups[static_cast<std::size_t>(g)];
  if (group.is_shared()) return 1;
  if (stage != own) return width_[static_cast<std::size_t>(stage)];
  return offset_[static_cast<std::size_t>(group.end)] -
         offset_[static_cast<std::size_t>(group.begin)];
}

template <class T>
T* Replay<T>::destination(std::int32_t g, std::int32_t stage, std::int32_t index) const noexcept {
  const Group& group = program_.groups[static_cast<std::size_t>(g)];
  const Layout& layout = bound_->layout[static_cast<std::size_t>(g)];
  T* const base = const_cast<T*>(rows_.data()) + layout.base;
  if (group.ragged() && stage != own) {
    const auto at = static_cast<std::size_t>(stage - group.begin);
    return base + layout.block[at] + index * layout.steps[at];
  }
  T* const row = base + index * layout.step;
  return group.is_shared() || stage == own ? row : row + first_lane(g, stage);
}

// Elements between rows of a group at a stage.
template <class T>
std::ptrdiff_t Replay<T>::row_step(std::int32_t g, std::int32_t stage) const noexcept {
  const Group& group = program_.groups[static_cast<std::size_t>(g)];
  const Layout& layout = bound_->layout[static_cast<std::size_t>(g)];
  return group.ragged() ? layout.steps[static_cast<std::size_t>(stage - group.begin)] : layout.step;
}

// Where a stage's documents begin among the lanes of a group.
template <class T>
std::int32_t Replay<T>::first_lane(std::int32_t g, std::int32_t stage) const noexcept {
  const Group& group = program_.groups[static_cast<std::size_t>(g)];
  return offset_[static_cast<std::size_t>(stage)] - offset_[static_cast<std::size_t>(group.begin)];
}

// A group's lanes as rows of features, from a stage's first lane on; null where nobody needs them.
template <class T>
const T* Replay<T>::column(std::int32_t g, std::int32_t stage) const noexcept {
  const T* const columns = bound_->columns[static_cast<std::size_t>(g)];
  return columns == nullptr ? nullptr : columns + first_lane(g, stage) * column_step(g);
}

template <class T>
std::ptrdiff_t Replay<T>::column_step(std::int32_t g) const noexcept {
  const std::ptrdiff_t features = program_.groups[static_cast<std::size_t>(g)].features;
  return (features + 15) / 16 * 16;
}

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_BOUND_HPP_

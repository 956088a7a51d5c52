// The kernel calls of one batch shape, with all addresses resolved. Internal to the replay.
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
  gradient_gemm,
  sum,
  cross,
  fan,
  map,
  largest,
  transpose,
  zero,
  gather,
  fill,
  input,
  seed,
  one_hot,
  select,
  scatter,
  single_products,
};

template <class T>
struct MapCall {
  simd::Map op;
  T* dst;
  const T* src;
  std::size_t n;
  double constant;
};

// Each of `destinations` rows becomes the largest of `rows` rows.
template <class T>
struct LargestCall {
  T* dst;
  std::ptrdiff_t dst_step;
  std::int32_t destinations;
  const T* src;
  std::ptrdiff_t src_step;  // elements between the rows of one destination
  std::ptrdiff_t src_next;  // elements from the rows of one destination to those of the next one
  std::int32_t rows, lanes;
};

template <class T>
struct TransposeCall {
  T* dst;
  std::ptrdiff_t dst_step;
  const T* src;
  std::ptrdiff_t src_step;
  std::int32_t rows, lanes;
};

template <class T>
struct ZeroCall {
  T* dst;
  std::size_t n;
};

// Consecutive calls of one kind.
struct CallRange {
  std::size_t begin, end;
};

// Memory for arrays that calls point to. Arrays do not move, and all are freed at once.
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

// The memory of one group.
struct Layout {
  std::size_t base = 0;     // of row 0, in memory_
  std::ptrdiff_t step = 1;  // elements from row to row
  // Ragged groups: the beginning of each position's block, and the end; the step of each block.
  std::vector<std::ptrdiff_t> block{}, steps{};
};

// A call is encoded as its kind in the low 8 bits and its index among the calls of that kind above
// them. The replay switches on the kind; instructions are visited only here, once per batch shape.
template <class T>
struct Replay<T>::Bound {
  std::vector<std::int32_t> width;
  std::vector<Layout> layout;  // per group
  std::vector<std::uint64_t> forward, backward;
  std::vector<std::uint64_t>* list = nullptr;  // forward or backward, while binding
  std::vector<simd::Gemm<T>> gemms;
  std::vector<simd::Sum<T>> sums;
  std::vector<simd::Cross<T>> crosses;
  std::vector<simd::Fan<T>> fans;
  std::vector<CallRange> ranges;  // of crosses or fans
  std::vector<MapCall<T>> maps;
  std::vector<LargestCall<T>> largest;
  std::vector<TransposeCall<T>> transposes;
  std::vector<ZeroCall<T>> zeros;
  std::vector<const GatherRows*> gathers;
  std::vector<const FillRows*> fills;
  std::vector<const InputRows*> inputs;
  std::vector<const SeedRows*> seeds;
  std::vector<const OneHotRows*> one_hots;
  std::vector<const SelectRows*> selects;
  std::vector<const ScatterRows*> scatters;
  std::vector<Range> single_products;
  Pool<simd::Term<T>> terms;
  Pool<simd::Products<T>> products;
  Pool<const T*> pointers;
  Pool<simd::PositionRows<T>> positions;
  std::vector<const simd::PositionRows<T>*> positions_of;  // per group, if bound
  const simd::PositionRows<T>* ones = nullptr;
  std::vector<T*> columns;  // per group, if bound: lanes as rows
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
    largest.clear();
    transposes.clear();
    zeros.clear();
    gathers.clear();
    fills.clear();
    inputs.clear();
    seeds.clear();
    one_hots.clear();
    selects.clear();
    scatters.clear();
    single_products.clear();
    terms.clear();
    products.clear();
    pointers.clear();
    positions.clear();
    positions_of.assign(positions_of.size(), nullptr);
    ones = nullptr;
    scratch.clear();
    columns.assign(columns.size(), nullptr);
  }
  // Appends a call, whose arguments go to `calls`.
  template <class Call>
  void add(CallKind kind, std::vector<Call>& calls, const Call& call) {
    append(kind, calls.size());
    calls.push_back(call);
  }
  // Appends a call, which joins the one before it if that is its neighbor of the same kind.
  template <class Call>
  void add_to_range(CallKind kind, std::vector<Call>& calls, const Call& call) {
    const std::size_t at = calls.size();
    calls.push_back(call);
    const bool same_kind = !list->empty() && static_cast<CallKind>(list->back() & 0xFFU) == kind;
    if (same_kind && ranges.back().end == at) {
      ++ranges.back().end;
    } else {
      add(kind, ranges, {at, at + 1});
    }
  }

 private:
  void append(CallKind kind, std::size_t at) {
    list->push_back(static_cast<std::uint64_t>(at) << 8U | static_cast<std::uint64_t>(kind));
  }
};

// Does each position of the group have one move, of all its rows?
template <class Rows>
bool covers_group(const VectorProgram& program, const Rows& rows) noexcept {
  const Group& group = program.group(rows.group);
  if (group.ragged() || rows.moves.size() != static_cast<std::size_t>(group.end - group.begin)) {
    return false;
  }
  return std::all_of(rows.moves.begin(), rows.moves.end(), [&](const auto& move) {
    return move.row == 0 && move.count == group.features;
  });
}

template <class T>
inline std::int32_t Replay<T>::lanes(std::int32_t g, std::int32_t position) const noexcept {
  const Group& group = program_.group(g);
  if (group.is_shared()) return 1;
  if (position != own) return width_at(position);
  return offset_[static_cast<std::size_t>(group.end)] -
         offset_[static_cast<std::size_t>(group.begin)];
}

// The address of a group's row at a position, or of its first lane for `own`.
template <class T>
inline T* Replay<T>::row(std::int32_t g, std::int32_t position, std::int32_t index) const noexcept {
  const Group& group = program_.group(g);
  const Layout& layout = bound_->layout[static_cast<std::size_t>(g)];
  T* const base = const_cast<T*>(memory_.data()) + layout.base;
  if (group.ragged() && position != own) {
    const auto at = static_cast<std::size_t>(position - group.begin);
    return base + layout.block[at] + index * layout.steps[at];
  }
  T* const first = base + index * layout.step;
  return group.is_shared() || position == own ? first : first + first_lane(g, position);
}

// The number of elements between rows of a group at a position.
template <class T>
inline std::ptrdiff_t Replay<T>::row_step(std::int32_t g, std::int32_t position) const noexcept {
  const Group& group = program_.group(g);
  const Layout& layout = bound_->layout[static_cast<std::size_t>(g)];
  return group.ragged() ? layout.steps[static_cast<std::size_t>(position - group.begin)]
                        : layout.step;
}

// The first of a position's documents among the lanes of a group.
template <class T>
inline std::int32_t Replay<T>::first_lane(std::int32_t g, std::int32_t position) const noexcept {
  return offset_[static_cast<std::size_t>(position)] -
         offset_[static_cast<std::size_t>(program_.group(g).begin)];
}

// The number of elements in use of a group's memory, for calls that treat it as one row.
template <class T>
std::ptrdiff_t Replay<T>::extent(std::int32_t g) const noexcept {
  const Group& group = program_.group(g);
  const Layout& layout = bound_->layout[static_cast<std::size_t>(g)];
  return group.ragged() ? layout.block.back() : group.features * layout.step;
}

// The lanes of a group as rows of features, from the first lane of a position on; null if they are
// not bound.
template <class T>
const T* Replay<T>::column(std::int32_t g, std::int32_t position) const noexcept {
  const T* const columns = bound_->columns[static_cast<std::size_t>(g)];
  return columns == nullptr ? nullptr : columns + first_lane(g, position) * column_step(g);
}

template <class T>
std::ptrdiff_t Replay<T>::column_step(std::int32_t g) const noexcept {
  const std::ptrdiff_t features = program_.group(g).features;
  return (features + 15) / 16 * 16;
}

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_BOUND_HPP_

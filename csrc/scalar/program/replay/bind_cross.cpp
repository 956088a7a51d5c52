// Sums over other positions become kernel calls: the addresses of the factors of each product, and
// the number of documents that have both.
#include <limits>
#include <vector>

#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {
namespace {

constexpr std::int32_t endless = std::numeric_limits<std::int32_t>::max();

// The rows of a group at one position.
template <class T>
struct PositionRows {
  const T* row;         // row 0
  std::ptrdiff_t step;  // elements between rows
  std::int32_t alive;   // documents that reach the position
};

// The rows of one operand at every position.
template <class T>
struct OperandRows {
  std::vector<PositionRows<T>> positions;
  bool uniform;  // rows have the same step at every position

  const PositionRows<T>& at(std::int32_t position) const noexcept {
    return positions[static_cast<std::size_t>(position)];
  }
  const T* row(std::int32_t position, std::int32_t row) const noexcept {
    return at(position).row + row * at(position).step;
  }
};

}  // namespace

// Binds the runs of one part at one position of the destination, in order. A run becomes one of
// three kernels:
//   sum    one document, whose positions are contiguous and can be the lanes
//   fan    one list of factors a against a list of factors b per destination
//   cross  any steps
template <class T>
struct Replay<T>::CrossBinder {
  Bound& bound;
  const OperandRows<T>& a;
  const OperandRows<T>& b;
  T* dst;  // row 0 of the destination
  std::ptrdiff_t dst_step;
  std::int32_t lanes;
  std::int32_t written;  // lanes that a kernel may write
  bool accumulate;
  T start;  // if it does not accumulate
  void bind(const CrossRun& run) {
    if (run.b_next_position != 0 && is_fan(run)) {
      // The rows of each position have one step, by which the repeats advance.
      if (run.next.a_row_step == 0 && run.next.b_row_step == 0) return bind_fan(run);
    } else if (run.b_next_position == 0 && (b.uniform || run.b.position_step == 0)) {
      return bind_cross(run);
    }
    for (const CrossRun& each : separate(run)) bind_cross(each);
  }

  T* destination(const CrossRun& run) const noexcept { return dst + run.row * dst_step; }

  // From the addresses of one repeat to those of the next one.
  simd::Blocks blocks(const CrossRun& run) const noexcept {
    return {run.repeats, run.next.row * dst_step, run.next.a_row * a.at(run.a.position).step,
            run.next.b_row * b.at(run.b.position).step};
  }

  // --- Fans and sums ---

  // Do only the positions of b differ, between destinations, and do all documents reach them?
  bool is_fan(const CrossRun& run) const noexcept {
    bool fan =
        run.a.position_step == 0 && run.b.position_step == 0 && a.at(run.a.position).alive >= lanes;
    for (std::int32_t i = 0; fan && i < run.rows; ++i) {
      const PositionRows<T>& rows = b.at(run.b.position + i * run.b_next_position);
      fan = rows.alive >= lanes && rows.step == b.at(run.b.position).step;
    }
    return fan;
  }

  const T* b_of(const CrossRun& run, std::int32_t i) const noexcept {
    return b.row(run.b.position + i * run.b_next_position, run.b.row + i * run.b_next_row);
  }

  bool is_contiguous(const CrossRun& run) const noexcept {
    bool contiguous = lanes == 1 && dst_step == 1 && run.rows > 1;
    for (std::int32_t i = 1; contiguous && i < run.rows; ++i) {
      contiguous = b_of(run, i) == b_of(run, 0) + i;
    }
    return contiguous;
  }

  void bind_fan(const CrossRun& run) {
    if (is_contiguous(run)) return bind_sum(run);
    const T** pointers = bound.pointers.take(static_cast<std::size_t>(run.rows));
    for (std::int32_t i = 0; i < run.rows; ++i) pointers[i] = b_of(run, i);
    bound.add_to_range(CallKind::fan, bound.fans,
                       {destination(run), dst_step, a.row(run.a.position, run.a.row),
                        run.a.row_step * a.at(run.a.position).step, pointers,
                        run.b.row_step * b.at(run.b.position).step, 0, run.products, run.rows,
                        written, accumulate, start, blocks(run)});
  }

  // The repeats are the features of the sum.
  void bind_sum(const CrossRun& run) {
    const simd::Blocks next = blocks(run);
    const std::ptrdiff_t a_step = run.a.row_step * a.at(run.a.position).step;
    const std::ptrdiff_t b_step = run.b.row_step * b.at(run.b.position).step;
    simd::Term<T>* const term = bound.terms.take(1);
    *term = {{a.row(run.a.position, run.a.row), next.a, a_step, false},
             {b_of(run, 0), next.b, b_step, true},
             run.products};
    bound.add(CallKind::sum, bound.sums,
              {destination(run), next.dst, run.repeats, run.rows, 1, term, accumulate, 1, start});
  }

  // --- Cross products ---

  // One call if the rows of both factors advance by constant steps from repeat to repeat; otherwise
  // one per repeat.
  void bind_cross(const CrossRun& run) {
    const bool one_a = can_shift(a, run.a) && run.next.a_row_step == 0;
    const bool one_b = can_shift(b, run.b) && run.next.b_row_step == 0;
    const simd::Blocks next = blocks(run);
    simd::Cross<T> cross{};
    const std::int32_t first = find_alive(run, cross);
    cross.dst = destination(run);
    cross.dst_step = dst_step;
    cross.a = row_pointers(a, run.a, first, cross.k);
    cross.b = row_pointers(b, run.b, first, cross.k);
    cross.b_next = run.b_next_row * b.at(run.b.position).step;
    cross.outs = run.rows;
    cross.lanes = written;
    cross.accumulate = accumulate;
    cross.start = start;
    if (one_a && one_b) cross.blocks = next;
    bound.add_to_range(CallKind::cross, bound.crosses, cross);
    CrossOperand next_a = run.a, next_b = run.b;
    for (std::int32_t j = cross.blocks.count; j < run.repeats; ++j) {
      cross.dst += next.dst;
      advance(next_a, run.next.a_row, run.next.a_row_step);
      advance(next_b, run.next.b_row, run.next.b_row_step);
      if (one_a) cross.a_shift += next.a;
      if (!one_a) cross.a = row_pointers(a, next_a, first, cross.k);
      if (one_b) cross.b_shift += next.b;
      if (!one_b) cross.b = row_pointers(b, next_b, first, cross.k);
      bound.add_to_range(CallKind::cross, bound.crosses, cross);
    }
  }

  static void advance(CrossOperand& operand, std::int32_t row, std::int32_t row_step) noexcept {
    operand.row += row;
    operand.row_step += row_step;
  }

  // Finds the products of which some document has both factors. They are consecutive, because the
  // positions that documents reach are. Returns the first.
  std::int32_t find_alive(const CrossRun& run, simd::Cross<T>& cross) {
    std::int32_t* const alive = bound.alive.take(static_cast<std::size_t>(run.products));
    const auto alive_at = [&](std::int32_t k) {
      return std::min(a.at(run.a.position + k * run.a.position_step).alive,
                      b.at(run.b.position + k * run.b.position_step).alive);
    };
    std::int32_t first = 0;
    while (first < run.products && alive_at(first) <= 0) ++first;
    cross.alive = alive;
    cross.whole = true;
    for (std::int32_t k = first; k < run.products && alive_at(k) > 0; ++k) {
      const bool all = alive_at(k) >= lanes;
      cross.whole = cross.whole && all;
      alive[cross.k++] = all ? written : alive_at(k);
    }
    return first;
  }

  // Do rows at a constant distance from each other have the same distance at all positions?
  static bool can_shift(const OperandRows<T>& rows, const CrossOperand& operand) noexcept {
    return rows.uniform || operand.position_step == 0;
  }

  // Pointers to the rows of `count` products from `first` on.
  const T* const* row_pointers(const OperandRows<T>& rows, const CrossOperand& operand,
                               std::int32_t first, std::int32_t count) {
    const T** pointers = bound.pointers.take(static_cast<std::size_t>(count));
    for (std::int32_t i = 0; i < count; ++i) {
      const std::int32_t k = first + i;
      pointers[i] = rows.row(operand.position + k * operand.position_step,
                             operand.row + k * operand.row_step);
    }
    return pointers;
  }
};

template <class T>
void Replay<T>::bind(const CrossSum& cross) {
  const Group& group = program_.group(cross.group);
  const auto rows_of = [&](std::int32_t g) {
    const auto count = static_cast<std::size_t>(program_.positions);
    if (g == no_group) return OperandRows<T>{{count, {ones_.data(), 0, endless}}, true};
    const Group& operand = program_.group(g);
    const bool ragged = operand.ragged();
    const std::ptrdiff_t own_step = ragged ? 0 : row_step(g, operand.begin);
    OperandRows<T> rows{{count, {nullptr, own_step, 0}}, !ragged};
    for (std::int32_t p = operand.begin; p < std::min(operand.end, longest_); ++p) {
      rows.positions[static_cast<std::size_t>(p)] = {
          row(g, p, 0), ragged ? row_step(g, p) : own_step, width_at(p)};
    }
    return rows;
  };
  // Lanes after those of a position belong to later positions, which replace them.
  const bool replaces = cross.parts.size() == 1 && !cross.parts.front().accumulate;
  for (const CrossPart& part : cross.parts) {
    const OperandRows<T> a = rows_of(part.a_group), b = rows_of(part.b_group);
    for (std::int32_t p = group.begin; p < std::min(group.end, longest_); ++p) {
      CrossBinder binder{*bound_,
                         a,
                         b,
                         row(cross.group, p, 0),
                         row_step(cross.group, p),
                         width_at(p),
                         replaces ? whole_vectors(cross.group, p) : width_at(p),
                         part.accumulate,
                         start_of<T>(cross.from_zero)};
      const auto at = static_cast<std::size_t>(p - group.begin);
      for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1]; ++i) binder.bind(part.runs[i]);
    }
  }
}

template void Replay<double>::bind(const CrossSum&);
template void Replay<float>::bind(const CrossSum&);

}  // namespace nanochat::program

// Sums over other positions become kernel calls: the addresses of the factors of each product, and
// the number of documents that have both.
#include <vector>

#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {
namespace {

// The rows of one operand at every position.
template <class T>
struct OperandRows {
  const simd::PositionRows<T>* positions;

  const simd::PositionRows<T>& at(std::int32_t position) const noexcept {
    return positions[position];
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
  OperandRows<T> a, b;
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
    } else if (run.b_next_position == 0) {
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
      const simd::PositionRows<T>& rows = b.at(run.b.position + i * run.b_next_position);
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

  void bind_cross(const CrossRun& run) {
    const auto alive_at = [&](std::int32_t k) {
      return std::min(a.at(run.a.position + k * run.a.position_step).alive,
                      b.at(run.b.position + k * run.b.position_step).alive);
    };
    // The products of which some document has both factors are consecutive, because the positions
    // that documents reach are.
    std::int32_t first = 0;
    while (first < run.products && alive_at(first) <= 0) ++first;
    std::int32_t end = first;
    bool whole = true;
    for (; end < run.products && alive_at(end) > 0; ++end) {
      whole = whole && alive_at(end) >= lanes;
    }
    if (end == first) end = first = 0;
    bound.add_to_range(
        CallKind::cross, bound.crosses,
        {destination(run), dst_step, factor(a, run.a, first, run.next.a_row, run.next.a_row_step),
         factor(b, run.b, first, run.next.b_row, run.next.b_row_step), run.b_next_row, end - first,
         run.rows, written, lanes, whole, accumulate, start, run.repeats, run.next.row * dst_step});
  }

  // An operand from product `first` on.
  static simd::CrossFactor<T> factor(const OperandRows<T>& rows, const CrossOperand& operand,
                                     std::int32_t first, std::int32_t next_row,
                                     std::int32_t next_row_step) noexcept {
    // The first product of a later repeat is `first` of its steps from its row.
    return {&rows.at(operand.position + first * operand.position_step),
            operand.position_step,
            operand.row + first * operand.row_step,
            operand.row_step,
            next_row + first * next_row_step,
            next_row_step};
  }
};

template <class T>
void Replay<T>::bind(const CrossSum& cross) {
  const Group& group = program_.group(cross.group);
  // Lanes after those of a position belong to later positions, which replace them.
  const bool replaces = cross.parts.size() == 1 && !cross.parts.front().accumulate;
  for (const CrossPart& part : cross.parts) {
    const OperandRows<T> a{rows_at_positions(part.a_group)}, b{rows_at_positions(part.b_group)};
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

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

bool visits_same_positions(const CrossOperand& x, const CrossOperand& y) {
  return x.position == y.position && x.position_step == y.position_step;
}

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
  bool accumulate;
  T start;  // if it does not accumulate
  // The term of the last sum while a run could continue it; null otherwise.
  simd::Term<T>* open_term = nullptr;
  const CrossRun* before = nullptr;  // the last run bound as a cross or a fan, if it can be reused
  std::int32_t first_alive = 0;      // the first product of `before` that a document has

  void bind(const CrossRun& run) {
    const bool by_steps = run.b_next_position == 0 && (b.uniform || run.b.position_step == 0);
    if (by_steps) return bind_cross(run);
    if (run.b_next_position != 0 && is_fan(run)) return bind_fan(run);
    for (const CrossRun& each : separate(run)) {
      bind_cross(each);
      before = nullptr;  // `each` is about to be destroyed
    }
  }

  T* destination(const CrossRun& run) const noexcept { return dst + run.row * dst_step; }

  bool visits_the_same(const CrossRun& run) const noexcept {
    return before != nullptr && before->products == run.products &&
           visits_same_positions(before->a, run.a) && visits_same_positions(before->b, run.b) &&
           before->b_next_position == run.b_next_position;
  }

  // Do the factors of this run have the steps of the run before it, between products and between
  // destinations?
  bool has_same_steps(const CrossRun& run) const noexcept {
    return before->rows == run.rows && before->b_next_row == run.b_next_row &&
           before->a.row_step == run.a.row_step && before->b.row_step == run.b.row_step;
  }

  // Lets the call of the run before it do this run as well, if all its addresses advance by the
  // same steps as those of the runs that the call already does.
  bool join(simd::Blocks& blocks, const CrossRun& run) const noexcept {
    const std::ptrdiff_t to = (run.row - before->row) * dst_step;
    const std::ptrdiff_t from_a = (run.a.row - before->a.row) * a.at(run.a.position).step;
    const std::ptrdiff_t from_b = (run.b.row - before->b.row) * b.at(run.b.position).step;
    if (blocks.count == 1) {
      blocks = {1, to, from_a, from_b};
    } else if (to != blocks.dst || from_a != blocks.a || from_b != blocks.b) {
      return false;
    }
    ++blocks.count;
    return true;
  }

  // --- Fans and sums ---

  // Do only the positions of b differ, between destinations, and do all documents reach them?
  bool is_fan(const CrossRun& run) const noexcept {
    if (visits_the_same(run) && before->rows == run.rows) return true;
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
    open_term = nullptr;
    const bool again =
        visits_the_same(run) && before->rows == run.rows && before->b_next_row == run.b_next_row;
    if (again && has_same_steps(run) && join(bound.fans.back().blocks, run)) {
      before = &run;
      return;
    }
    const T* const* pointers = again ? bound.fans.back().b : b_pointers(run);
    bound.add_to_range(CallKind::fan, bound.fans,
                       {destination(run),
                        dst_step,
                        a.row(run.a.position, run.a.row),
                        run.a.row_step * a.at(run.a.position).step,
                        pointers,
                        run.b.row_step * b.at(run.b.position).step,
                        b_of(run, 0) - pointers[0],
                        run.products,
                        run.rows,
                        lanes,
                        accumulate,
                        start,
                        {}});
    before = &run;
  }

  const T* const* b_pointers(const CrossRun& run) {
    const T** pointers = bound.pointers.take(static_cast<std::size_t>(run.rows));
    for (std::int32_t i = 0; i < run.rows; ++i) pointers[i] = b_of(run, i);
    return pointers;
  }

  void bind_sum(const CrossRun& run) {
    const simd::Term<T> term{
        {a.row(run.a.position, run.a.row), 0, run.a.row_step * a.at(run.a.position).step, false},
        {b_of(run, 0), 0, run.b.row_step * b.at(run.b.position).step, true},
        run.products};
    if (open_term != nullptr && extend_sum(run, term)) return;
    open_term = bound.terms.take(1);
    *open_term = term;
    bound.add(CallKind::sum, bound.sums,
              {destination(run), 0, 1, run.rows, 1, open_term, accumulate, 1, start});
  }

  // Adds the run to the last sum as another feature if it repeats the run before it, shifted by
  // constant steps.
  bool extend_sum(const CrossRun& run, const simd::Term<T>& term) {
    simd::Sum<T>& sum = bound.sums.back();
    const std::ptrdiff_t n = sum.features;
    if (n == 1) {  // the second feature sets the steps
      sum.dst_step = destination(run) - sum.dst;
      open_term->a.f_step = term.a.base - open_term->a.base;
      open_term->b.f_step = term.b.base - open_term->b.base;
    }
    const auto fits = [n](const simd::Operand<T>& first, const simd::Operand<T>& next) {
      return first.k_step == next.k_step && next.base == first.base + n * first.f_step;
    };
    if (sum.lanes != run.rows || open_term->k != term.k || !fits(open_term->a, term.a) ||
        !fits(open_term->b, term.b) || destination(run) != sum.dst + n * sum.dst_step) {
      return false;
    }
    ++sum.features;
    return true;
  }

  // --- Cross products ---

  // One call. It reuses the lists of the call before it where they are equal.
  void bind_cross(const CrossRun& run) {
    open_term = nullptr;
    const bool again = visits_the_same(run);
    if (again && has_same_steps(run) && can_shift(a, run.a) && can_shift(b, run.b) &&
        join(bound.crosses.back().blocks, run)) {
      before = &run;
      return;
    }
    simd::Cross<T> cross{};
    if (again) {
      cross = bound.crosses.back();
      cross.a_shift += (cross.blocks.count - 1) * cross.blocks.a;
      cross.b_shift += (cross.blocks.count - 1) * cross.blocks.b;
      cross.blocks = {};
    } else {
      find_alive(run, cross);
    }
    cross.dst = destination(run);
    cross.dst_step = dst_step;
    cross.outs = run.rows;
    cross.lanes = lanes;
    cross.b_next = run.b_next_row * b.at(run.b.position).step;
    cross.accumulate = accumulate;
    cross.start = start;
    set_rows(cross.a, cross.a_shift, a, run.a, again ? &before->a : nullptr, cross.k);
    set_rows(cross.b, cross.b_shift, b, run.b, again ? &before->b : nullptr, cross.k);
    bound.add_to_range(CallKind::cross, bound.crosses, cross);
    before = &run;
  }

  // Finds the products of which some document has both factors. They are consecutive, because the
  // positions that documents reach are.
  void find_alive(const CrossRun& run, simd::Cross<T>& cross) {
    std::int32_t* const alive = bound.alive.take(static_cast<std::size_t>(run.products));
    const auto alive_at = [&](std::int32_t k) {
      return std::min(a.at(run.a.position + k * run.a.position_step).alive,
                      b.at(run.b.position + k * run.b.position_step).alive);
    };
    first_alive = 0;
    while (first_alive < run.products && alive_at(first_alive) <= 0) ++first_alive;
    cross.alive = alive;
    cross.whole = true;
    for (std::int32_t k = first_alive; k < run.products && alive_at(k) > 0; ++k) {
      cross.whole = cross.whole && alive_at(k) >= lanes;
      alive[cross.k++] = alive_at(k);
    }
  }

  // Do rows at a constant distance from each other have the same distance at all positions?
  static bool can_shift(const OperandRows<T>& rows, const CrossOperand& operand) noexcept {
    return rows.uniform || operand.position_step == 0;
  }

  // Sets the pointers to the rows of an operand. If they are those of the run before, shifted by a
  // constant, only the shift changes.
  void set_rows(const T* const*& pointers, std::ptrdiff_t& shift, const OperandRows<T>& rows,
                const CrossOperand& operand, const CrossOperand* previous, std::int32_t count) {
    const bool shifted =
        previous != nullptr && previous->row_step == operand.row_step && can_shift(rows, operand);
    if (shifted) {
      shift += (operand.row - previous->row) * rows.at(operand.position).step;
      return;
    }
    pointers = row_pointers(rows, operand, count);
    shift = 0;
  }

  const T* const* row_pointers(const OperandRows<T>& rows, const CrossOperand& operand,
                               std::int32_t count) {
    const T** pointers = bound.pointers.take(static_cast<std::size_t>(count));
    for (std::int32_t i = 0; i < count; ++i) {
      const std::int32_t k = first_alive + i;
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
  for (const CrossPart& part : cross.parts) {
    const OperandRows<T> a = rows_of(part.a_group), b = rows_of(part.b_group);
    for (std::int32_t p = group.begin; p < std::min(group.end, longest_); ++p) {
      CrossBinder binder{*bound_,
                         a,
                         b,
                         row(cross.group, p, 0),
                         row_step(cross.group, p),
                         width_at(p),
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

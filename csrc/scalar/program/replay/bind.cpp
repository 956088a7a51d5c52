// Instructions become kernel calls for one shape of batch: addresses, lanes, steps.
#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {
namespace {

constexpr std::int32_t long_row = 16;

simd::Map map_of(Kind kind) {
  switch (kind) {
    case Kind::exp:
      return simd::Map::exp;
    case Kind::log:
      return simd::Map::log;
    case Kind::tanh:
      return simd::Map::tanh;
    case Kind::relu:
      return simd::Map::relu;
    case Kind::step:
      return simd::Map::step;
    case Kind::inverse:
      return simd::Map::inverse;
    case Kind::power:
      return simd::Map::power;
    case Kind::power_local:
      return simd::Map::power_local;
    case Kind::one_minus_square:
      return simd::Map::one_minus_square;
    default:
      return simd::Map::add_constant;
  }
}

}  // namespace

template <class T>
void Replay<T>::bind() {
  Bound& bound = *bound_;
  bound.clear();
  bound.width = width_;
  bound.columns.resize(program_.groups.size());
  lay_out();
  for (std::size_t i = 0; i < program_.forward.size(); ++i) {
    bind_instruction(program_.forward[i], i, true);
  }
  for (std::size_t i = 0; i < program_.backward.size(); ++i) {
    bind_instruction(program_.backward[i], i, false);
  }
}

// Address of an operand's first row or number, for a destination that starts at `stage`.
template <class T>
const T* Replay<T>::row(const Ref& ref, std::int32_t stage) const noexcept {
  switch (ref.space) {
    case Space::unit:
      return nullptr;
    case Space::rows:
      return destination(ref.group, ref.stage == own ? stage : ref.stage, ref.index);
    case Space::number:
      return destination(ref.group, own, ref.index);
    case Space::parameter:
      return &values_[static_cast<std::size_t>(ref.index)];
    case Space::constant:
      return &constants_[static_cast<std::size_t>(ref.index)];
  }
  return nullptr;
}

template <class T>
std::ptrdiff_t Replay<T>::step(const Ref& ref, std::int32_t stage,
                               std::int32_t steps) const noexcept {
  if (steps == 0 || ref.space != Space::rows) return steps;
  return steps * row_step(ref.group, ref.stage == own ? stage : ref.stage);
}

template <class T>
void Replay<T>::bind_instruction(const Instruction& instruction, std::size_t at, bool forward) {
  Bound& bound = *bound_;
  const Group* group = instruction.group < 0
                           ? nullptr
                           : &program_.groups[static_cast<std::size_t>(instruction.group)];
  // A whole group starts at its own first stage, or has no lane at all.
  const std::int32_t stage = instruction.stage == own && group != nullptr && !group->is_shared()
                                 ? group->begin
                                 : instruction.stage;
  if (stage >= longest_ || instruction.width >= longest_) return;
  switch (instruction.op) {
    case Op::sum:
      if (instruction.matrix) {
        bind_matrix(instruction, stage, forward);
      } else {
        bind_sum(instruction, stage, forward);
      }
      break;
    case Op::cross:
      bind_cross(instruction, forward);
      break;
    case Op::map:
      bind_map(instruction, stage, forward);
      break;
    case Op::largest:
      bind_largest(instruction, stage, forward);
      break;
    case Op::outer:
      bind_outers(instruction, at);
      break;
    case Op::gather:
      // Whole table rows are copied side by side and turned at once where rows are long.
      if (covers_group(instruction) && lanes(instruction.group, own) >= long_row) {
        take_columns(instruction.group);
      }
      bound.call(forward, forward ? CallKind::forward_move : CallKind::backward_move, at);
      break;
    default:
      bound.call(forward, forward ? CallKind::forward_move : CallKind::backward_move, at);
      break;
  }
}

template <class T>
void Replay<T>::bind_largest(const Instruction& instruction, std::int32_t stage, bool forward) {
  Bound& bound = *bound_;
  const Term& term = instruction.terms.front();
  for (std::int32_t o = 0; o < instruction.outer; ++o) {
    Ref head = term.a;
    head.index += o * term.a.o_step;
    bound.call(forward, CallKind::largest, bound.rows_calls.size());
    bound.rows_calls.push_back(
        {destination(instruction.group, instruction.stage == own ? own : stage,
                     instruction.row + o * instruction.features),
         row_step(instruction.group, stage), row(head, stage),
         step(term.a, stage, term.k > 1 ? term.a.k_step : 0), term.k,
         lanes(instruction.group, instruction.stage), instruction.features,
         step(term.a, stage, term.a.f_step)});
  }
}

// Elements in use of a group's memory, for calls that take it as one row.
template <class T>
std::int32_t Replay<T>::extent(std::int32_t g) const noexcept {
  const Group& group = program_.groups[static_cast<std::size_t>(g)];
  const Layout& layout = bound_->layout[static_cast<std::size_t>(g)];
  return static_cast<std::int32_t>(group.ragged() ? layout.block.back()
                                                  : group.features * layout.step);
}

template <class T>
void Replay<T>::bind_map(const Instruction& instruction, std::int32_t stage, bool forward) {
  Bound& bound = *bound_;
  const simd::Map op = map_of(instruction.kind);
  const auto add = [&](T* dst, const T* src, std::ptrdiff_t n) {
    bound.call(forward, CallKind::map, bound.maps.size());
    bound.maps.push_back({op, dst, src, static_cast<std::size_t>(n), instruction.constant});
  };
  const Ref& source = instruction.terms.front().a;
  const std::int32_t where = instruction.stage == own ? own : stage;
  if (instruction.whole) {
    const Ref head{source.space, source.group, own, 0};
    const Group& group = program_.groups[static_cast<std::size_t>(instruction.group)];
    add(destination(instruction.group, own, 0), row(head, group.begin), extent(instruction.group));
    return;
  }
  const std::int32_t n = lanes(instruction.group, instruction.stage);
  for (std::int32_t o = 0; o < instruction.outer; ++o) {
    for (std::int32_t f = 0; f < instruction.features; ++f) {
      Ref head = source;
      head.index += o * source.o_step + f * source.f_step;
      T* dst =
          destination(instruction.group, where, instruction.row + o * instruction.features + f);
      add(dst, row(head, stage), n);
    }
  }
}

// One lane, features side by side: the features become the lanes, the blocks of them the features.
template <class T>
void lay_features_along(simd::Sum<T>& sum, simd::Term<T>* terms) {
  const auto fits = [](const simd::Operand<T>& x) {
    return x.base == nullptr || x.f_step == 0 || x.f_step == 1;
  };
  for (std::int32_t i = 0; i < sum.terms; ++i) {
    if (!fits(terms[i].a) || !fits(terms[i].b)) return;
  }
  const auto turn = [](simd::Operand<T>& x) {
    x.row = x.base != nullptr && x.f_step == 1;
    x.f_step = x.o_step;
    x.o_step = 0;
  };
  for (std::int32_t i = 0; i < sum.terms; ++i) {
    turn(terms[i].a);
    turn(terms[i].b);
  }
  sum.lanes = sum.features;
  sum.features = sum.outer;
  sum.dst_step = sum.lanes;
  sum.outer = 1;
}

template <class T>
void Replay<T>::bind_sum(const Instruction& instruction, std::int32_t stage, bool forward) {
  Bound& bound = *bound_;
  const std::ptrdiff_t dst_step = instruction.whole ? 0 : row_step(instruction.group, stage);
  const std::int32_t where = instruction.stage == own ? own : stage;
  std::int32_t count = lanes(instruction.group, instruction.stage);
  if (instruction.width != own) count = width_[static_cast<std::size_t>(instruction.width)];
  if (instruction.whole) count = extent(instruction.group);
  const auto operand = [&](const Ref& ref) -> simd::Operand<T> {
    if (ref.space == Space::unit) return {nullptr, 0, 0, false};
    return {row(ref, stage), step(ref, stage, ref.f_step), step(ref, stage, ref.k_step),
            ref.space == Space::rows, step(ref, stage, ref.o_step)};
  };
  simd::Term<T>* terms = bound.terms.take(instruction.terms.size() + 1);
  for (std::size_t i = 0; i < instruction.terms.size(); ++i) {
    const Term& term = instruction.terms[i];
    terms[i] = {operand(term.a), operand(term.b), term.k};
  }
  bound.call(forward, CallKind::sum, bound.sums.size());
  bound.sums.push_back({destination(instruction.group, where, instruction.row), dst_step,
                        instruction.features, count,
                        static_cast<std::int32_t>(instruction.terms.size()), terms,
                        instruction.accumulate, instruction.outer, start_of<T>(instruction)});
  if (count == 1 && dst_step == 1) lay_features_along(bound.sums.back(), terms);
}

template <class T>
void Replay<T>::bind_matrix(const Instruction& instruction, std::int32_t stage, bool forward) {
  Bound& bound = *bound_;
  std::int32_t products = 0;
  for (const Term& term : instruction.terms) products += term.k;
  const T** a = bound.pointers.take(static_cast<std::size_t>(products));
  const T** b = bound.pointers.take(static_cast<std::size_t>(products));
  std::int32_t k = 0;
  for (const Term& term : instruction.terms) {
    const T* a_head = row(term.a, stage);
    const T* b_head = row(term.b, stage);
    const std::ptrdiff_t a_step = step(term.a, stage, term.a.k_step);
    const std::ptrdiff_t b_step = step(term.b, stage, term.b.k_step);
    for (std::int32_t i = 0; i < term.k; ++i, ++k) {
      a[k] = a_head + i * a_step;
      b[k] = b_head + i * b_step;
    }
  }
  std::int32_t count = lanes(instruction.group, instruction.stage);
  if (instruction.width != own) count = width_[static_cast<std::size_t>(instruction.width)];
  bound.call(forward, CallKind::gemm, bound.gemms.size());
  bound.gemms.push_back(
      {instruction.features, count, products, a,
       step(instruction.terms.front().a, stage, instruction.terms.front().a.f_step), b,
       destination(instruction.group, instruction.stage == own ? own : stage, instruction.row),
       row_step(instruction.group, stage), instruction.accumulate, start_of<T>(instruction)});
}

template <class T>
void Replay<T>::bind_outers(const Instruction& instruction, std::size_t at) {
  Bound& bound = *bound_;
  if (instruction.group >= 0) {
    const Group& group = program_.groups[static_cast<std::size_t>(instruction.group)];
    bound.call(false, CallKind::zero, bound.maps.size());
    bound.maps.push_back({simd::Map::exp, destination(instruction.group, own, 0), nullptr,
                          static_cast<std::size_t>(group.features), 0.0});
  }
  for (std::int32_t i = 0; i < instruction.features; ++i) {
    bind_outer(program_.outers[static_cast<std::size_t>(instruction.row + i)]);
  }
  if (instruction.outer > 0) bound.call(false, CallKind::backward_move, at);
}

template <class T>
T* Replay<T>::take_columns(std::int32_t g) {
  const std::ptrdiff_t elements = column_step(g) * lanes(g, own);
  T*& columns = bound_->columns[static_cast<std::size_t>(g)];
  columns = bound_->scratch.take(static_cast<std::size_t>(elements) + simd::row_pad);
  return columns;
}

// Does each stage of the group have one move, of all its rows?
template <class T>
bool Replay<T>::covers_group(const Instruction& instruction) const noexcept {
  const Group& group = program_.groups[static_cast<std::size_t>(instruction.group)];
  if (group.ragged() ||
      instruction.moves.size() != static_cast<std::size_t>(group.end - group.begin)) {
    return false;
  }
  return std::all_of(instruction.moves.begin(), instruction.moves.end(), [&](const Move& move) {
    return move.row == 0 && move.count == group.features;
  });
}

// All lanes of a group as rows of its features, for whatever sums over lanes.
template <class T>
void Replay<T>::bind_columns(std::int32_t g) {
  Bound& bound = *bound_;
  const std::ptrdiff_t width = column_step(g);
  const std::int32_t all = lanes(g, own);
  T* const columns = take_columns(g);
  bound.call(false, CallKind::transpose, bound.rows_calls.size());
  bound.rows_calls.push_back({columns, width, destination(g, own, 0), row_step(g, own),
                              program_.groups[static_cast<std::size_t>(g)].features, all});
}

template <class T>
void Replay<T>::bind_outer(const Outer& outer) {
  Bound& bound = *bound_;
  const auto g = static_cast<std::size_t>(outer.b.group);
  const Group& group = program_.groups[g];
  // Of one stage each, a and b may stand at different ones: the later one says how many documents.
  std::int32_t start = group.begin;
  std::int32_t count = lanes(outer.b.group, own);
  if (outer.b.stage != own) {
    start = std::max(outer.b.stage, outer.a.space == Space::rows ? outer.a.stage : own);
    if (start >= longest_) count = 0;
    if (count > 0) count = width_[static_cast<std::size_t>(start)];
  }
  T* destination_row = outer.group < 0 ? gradients_.data() + outer.index
                                       : destination(outer.group, own, outer.index);
  const bool writes_gradient = outer.group < 0;
  if (count == 0) {
    // No document reaches these rows: what they would have written is zero.
    for (std::int32_t m = 0; m < outer.m && writes_gradient && !outer.accumulate; ++m) {
      bound.call(false, CallKind::outer, bound.gemms.size());
      bound.gemms.push_back(
          {1, outer.n, 0, nullptr, 0, nullptr, destination_row + m * outer.m_step, 0, false});
    }
    return;
  }
  // Lanes become rows, so that a row of the gradient is written at once.
  const T* rows = row(outer.b, start);
  std::ptrdiff_t lane_step = 1;
  const std::ptrdiff_t b_step = bound.layout[g].step;
  if (b_step != 1 && outer.n > 1) {
    if (bound.columns[g] == nullptr) bind_columns(outer.b.group);
    rows =
        column(outer.b.group, outer.b.stage == own ? group.begin : outer.b.stage) + outer.b.index;
    lane_step = column_step(outer.b.group);
  }
  const T** a = bound.pointers.take(static_cast<std::size_t>(count));
  const T** b = bound.pointers.take(static_cast<std::size_t>(count));
  const bool numbers = outer.a.space != Space::rows;
  const T* a_row = outer.a.space == Space::unit ? &unit_ : row(outer.a, start);
  for (std::int32_t k = 0; k < count; ++k) {
    const std::int32_t lane = outer.descending ? count - 1 - k : k;
    a[k] = numbers ? a_row : a_row + lane;
    b[k] = rows + lane * lane_step;
  }
  bound.call(false, writes_gradient ? CallKind::outer : CallKind::gemm, bound.gemms.size());
  bound.gemms.push_back({outer.m, outer.n, count, a, step(outer.a, start, outer.a.f_step), b,
                         destination_row, outer.m_step, outer.accumulate});
}

template class Replay<double>;
template class Replay<float>;

}  // namespace nanochat::program

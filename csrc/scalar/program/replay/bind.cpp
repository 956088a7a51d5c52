// Instructions become kernel calls for one batch shape: addresses, lanes and steps.
#include <limits>

#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {
namespace {

// Whole matrix rows are copied contiguously and transposed at once if rows have this many lanes.
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

// With one lane and contiguous features, the features become the lanes and the blocks become the
// features.
template <class T>
void turn_features_into_lanes(simd::Sum<T>& sum, simd::Term<T>* terms) {
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

}  // namespace

template <class T>
void Replay<T>::bind() {
  Bound& bound = *bound_;
  bound.clear();
  bound.width = width_;
  bound.columns.resize(program_.groups.size());
  bound.positions_of.resize(program_.groups.size());
  lay_out();
  const auto bind_all = [&](const std::vector<Instruction>& instructions) {
    for (const Instruction& instruction : instructions) {
      std::visit([this](const auto& each) { this->bind(each); }, instruction);
    }
  };
  bound.list = &bound.forward;
  bind_all(program_.forward);
  bound.list = &bound.backward;
  bind_all(program_.backward);
}

// The address of an operand's first row or number, for a destination at `position`.
template <class T>
inline const T* Replay<T>::operand(const Ref& ref, std::int32_t position) const noexcept {
  switch (ref.space) {
    case AddressSpace::unit:
      return nullptr;
    case AddressSpace::rows:
      return row(ref.group, ref.position == own ? position : ref.position, ref.index);
    case AddressSpace::shared_number:
      return row(ref.group, own, ref.index);
    case AddressSpace::parameter:
      return &values_[static_cast<std::size_t>(ref.index)];
    case AddressSpace::constant:
      return &constants_[static_cast<std::size_t>(ref.index)];
  }
  return nullptr;
}

// `steps` rows or numbers of an operand in elements.
template <class T>
inline std::ptrdiff_t Replay<T>::step(const Ref& ref, std::int32_t position,
                                      std::int32_t steps) const noexcept {
  if (steps == 0 || ref.space != AddressSpace::rows) return steps;
  return steps * row_step(ref.group, ref.position == own ? position : ref.position);
}

// The position of a destination; of a whole group, the first one.
template <class T>
std::int32_t Replay<T>::first_position(const Destination& to) const noexcept {
  const Group& group = program_.group(to.group);
  return to.position == own && !group.is_shared() ? group.begin : to.position;
}

// Does a document reach the destination? A group that is not reached has no lanes.
template <class T>
bool Replay<T>::is_reached(const Destination& to) const noexcept {
  return first_position(to) < longest_;
}

template <class T>
void Replay<T>::bind(const GatherRows& gather) {
  if (program_.group(gather.group).begin >= longest_) return;
  if (covers_group(program_, gather) && lanes(gather.group, own) >= long_row) {
    take_columns(gather.group);
  }
  bound_->add(CallKind::gather, bound_->gathers, &gather);
}

template <class T>
void Replay<T>::bind(const FillRows& fill) {
  if (program_.group(fill.group).begin >= longest_) return;
  bound_->add(CallKind::fill, bound_->fills, &fill);
}

template <class T>
void Replay<T>::bind(const InputRows& input) {
  if (program_.group(input.group).begin >= longest_) return;
  bound_->add(CallKind::input, bound_->inputs, &input);
}

template <class T>
void Replay<T>::bind(const SeedRows& seed) {
  if (program_.group(seed.group).begin >= longest_) return;
  bound_->add(CallKind::seed, bound_->seeds, &seed);
}

template <class T>
void Replay<T>::bind(const OneHotRows& one_hot) {
  if (program_.group(one_hot.group).begin >= longest_) return;
  bound_->add(CallKind::one_hot, bound_->one_hots, &one_hot);
}

template <class T>
void Replay<T>::bind(const SelectRows& select) {
  if (program_.group(select.group).begin >= longest_) return;
  bound_->add(CallKind::select, bound_->selects, &select);
}

template <class T>
void Replay<T>::bind(const ScatterRows& scatter) {
  bound_->add(CallKind::scatter, bound_->scatters, &scatter);
}

template <class T>
void Replay<T>::bind(const MapRows& map) {
  if (!is_reached(map.to)) return;
  Bound& bound = *bound_;
  const Destination& to = map.to;
  const std::int32_t position = first_position(to);
  const simd::Map op = map_of(map.kind);
  const auto add = [&](T* dst, const T* src, std::ptrdiff_t n) {
    bound.add(CallKind::map, bound.maps, {op, dst, src, static_cast<std::size_t>(n), map.constant});
  };
  if (to.whole) {
    add(row(to.group, own, 0), row(map.operand.group, own, 0), extent(to.group));
    return;
  }
  const std::int32_t n = whole_lanes(to);
  for (std::int32_t o = 0; o < to.blocks; ++o) {
    for (std::int32_t f = 0; f < to.features; ++f) {
      Ref from = map.operand;
      from.index += o * from.o_step + f * from.f_step;
      add(row(to.group, to.position, to.row + o * to.features + f), operand(from, position), n);
    }
  }
}

template <class T>
void Replay<T>::bind(const LargestRow& largest) {
  if (!is_reached(largest.to)) return;
  const Destination& to = largest.to;
  const std::int32_t position = first_position(to);
  const std::int32_t k_step = largest.count > 1 ? largest.operand.k_step : 0;
  for (std::int32_t o = 0; o < to.blocks; ++o) {
    Ref from = largest.operand;
    from.index += o * from.o_step;
    bound_->add(CallKind::largest, bound_->largest,
                {row(to.group, to.position, to.row + o * to.features), row_step(to.group, position),
                 to.features, operand(from, position), step(from, position, k_step),
                 step(from, position, from.f_step), largest.count, lanes(to.group, to.position)});
  }
}

// The number of lanes that take part in a sum.
template <class T>
std::int32_t Replay<T>::lanes_of(const SumOfProducts& sum) const noexcept {
  if (sum.to.whole) return static_cast<std::int32_t>(extent(sum.to.group));
  if (sum.width != own) return width_at(sum.width);
  return whole_lanes(sum.to);
}

// The lanes of a destination, with padding up to whole vectors where nothing else follows in the
// row. Kernels are slower for a part of a vector. The padding is never read as a lane.
template <class T>
std::int32_t Replay<T>::whole_lanes(const Destination& to) const noexcept {
  const Group& group = program_.group(to.group);
  const std::int32_t count = lanes(to.group, to.position);
  if (group.is_shared() || (to.position != own && !group.ragged())) return count;
  if (to.position == own && group.ragged()) return count;
  const std::int32_t width = kernels_.width;  // a power of two
  const auto room = static_cast<std::int32_t>(row_step(to.group, to.position));
  return std::max(count, std::min(room, (count + width - 1) & -width));
}

// The lanes of a position, and those after them that complete a vector in the same row. Only for
// destinations that later positions of the row replace.
template <class T>
std::int32_t Replay<T>::whole_vectors(std::int32_t g, std::int32_t position) const noexcept {
  const std::int32_t count = width_at(position), width = kernels_.width;
  if (count == 1) return count;
  const std::int32_t first = program_.group(g).ragged() ? 0 : first_lane(g, position);
  const auto room = static_cast<std::int32_t>(row_step(g, position)) - first;
  return std::max(count, std::min(room, (count + width - 1) & -width));
}

template <class T>
void Replay<T>::bind(const SumRows& sum) {
  if (!is_reached(sum.to) || sum.width >= longest_) return;
  Bound& bound = *bound_;
  const Destination& to = sum.to;
  const std::int32_t position = first_position(to);
  const auto simd_operand = [&](const Ref& ref) -> simd::Operand<T> {
    if (ref.space == AddressSpace::unit) return {nullptr, 0, 0, false};
    const bool rows = ref.space == AddressSpace::rows;
    const std::ptrdiff_t unit = rows ? step(ref, position, 1) : 1;
    return {operand(ref, position), ref.f_step * unit, ref.k_step * unit, rows, ref.o_step * unit};
  };
  simd::Term<T>* terms = bound.terms.take(sum.products.size() + 1);
  for (std::size_t i = 0; i < sum.products.size(); ++i) {
    const ProductRun& run = sum.products[i];
    terms[i] = {simd_operand(run.a), simd_operand(run.b), run.count};
  }
  simd::Sum<T> call{row(to.group, to.position, to.row),
                    to.whole ? 0 : row_step(to.group, position),
                    to.features,
                    lanes_of(sum),
                    static_cast<std::int32_t>(sum.products.size()),
                    terms,
                    sum.accumulate,
                    to.blocks,
                    start_of<T>(sum.from_zero)};
  if (call.lanes == 1 && call.dst_step == 1) turn_features_into_lanes(call, terms);
  bound.add(CallKind::sum, bound.sums, call);
}

template <class T>
void Replay<T>::bind(const MatrixProduct& product) {
  if (!is_reached(product.to) || product.width >= longest_) return;
  Bound& bound = *bound_;
  const Destination& to = product.to;
  const std::int32_t position = first_position(to);
  const std::size_t terms = product.products.size();
  simd::Products<T>* const term = bound.products.take(terms);
  for (std::size_t i = 0; i < terms; ++i) {
    const ProductRun& run = product.products[i];
    term[i] = {operand(run.a, position), step(run.a, position, run.a.k_step),
               operand(run.b, position), step(run.b, position, run.b.k_step), run.count};
  }
  const Ref& numbers = product.products.front().a;
  bound.add(CallKind::gemm, bound.gemms,
            {to.features, lanes_of(product), static_cast<std::int32_t>(terms), term,
             step(numbers, position, numbers.f_step), row(to.group, to.position, to.row),
             row_step(to.group, position), product.accumulate, start_of<T>(product.from_zero)});
}

template <class T>
void Replay<T>::bind(const ReduceLanes& reduce) {
  Bound& bound = *bound_;
  if (reduce.group != no_group) {
    const auto features = static_cast<std::size_t>(program_.group(reduce.group).features);
    bound.add(CallKind::zero, bound.zeros, {row(reduce.group, own, 0), features});
  }
  for (std::int32_t i = reduce.outer_products.begin; i < reduce.outer_products.end; ++i) {
    bind_outer(program_.outer_products[static_cast<std::size_t>(i)]);
  }
  if (reduce.single_products.size() > 0) {
    bound.add(CallKind::single_products, bound.single_products, reduce.single_products);
  }
}

// Reserves memory for all lanes of a group as rows of its features.
template <class T>
T* Replay<T>::take_columns(std::int32_t g) {
  const std::ptrdiff_t elements = column_step(g) * lanes(g, own);
  T*& columns = bound_->columns[static_cast<std::size_t>(g)];
  columns = bound_->scratch.take(static_cast<std::size_t>(elements) + simd::row_pad);
  return columns;
}

template <class T>
void Replay<T>::bind_columns(std::int32_t g) {
  T* const columns = take_columns(g);
  bound_->add(CallKind::transpose, bound_->transposes,
              {columns, column_step(g), row(g, own, 0), row_step(g, own),
               program_.group(g).features, lanes(g, own)});
}

// The rows of a group at every position. Without a group, the number 1.
template <class T>
const simd::PositionRows<T>* Replay<T>::rows_at_positions(std::int32_t g) {
  constexpr std::int32_t endless = std::numeric_limits<std::int32_t>::max();
  const simd::PositionRows<T>*& known =
      g == no_group ? bound_->ones : bound_->positions_of[static_cast<std::size_t>(g)];
  if (known != nullptr) return known;
  const auto count = static_cast<std::size_t>(program_.positions);
  simd::PositionRows<T>* const rows = bound_->positions.take(count);
  known = rows;
  if (g == no_group) {
    std::fill_n(rows, count, simd::PositionRows<T>{ones_.data(), 0, endless});
    return rows;
  }
  const Group& group = program_.group(g);
  std::fill_n(rows, count, simd::PositionRows<T>{nullptr, 0, 0});
  for (std::int32_t p = group.begin; p < std::min(group.end, longest_); ++p) {
    rows[p] = {row(g, p, 0), row_step(g, p), width_at(p)};
  }
  return rows;
}

// No document reaches the rows: an outer product that would write a gradient writes zeros.
template <class T>
void Replay<T>::bind_unreached(const OuterProduct& outer, T* destination) {
  if (outer.group != no_group || outer.accumulate) return;
  for (std::int32_t m = 0; m < outer.m; ++m) {
    bound_->add(CallKind::gradient_gemm, bound_->gemms,
                {1, outer.n, 0, nullptr, 0, destination + m * outer.m_step, 0, false});
  }
}

template <class T>
void Replay<T>::bind_outer(const OuterProduct& outer) {
  Bound& bound = *bound_;
  const auto g = static_cast<std::size_t>(outer.b.group);
  std::int32_t position = program_.groups[g].begin;
  std::int32_t count = lanes(outer.b.group, own);
  if (outer.b.position != own) {
    // Rows of different positions: the later one decides how many documents take part.
    position =
        std::max(outer.b.position, outer.a.space == AddressSpace::rows ? outer.a.position : own);
    count = position < longest_ && count > 0 ? width_at(position) : 0;
  }
  T* const destination = outer.group == no_group ? gradients_.data() + outer.index
                                                 : row(outer.group, own, outer.index);
  if (count == 0) return bind_unreached(outer, destination);
  // With lanes as rows, the kernel writes a row of the gradient at once.
  const T* rows = operand(outer.b, position);
  std::ptrdiff_t lane_step = 1;
  if (bound.layout[g].step != 1 && outer.n > 1) {
    if (bound.columns[g] == nullptr) bind_columns(outer.b.group);
    const std::int32_t first =
        outer.b.position == own ? program_.groups[g].begin : outer.b.position;
    rows = column(outer.b.group, first) + outer.b.index;
    lane_step = column_step(outer.b.group);
  }
  const T* numbers = outer.a.space == AddressSpace::unit ? &unit_ : operand(outer.a, position);
  std::ptrdiff_t number_step = outer.a.space == AddressSpace::rows ? 1 : 0;
  if (outer.descending) {
    numbers += (count - 1) * number_step;
    rows += (count - 1) * lane_step;
    number_step = -number_step;
    lane_step = -lane_step;
  }
  simd::Products<T>* const term = bound.products.take(1);
  *term = {numbers, number_step, rows, lane_step, count};
  bound.add(outer.group == no_group ? CallKind::gradient_gemm : CallKind::gemm, bound.gemms,
            {outer.m, outer.n, 1, term, step(outer.a, position, outer.a.f_step), destination,
             outer.m_step, outer.accumulate});
}

template class Replay<double>;
template class Replay<float>;

}  // namespace nanochat::program

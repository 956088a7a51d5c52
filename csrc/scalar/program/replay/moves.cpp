// Copies single numbers: matrix rows by token, inputs, seeds, selections, and the products of
// gradients that no kernel computes.
#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {

template <class T>
std::int32_t Replay<T>::token(std::int32_t lane, std::int32_t slot) const noexcept {
  const std::int32_t document = sorted_[static_cast<std::size_t>(lane)];
  const std::int32_t found = documents_.tokens[document * program_.slots + slot];
  return found < 0 ? 0 : found;
}

template <class T>
void Replay<T>::run(const GatherRows& gather) noexcept {
  T* const columns = bound_->columns[static_cast<std::size_t>(gather.group)];
  for (const GatherMove& move : gather.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    T* to = row(gather.group, move.position, move.row);
    std::ptrdiff_t feature_step = row_step(gather.group, move.position), lane_step = 1;
    if (columns != nullptr) {
      feature_step = 1;
      lane_step = column_step(gather.group);
      to = columns + first_lane(gather.group, move.position) * lane_step + move.row;
    }
    for (std::int32_t d = 0; d < count; ++d, to += lane_step) {
      const T* from =
          &values_[static_cast<std::size_t>(move.index + token(d, move.slot) * move.stride)];
      if (feature_step == 1) {
        std::copy_n(from, move.count, to);
      } else {
        for (std::int32_t i = 0; i < move.count; ++i) to[i * feature_step] = from[i];
      }
    }
  }
  if (columns == nullptr) return;
  kernels_.transpose(row(gather.group, own, 0), row_step(gather.group, own), columns,
                     column_step(gather.group), lanes(gather.group, own),
                     program_.group(gather.group).features);
}

template <class T>
void Replay<T>::run(const FillRows& fill) noexcept {
  for (const FillMove& move : fill.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    T* rows = row(fill.group, move.position, move.row);
    const std::ptrdiff_t step = row_step(fill.group, move.position);
    const T* from = (move.constant ? constants_.data() : values_) + move.index;
    for (std::int32_t i = 0; i < move.count; ++i) {
      for (std::int32_t d = 0; d < count; ++d) rows[i * step + d] = from[i];
    }
  }
}

template <class T>
void Replay<T>::run(const InputRows& input) noexcept {
  for (const InputMove& move : input.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    T* rows = row(input.group, move.position, move.row);
    const std::ptrdiff_t step = row_step(input.group, move.position);
    for (std::int32_t d = 0; d < count; ++d) {
      const std::ptrdiff_t document = sorted_[static_cast<std::size_t>(d)];
      const double* from = documents_.inputs + document * program_.inputs + move.index;
      for (std::int32_t i = 0; i < move.count; ++i) rows[i * step + d] = static_cast<T>(from[i]);
    }
  }
}

template <class T>
void Replay<T>::run(const SeedRows& seed) noexcept {
  for (const SeedMove& move : seed.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    T* to = row(seed.group, move.position, move.row);
    for (std::int32_t d = 0; d < count; ++d) {
      const std::int32_t document = sorted_[static_cast<std::size_t>(d)];
      const bool counts = documents_.counted == nullptr ||
                          documents_.counted[document * program_.positions + move.index] != 0;
      to[d] = counts ? static_cast<T>(documents_.scale[document]) : T{0};
    }
  }
}

template <class T>
void Replay<T>::run(const OneHotRows& one_hot) noexcept {
  const T hit = one_hot.complement ? T{0} : T{1};
  const bool whole = covers_group(program_, one_hot);
  if (whole) std::fill_n(row(one_hot.group, own, 0), extent(one_hot.group), T{1} - hit);
  for (const OneHotMove& move : one_hot.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    T* rows = row(one_hot.group, move.position, move.row);
    const std::ptrdiff_t step = row_step(one_hot.group, move.position);
    for (std::int32_t i = whole ? move.count : 0; i < move.count; ++i) {
      std::fill_n(rows + i * step, count, T{1} - hit);
    }
    for (std::int32_t d = 0; d < count; ++d) {
      const std::int32_t i = token(d, move.slot) - move.index;
      if (i >= 0 && i < move.count) rows[i * step + d] = hit;
    }
  }
}

template <class T>
void Replay<T>::run(const SelectRows& select) noexcept {
  for (const SelectMove& move : select.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    T* to = row(select.group, move.position, move.row);
    const T* candidates = row(move.candidate_group, move.position, move.first_candidate);
    const std::ptrdiff_t step = row_step(move.candidate_group, move.position);
    for (std::int32_t d = 0; d < count; ++d) to[d] = candidates[token(d, move.slot) * step + d];
  }
}

template <class T>
void Replay<T>::run(const ScatterRows& scatter) noexcept {
  for (const ScatterMove& move : scatter.moves) {
    const std::int32_t count = width_at(move.position);
    if (count == 0) continue;
    const auto matrix_row = [&](std::int32_t d) {
      return &gradients_[static_cast<std::size_t>(move.index + token(d, move.slot) * move.stride)];
    };
    if (const T* columns = column(move.group, move.position)) {
      const std::ptrdiff_t width = column_step(move.group);
      for (std::int32_t d = 0; d < count; ++d) {
        T* const to = matrix_row(d);
        const T* const from = columns + d * width + move.row;
        for (std::int32_t i = 0; i < move.count; ++i) to[i] += from[i];
      }
      continue;
    }
    const T* rows = row(move.group, move.position, move.row);
    const std::ptrdiff_t step = row_step(move.group, move.position);
    for (std::int32_t d = 0; d < count; ++d) {
      T* const to = matrix_row(d);
      for (std::int32_t i = 0; i < move.count; ++i) to[i] += rows[i * step + d];
    }
  }
}

template <class T>
void Replay<T>::add_single_products(const Range& range) noexcept {
  for (std::int32_t i = range.begin; i < range.end; ++i) {
    const SingleProduct& each = program_.single_products[static_cast<std::size_t>(i)];
    if (each.position >= longest_) continue;
    const std::int32_t count = each.position == shared ? 1 : width_at(each.position);
    const T* a = each.a.space == AddressSpace::unit ? &unit_ : operand(each.a, each.position);
    const T* b = each.b.space == AddressSpace::unit ? &unit_ : operand(each.b, each.position);
    const std::ptrdiff_t a_step = each.a.space == AddressSpace::rows ? 1 : 0;
    const std::ptrdiff_t b_step = each.b.space == AddressSpace::rows ? 1 : 0;
    T* to = each.group == no_group ? &gradients_[static_cast<std::size_t>(each.index)]
                                   : row(each.group, own, each.index);
    T total = *to;
    for (std::int32_t d = 0; d < count; ++d) total = total + a[d * a_step] * b[d * b_step];
    *to = total;
  }
}

template class Replay<double>;
template class Replay<float>;

}  // namespace nanochat::program

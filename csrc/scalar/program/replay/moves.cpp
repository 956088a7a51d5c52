// What moves single numbers: embeddings in and out, tokens, seeds, and the odd ends of gradients.
#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {

template <class T>
std::int32_t Replay<T>::token(std::int32_t lane, std::int32_t slot) const noexcept {
  const std::int32_t document = sorted_[static_cast<std::size_t>(lane)];
  const std::int32_t found = documents_.tokens[document * program_.slots + slot];
  return found < 0 ? 0 : found;
}

template <class T>
void Replay<T>::move(const Instruction& instruction) noexcept {
  switch (instruction.op) {
    case Op::gather:
      gather(instruction);
      break;
    case Op::fill:
      fill(instruction);
      break;
    case Op::input:
      read_inputs(instruction);
      break;
    case Op::seed:
      seed(instruction);
      break;
    case Op::one_hot:
      one_hot(instruction);
      break;
    case Op::select:
      select(instruction);
      break;
    case Op::scatter:
      scatter(instruction);
      break;
    default:
      add_odds(instruction);
      break;
  }
}

template <class T>
void Replay<T>::gather(const Instruction& instruction) noexcept {
  T* const columns = bound_->columns[static_cast<std::size_t>(instruction.group)];
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    T* to = destination(instruction.group, move.stage, move.row);
    std::ptrdiff_t feature = row_step(instruction.group, move.stage), lane = 1;
    if (columns != nullptr) {
      feature = 1;
      lane = column_step(instruction.group);
      to = columns + first_lane(instruction.group, move.stage) * lane + move.row;
    }
    for (std::int32_t d = 0; d < count; ++d, to += lane) {
      const T* from =
          &values_[static_cast<std::size_t>(move.index + token(d, move.slot) * move.stride)];
      if (feature == 1) {
        std::copy_n(from, move.count, to);
      } else {
        for (std::int32_t i = 0; i < move.count; ++i) to[i * feature] = from[i];
      }
    }
  }
  if (columns == nullptr) return;
  const Group& group = program_.groups[static_cast<std::size_t>(instruction.group)];
  kernels_.transpose(destination(instruction.group, own, 0), row_step(instruction.group, own),
                     columns, column_step(instruction.group), lanes(instruction.group, own),
                     group.features);
}

template <class T>
void Replay<T>::fill(const Instruction& instruction) noexcept {
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    T* rows = destination(instruction.group, move.stage, move.row);
    const std::ptrdiff_t step = row_step(instruction.group, move.stage);
    const T* from = (move.constant ? constants_.data() : values_) + move.index;
    for (std::int32_t i = 0; i < move.count; ++i) {
      for (std::int32_t d = 0; d < count; ++d) rows[i * step + d] = from[i];
    }
  }
}

template <class T>
void Replay<T>::read_inputs(const Instruction& instruction) noexcept {
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    T* rows = destination(instruction.group, move.stage, move.row);
    const std::ptrdiff_t step = row_step(instruction.group, move.stage);
    for (std::int32_t d = 0; d < count; ++d) {
      const std::ptrdiff_t document = sorted_[static_cast<std::size_t>(d)];
      const double* from = documents_.inputs + document * program_.inputs + move.index;
      for (std::int32_t i = 0; i < move.count; ++i) rows[i * step + d] = static_cast<T>(from[i]);
    }
  }
}

template <class T>
void Replay<T>::seed(const Instruction& instruction) noexcept {
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    T* row = destination(instruction.group, move.stage, move.row);
    for (std::int32_t d = 0; d < count; ++d) {
      const std::int32_t document = sorted_[static_cast<std::size_t>(d)];
      const bool counts = documents_.counted == nullptr ||
                          documents_.counted[document * program_.stages + move.index] != 0;
      row[d] = counts ? static_cast<T>(documents_.scale[document]) : T{0};
    }
  }
}

template <class T>
void Replay<T>::one_hot(const Instruction& instruction) noexcept {
  const T hit = instruction.negated ? T{0} : T{1};
  const bool whole = covers_group(instruction);
  if (whole)
    std::fill_n(destination(instruction.group, own, 0), extent(instruction.group), T{1} - hit);
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    T* rows = destination(instruction.group, move.stage, move.row);
    const std::ptrdiff_t step = row_step(instruction.group, move.stage);
    for (std::int32_t i = whole ? move.count : 0; i < move.count; ++i)
      std::fill_n(rows + i * step, count, T{1} - hit);
    for (std::int32_t d = 0; d < count; ++d) {
      const std::int32_t i = token(d, move.slot) - move.index;
      if (i >= 0 && i < move.count) rows[i * step + d] = hit;
    }
  }
}

// move: stage, slot, first candidate row (index), candidates (stride), destination row, group.
template <class T>
void Replay<T>::select(const Instruction& instruction) noexcept {
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    T* row = destination(instruction.group, move.stage, move.row);
    const T* candidates = destination(move.group, move.stage, move.index);
    const std::ptrdiff_t step = row_step(move.group, move.stage);
    for (std::int32_t d = 0; d < count; ++d) row[d] = candidates[token(d, move.slot) * step + d];
  }
}

template <class T>
void Replay<T>::scatter(const Instruction& instruction) noexcept {
  for (const Move& move : instruction.moves) {
    const std::int32_t count = width_[static_cast<std::size_t>(move.stage)];
    if (count == 0) continue;
    const auto onto = [&](std::int32_t d) {
      return &gradients_[static_cast<std::size_t>(move.index + token(d, move.slot) * move.stride)];
    };
    if (const T* columns = column(move.group, move.stage)) {
      const std::ptrdiff_t width = column_step(move.group);
      for (std::int32_t d = 0; d < count; ++d) {
        T* const to = onto(d);
        const T* const from = columns + d * width + move.row;
        for (std::int32_t i = 0; i < move.count; ++i) to[i] += from[i];
      }
      continue;
    }
    const T* rows = destination(move.group, move.stage, move.row);
    const std::ptrdiff_t step = row_step(move.group, move.stage);
    for (std::int32_t d = 0; d < count; ++d) {
      T* const to = onto(d);
      for (std::int32_t i = 0; i < move.count; ++i) to[i] += rows[i * step + d];
    }
  }
}

template <class T>
void Replay<T>::add_odds(const Instruction& instruction) noexcept {
  for (std::int32_t i = 0; i < instruction.outer; ++i) {
    const Odd& odd = program_.odds[static_cast<std::size_t>(instruction.slot + i)];
    if (odd.stage >= longest_) continue;
    const std::int32_t count =
        odd.stage == shared ? 1 : width_[static_cast<std::size_t>(odd.stage)];
    const T* a = odd.a.space == Space::unit ? &unit_ : row(odd.a, odd.stage);
    const T* b = odd.b.space == Space::unit ? &unit_ : row(odd.b, odd.stage);
    const std::ptrdiff_t a_step = odd.a.space == Space::rows ? 1 : 0;
    const std::ptrdiff_t b_step = odd.b.space == Space::rows ? 1 : 0;
    T* onto = odd.group < 0 ? &gradients_[static_cast<std::size_t>(odd.index)]
                            : destination(odd.group, own, odd.index);
    T total = *onto;
    for (std::int32_t d = 0; d < count; ++d) total = total + a[d * a_step] * b[d * b_step];
    *onto = total;
  }
}

template class Replay<double>;
template class Replay<float>;

}  // namespace nanochat::program

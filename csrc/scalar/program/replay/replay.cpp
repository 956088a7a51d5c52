// See replay.hpp. This file: the shape of a batch, memory, and the run itself; how instructions
// become kernel calls is in bind.cpp, what moves single numbers in moves.cpp.
#include "scalar/program/replay/replay.hpp"

#include <algorithm>

#include "scalar/program/replay/bound.hpp"

namespace nanochat::program {

template <class T>
Replay<T>::Replay(const VectorProgram& program, const simd::Table<T>& kernels)
    : program_(program),
      kernels_(kernels),
      own_values_(program.parameters + simd::row_pad),
      gradients_(own_values_.size()),
      first_(own_values_.size()),
      second_(own_values_.size()),
      constants_(program.constants.begin(), program.constants.end()),
      values_(own_values_.data()),
      ones_(simd::row_pad, T{1}) {}

template <class T>
Replay<T>::Replay(const VectorProgram& program, const simd::Table<T>& kernels, T* values)
    : program_(program),
      kernels_(kernels),
      gradients_(program.parameters + simd::row_pad),
      constants_(program.constants.begin(), program.constants.end()),
      values_(values),
      ones_(simd::row_pad, T{1}) {}

template <class T>
Replay<T>::~Replay() = default;

template <class T>
void Replay<T>::set_shape(const Documents& documents) {
  documents_ = documents;
  const auto count = static_cast<std::size_t>(documents.count);
  const auto stages = static_cast<std::size_t>(program_.stages);
  std::vector<std::int32_t>& width = width_;
  width.assign(stages + 1, 0);
  for (std::size_t d = 0; d < count; ++d) ++width[static_cast<std::size_t>(documents.lengths[d])];
  // From "how many have this length" to "how many reach this stage", which is also where, among
  // documents sorted by falling length, those of each length begin.
  sorted_.resize(count);
  rank_.resize(count);
  std::vector<std::int32_t>& next = offset_;
  next.assign(stages + 2, 0);
  for (std::size_t s = stages; s > 0; --s) next[s] = next[s + 1] + width[s];
  longest_ = 0;
  for (std::size_t s = 0; s < stages; ++s) {
    width[s] = next[s + 1];
    if (width[s] > 0) longest_ = static_cast<std::int32_t>(s) + 1;
  }
  width[stages] = 0;
  std::vector<std::int32_t> start(next.begin() + 1, next.end());
  for (std::size_t d = 0; d < count; ++d) {
    const auto length = static_cast<std::size_t>(documents.lengths[d]);
    const std::int32_t lane = start[length]++;
    sorted_[static_cast<std::size_t>(lane)] = static_cast<std::int32_t>(d);
    rank_[d] = lane;
  }
  offset_.assign(stages + 1, 0);
  for (std::size_t s = 0; s < stages; ++s) offset_[s + 1] = offset_[s] + width[s];

  if (documents.count == 1) {
    by_length_.resize(stages + 1);
    auto& bound = by_length_[static_cast<std::size_t>(longest_)];
    if (!bound) bind_shape(bound);
    bound_ = bound.get();
    return;
  }
  if (!other_ || other_->width != width_) bind_shape(other_);
  bound_ = other_.get();
}

// A shape whose binding runs out of memory is forgotten: some of its calls would be missing.
template <class T>
void Replay<T>::bind_shape(std::unique_ptr<Bound>& bound) {
  if (!bound) bound = std::make_unique<Bound>();
  bound_ = bound.get();
  try {
    bind();
  } catch (...) {
    bound.reset();
    bound_ = nullptr;
    throw;
  }
}

// One run of memory for all groups of this shape. Rows start on a cache line where they are long.
template <class T>
void Replay<T>::lay_out() {
  constexpr std::ptrdiff_t line = 64 / sizeof(T);
  const auto padded = [](std::int32_t lanes) -> std::ptrdiff_t {
    if (lanes <= 1) return 1;
    if (lanes <= line / 2) return lanes <= line / 4 ? line / 4 : line / 2;
    return (lanes + line - 1) / line * line;
  };
  bound_->layout.resize(program_.groups.size());
  std::size_t used = 0;
  for (std::size_t g = 0; g < program_.groups.size(); ++g) {
    const Group& group = program_.groups[g];
    Layout& layout = bound_->layout[g];
    layout.base = used;
    std::ptrdiff_t elements = 0;
    if (group.ragged()) {
      layout.block.assign(1, 0);
      layout.steps.clear();
      for (std::int32_t s = group.begin; s < std::min(group.end, longest_); ++s) {
        layout.steps.push_back(padded(width_[static_cast<std::size_t>(s)]));
        elements += group.features_at(s) * layout.steps.back();
        layout.block.push_back(elements);
      }
    } else {
      layout.step = group.is_shared() ? 1 : padded(lanes(static_cast<std::int32_t>(g), own));
      elements = group.features * layout.step;
    }
    used += static_cast<std::size_t>((elements + line - 1) / line * line);
  }
  used += 4 * simd::row_pad;
  const std::size_t lanes_read = static_cast<std::size_t>(documents_.count) + simd::row_pad;
  if (used <= rows_.size() && lanes_read <= ones_.size()) return;
  // Calls bound before point into the old memory.
  for (auto& bound : by_length_) {
    if (bound.get() != bound_) bound.reset();
  }
  if (other_.get() != bound_) other_.reset();
  if (used > rows_.size()) rows_.assign(used, T{0});
  ones_.assign(std::max(lanes_read, ones_.size()), T{1});
}

template <class T>
void Replay<T>::forward(const Documents& documents, double* totals) {
  set_shape(documents);
  run(bound_->forward);
  for (std::int32_t d = 0; d < documents.count; ++d) {
    double total = program_.start;
    for (std::int32_t s = 0; s < documents.lengths[d]; ++s) {
      const bool counts =
          documents.counted == nullptr || documents.counted[d * program_.stages + s] != 0;
      if (counts) total = total + output(static_cast<std::size_t>(s), d);
    }
    totals[d] = total;
  }
}

template <class T>
void Replay<T>::backward(bool accumulate) {
  accumulate_ = accumulate;
  if (!accumulate) {
    for (const Range& range : program_.untouched) {
      std::fill(gradients_.begin() + range.begin, gradients_.begin() + range.end, T{0});
    }
  }
  run(bound_->backward);
}

template <class T>
double Replay<T>::visible(const Ref& ref, std::int32_t document) const {
  const std::int32_t lane = rank_[static_cast<std::size_t>(document)];
  switch (ref.space) {
    case Space::rows:
      if (lane >= width_[static_cast<std::size_t>(ref.stage)]) return 0.0;
      return static_cast<double>(destination(ref.group, ref.stage, ref.index)[lane]);
    case Space::number:
      return static_cast<double>(*destination(ref.group, own, ref.index));
    case Space::parameter:
      return static_cast<double>(values_[static_cast<std::size_t>(ref.index)]);
    default:
      return static_cast<double>(constants_[static_cast<std::size_t>(ref.index)]);
  }
}

template <class T>
double Replay<T>::watched(std::size_t i, std::int32_t document) const {
  return visible(program_.watched[i], document);
}

template <class T>
double Replay<T>::output(std::size_t i, std::int32_t document) const {
  return visible(program_.outputs[i], document);
}

template <class T>
void Replay<T>::adamw(std::size_t begin, std::size_t end, const simd::Adam& settings) noexcept {
  kernels_.adamw(&values_[begin], &gradients_[begin], &first_[begin], &second_[begin], end - begin,
                 settings);
}

template <class T>
void Replay<T>::sgd(std::size_t begin, std::size_t end, const simd::Sgd& settings) noexcept {
  kernels_.sgd(&values_[begin], &gradients_[begin], &first_[begin], end - begin, settings);
}

template <class T>
double Replay<T>::gradient_sum_of_squares() const noexcept {
  double total = 0.0;
  for (std::size_t i = 0; i < program_.parameters; ++i) {
    const auto g = static_cast<double>(gradients_[i]);
    total += g * g;
  }
  return total;
}

template <class T>
std::size_t Replay<T>::bytes() const noexcept {
  return (own_values_.size() + gradients_.size() + first_.size() + second_.size() + rows_.size()) *
         sizeof(T);
}

template <class T>
void Replay<T>::run(const std::vector<std::uint64_t>& calls) {
  for (const std::uint64_t call : calls) {
    const auto at = static_cast<std::size_t>(call >> 8U);
    switch (static_cast<CallKind>(call & 0xFFU)) {
      case CallKind::gemm:
        kernels_.gemm(bound_->gemms[at]);
        break;
      case CallKind::outer: {
        simd::Gemm<T>& gemm = bound_->gemms[at];
        const bool accumulate = gemm.accumulate;
        gemm.accumulate = accumulate || accumulate_;
        kernels_.gemm(gemm);
        gemm.accumulate = accumulate;
        break;
      }
      case CallKind::sum:
        kernels_.sum(bound_->sums[at]);
        break;
      case CallKind::cross:
        for (std::size_t i = bound_->ranges[at].begin; i < bound_->ranges[at].end; ++i) {
          kernels_.cross(bound_->crosses[i]);
        }
        break;
      case CallKind::fan:
        for (std::size_t i = bound_->ranges[at].begin; i < bound_->ranges[at].end; ++i) {
          kernels_.fan(bound_->fans[i]);
        }
        break;
      case CallKind::map: {
        const MapCall<T>& map = bound_->maps[at];
        kernels_.map(map.op, map.dst, map.src, map.n, map.constant);
        break;
      }
      case CallKind::largest: {
        const RowsCall<T>& rows = bound_->rows_calls[at];
        for (std::int32_t i = 0; i < rows.count; ++i) {
          kernels_.largest(rows.dst + i * rows.dst_step, rows.src + i * rows.src_next,
                           rows.src_step, rows.rows, rows.lanes);
        }
        break;
      }
      case CallKind::transpose: {
        const RowsCall<T>& rows = bound_->rows_calls[at];
        kernels_.transpose(rows.dst, rows.dst_step, rows.src, rows.src_step, rows.rows, rows.lanes);
        break;
      }
      case CallKind::zero: {
        const MapCall<T>& map = bound_->maps[at];
        std::fill_n(map.dst, map.n, T{0});
        break;
      }
      case CallKind::forward_move:
        move(program_.forward[at]);
        break;
      case CallKind::backward_move:
        move(program_.backward[at]);
        break;
    }
  }
}

template class Replay<double>;
template class Replay<float>;

}  // namespace nanochat::program

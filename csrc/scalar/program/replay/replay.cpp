// See replay.hpp. This file: the shape of a batch, memory, and execution. Instructions become
// kernel calls in bind.cpp; moves.cpp copies single numbers.
#include "scalar/program/replay/replay.hpp"

#include <algorithm>
#include <numeric>

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
  sort_documents();
  std::unique_ptr<Bound>& bound = find_bound();
  if (!bound || bound->width != width_) bind_shape(bound);
  bound_ = bound.get();
}

// A shape whose binding runs out of memory is dropped: some of its calls would be missing.
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

// Sorts the documents by decreasing length, by counting.
template <class T>
void Replay<T>::sort_documents() {
  const auto count = static_cast<std::size_t>(documents_.count);
  const auto positions = static_cast<std::size_t>(program_.positions);
  std::vector<std::int32_t>& width = width_;
  width.assign(positions + 1, 0);
  for (std::size_t d = 0; d < count; ++d) ++width[static_cast<std::size_t>(documents_.lengths[d])];
  // next[s]: the number of documents longer than s − 1, which is the number that reach position
  // s − 1, and the first lane of the documents of length s − 1.
  std::vector<std::int32_t>& next = offset_;
  next.assign(positions + 2, 0);
  for (std::size_t s = positions; s > 0; --s) next[s] = next[s + 1] + width[s];
  longest_ = 0;
  for (std::size_t p = 0; p < positions; ++p) {
    width[p] = next[p + 1];
    if (width[p] > 0) longest_ = static_cast<std::int32_t>(p) + 1;
  }
  width[positions] = 0;
  std::vector<std::int32_t> start(next.begin() + 1, next.end());
  sorted_.resize(count);
  rank_.resize(count);
  for (std::size_t d = 0; d < count; ++d) {
    const std::int32_t lane = start[static_cast<std::size_t>(documents_.lengths[d])]++;
    sorted_[static_cast<std::size_t>(lane)] = static_cast<std::int32_t>(d);
    rank_[d] = lane;
  }
  offset_.assign(positions + 1, 0);
  for (std::size_t p = 0; p < positions; ++p) offset_[p + 1] = offset_[p] + width[p];
}

// The calls for batches like this one: one document of each length, or the last other batch.
template <class T>
std::unique_ptr<typename Replay<T>::Bound>& Replay<T>::find_bound() {
  if (documents_.count > 1) return other_;
  by_length_.resize(width_.size());
  return by_length_[static_cast<std::size_t>(longest_)];
}

// Allocates one block of memory for all groups of this shape. Long rows start on a cache line.
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
      for (std::int32_t p = group.begin; p < std::min(group.end, longest_); ++p) {
        layout.steps.push_back(padded(width_at(p)));
        elements += group.features_at(p) * layout.steps.back();
        layout.block.push_back(elements);
      }
    } else {
      layout.step = group.is_shared() ? 1 : padded(lanes(static_cast<std::int32_t>(g), own));
      elements = group.features * layout.step;
    }
    used += static_cast<std::size_t>((elements + line - 1) / line * line);
  }
  grow_memory(used + 4 * simd::row_pad);
}

template <class T>
void Replay<T>::grow_memory(std::size_t elements) {
  const std::size_t lanes_read = static_cast<std::size_t>(documents_.count) + simd::row_pad;
  if (elements <= memory_.size() && lanes_read <= ones_.size()) return;
  // The calls of other shapes point to the old memory.
  for (auto& bound : by_length_) {
    if (bound.get() != bound_) bound.reset();
  }
  if (other_.get() != bound_) other_.reset();
  if (elements > memory_.size()) memory_.assign(elements, T{0});
  ones_.assign(std::max(lanes_read, ones_.size()), T{1});
}

template <class T>
void Replay<T>::forward(const Documents& documents, double* totals) {
  set_shape(documents);
  run(bound_->forward);
  for (std::int32_t d = 0; d < documents.count; ++d) {
    double total = program_.start;
    for (std::int32_t p = 0; p < documents.lengths[d]; ++p) {
      const bool counts =
          documents.counted == nullptr || documents.counted[d * program_.positions + p] != 0;
      if (counts) total = total + output(static_cast<std::size_t>(p), d);
    }
    totals[d] = total;
  }
}

template <class T>
void Replay<T>::backward(bool accumulate) {
  accumulate_ = accumulate;
  if (!accumulate) {
    for (const Range& range : program_.zeroed_first) {
      std::fill(gradients_.begin() + range.begin, gradients_.begin() + range.end, T{0});
    }
  }
  run(bound_->backward);
}

template <class T>
double Replay<T>::number(const Ref& ref, std::int32_t document) const {
  const std::int32_t lane = rank_[static_cast<std::size_t>(document)];
  switch (ref.space) {
    case AddressSpace::rows:
      if (lane >= width_at(ref.position)) return 0.0;
      return static_cast<double>(row(ref.group, ref.position, ref.index)[lane]);
    case AddressSpace::shared_number:
      return static_cast<double>(*row(ref.group, own, ref.index));
    case AddressSpace::parameter:
      return static_cast<double>(values_[static_cast<std::size_t>(ref.index)]);
    default:
      return static_cast<double>(constants_[static_cast<std::size_t>(ref.index)]);
  }
}

template <class T>
double Replay<T>::observed(std::size_t i, std::int32_t document) const {
  return number(program_.observed[i], document);
}

template <class T>
double Replay<T>::output(std::size_t i, std::int32_t document) const {
  return number(program_.outputs[i], document);
}

template <class T>
void Replay<T>::adamw(std::size_t begin, std::size_t end, const simd::Adam& options) noexcept {
  kernels_.adamw(&values_[begin], &gradients_[begin], &first_[begin], &second_[begin], end - begin,
                 options);
}

template <class T>
void Replay<T>::sgd(std::size_t begin, std::size_t end, const simd::Sgd& options) noexcept {
  kernels_.sgd(&values_[begin], &gradients_[begin], &first_[begin], end - begin, options);
}

template <class T>
double Replay<T>::gradient_sum_of_squares() const noexcept {
  // Independent sums: an addition takes several cycles, and each one would wait for the one before.
  constexpr std::size_t sums = 16;
  static_assert(sums == simd::row_pad);  // the gradients are padded with zeros to this multiple
  double total[sums] = {};
  for (std::size_t i = 0; i < program_.parameters; i += sums) {
    for (std::size_t j = 0; j < sums; ++j) {
      const auto g = static_cast<double>(gradients_[i + j]);
      total[j] += g * g;
    }
  }
  return std::accumulate(total, total + sums, 0.0);
}

template <class T>
std::size_t Replay<T>::bytes() const noexcept {
  return (own_values_.size() + gradients_.size() + first_.size() + second_.size() +
          memory_.size()) *
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
      case CallKind::gradient_gemm: {
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
        const LargestCall<T>& largest = bound_->largest[at];
        for (std::int32_t i = 0; i < largest.destinations; ++i) {
          kernels_.largest(largest.dst + i * largest.dst_step, largest.src + i * largest.src_next,
                           largest.src_step, largest.rows, largest.lanes);
        }
        break;
      }
      case CallKind::transpose: {
        const TransposeCall<T>& transpose = bound_->transposes[at];
        kernels_.transpose(transpose.dst, transpose.dst_step, transpose.src, transpose.src_step,
                           transpose.rows, transpose.lanes);
        break;
      }
      case CallKind::zero:
        std::fill_n(bound_->zeros[at].dst, bound_->zeros[at].n, T{0});
        break;
      case CallKind::gather:
        run(*bound_->gathers[at]);
        break;
      case CallKind::fill:
        run(*bound_->fills[at]);
        break;
      case CallKind::input:
        run(*bound_->inputs[at]);
        break;
      case CallKind::seed:
        run(*bound_->seeds[at]);
        break;
      case CallKind::one_hot:
        run(*bound_->one_hots[at]);
        break;
      case CallKind::select:
        run(*bound_->selects[at]);
        break;
      case CallKind::scatter:
        run(*bound_->scatters[at]);
        break;
      case CallKind::single_products:
        add_single_products(bound_->single_products[at]);
        break;
    }
  }
}

template class Replay<double>;
template class Replay<float>;

}  // namespace nanochat::program

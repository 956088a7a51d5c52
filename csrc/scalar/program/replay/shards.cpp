// See shards.hpp. This file: how a batch is split, run and combined.
#include "scalar/program/replay/shards.hpp"

#include <algorithm>
#include <numeric>

namespace nanochat::program {
namespace {

// The number of parameters whose gradients one task adds.
constexpr std::size_t span = 8192;

// Adds up the products of instructions at each position, per document. Numbers that positions share
// are computed once per batch and not counted.
class WorkCounter {
 public:
  explicit WorkCounter(const VectorProgram& program)
      : program_(program), positions_(static_cast<std::size_t>(program.positions)) {}

  std::vector<double> take() { return std::move(positions_); }

  void operator()(const MapRows& map) { add(map.to, 1); }
  void operator()(const LargestRow& largest) { add(largest.to, largest.count); }
  void operator()(const SumRows& sum) { add(sum.to, products_of(sum)); }
  void operator()(const MatrixProduct& product) { add(product.to, products_of(product)); }
  void operator()(const CrossSum& cross) {
    const Group& group = program_.group(cross.group);
    for (const CrossPart& part : cross.parts) {
      for (std::int32_t p = group.begin; p < group.end; ++p) {
        const auto at = static_cast<std::size_t>(p - group.begin);
        double products = 0.0;
        for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1]; ++i) {
          const CrossRun& run = part.runs[i];
          products += static_cast<double>(run.products) * run.rows * run.repeats;
        }
        add(p, p + 1, products);
      }
    }
  }
  void operator()(const ReduceLanes& reduce) {
    for (std::int32_t i = reduce.outer_products.begin; i < reduce.outer_products.end; ++i) {
      const OuterProduct& outer = program_.outer_products[static_cast<std::size_t>(i)];
      const Group& b = program_.group(outer.b.group);
      const bool one_position = outer.b.position != own;
      add(one_position ? outer.b.position : b.begin, one_position ? outer.b.position + 1 : b.end,
          static_cast<double>(outer.m) * outer.n);
    }
  }
  template <class Moves>
  void operator()(const Moves&) {}

 private:
  static double products_of(const SumOfProducts& sum) {
    double products = 0.0;
    for (const ProductRun& run : sum.products) products += run.count;
    return products;
  }
  void add(const Destination& to, double products) {
    const Group& group = program_.group(to.group);
    const bool one_position = to.position != own;
    add(one_position ? to.position : group.begin, one_position ? to.position + 1 : group.end,
        products * to.features * to.blocks);
  }
  void add(std::int32_t begin, std::int32_t end, double products) {
    if (begin == shared) return;
    for (std::int32_t p = begin; p < end; ++p) positions_[static_cast<std::size_t>(p)] += products;
  }

  const VectorProgram& program_;
  std::vector<double> positions_;
};

std::vector<double> work_by_length(const VectorProgram& program) {
  WorkCounter counter(program);
  for (const auto* list : {&program.forward, &program.backward}) {
    for (const Instruction& instruction : *list) std::visit(counter, instruction);
  }
  const std::vector<double> positions = counter.take();
  std::vector<double> lengths(positions.size() + 1);
  std::partial_sum(positions.begin(), positions.end(), lengths.begin() + 1);
  return lengths;
}

}  // namespace

template <class T>
Shards<T>::Shards(const VectorProgram& program, const simd::Table<T>& kernels, int threads)
    : program_(program), kernels_(kernels), threads_(threads), work_(work_by_length(program)) {
  shards_.push_back(std::unique_ptr<Shard>(new Shard{Replay<T>(program, kernels)}));
}

template <class T>
Shards<T>::~Shards() {
  forget_lost_workers();
}

// After fork() the child has no threads to join, so the workers' memory is leaked.
template <class T>
void Shards<T>::forget_lost_workers() noexcept {
  if (workers_ == nullptr || !workers_->is_forked()) return;
  [[maybe_unused]] const Workers* const lost = workers_.release();
}

template <class T>
double Shards<T>::work(const Documents& documents) const noexcept {
  double total = 0.0;
  for (std::int32_t d = 0; d < documents.count; ++d) {
    total += work_[static_cast<std::size_t>(documents.lengths[d])];
  }
  return total;
}

template <class T>
std::int32_t Shards<T>::shards_of(const Documents& documents) const noexcept {
  if (program_.numerics == Numerics::exact || documents.count < 2 * least_documents<T>) return 1;
  const double total = work(documents);
  std::int32_t count = 1;
  std::int32_t least = least_documents<T>;
  while (2 * count <= most_shards && 2 * count * least <= documents.count &&
         2 * count * least_work <= total) {
    count *= 2;
    least = many_documents;
  }
  return count;
}

// Deals the documents to the shards in turn, by decreasing length, so shards have similar work.
template <class T>
void Shards<T>::deal(const Documents& documents) {
  const auto count = static_cast<std::size_t>(documents.count);
  in_use_ = shards_of(documents);
  while (shards_.size() < static_cast<std::size_t>(in_use_)) {
    shards_.push_back(std::unique_ptr<Shard>(new Shard{Replay<T>(program_, kernels_, values())}));
  }
  std::vector<std::int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (documents.count > documents_at_once) {
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return documents.lengths[a] > documents.lengths[b];
    });
  }
  assignments_.resize(count);
  for (std::int32_t s = 0; s < in_use_; ++s) {
    shards_[static_cast<std::size_t>(s)]->members.clear();
  }
  for (std::size_t i = 0; i < count; ++i) {
    const auto s = static_cast<std::int32_t>(i) % in_use_;
    std::vector<std::int32_t>& members = shards_[static_cast<std::size_t>(s)]->members;
    assignments_[static_cast<std::size_t>(order[i])] = {s,
                                                        static_cast<std::int32_t>(members.size())};
    members.push_back(order[i]);
  }
}

template <class T>
Documents Shards<T>::Shard::copy(const VectorProgram& program, const Documents& from,
                                 std::size_t first, std::size_t count) {
  const auto rows = [&](auto& to, const auto* numbers, std::int32_t width) {
    to.clear();
    if (numbers == nullptr) return;
    for (std::size_t i = first; i < first + count; ++i) {
      const std::int32_t d = members[i];
      const auto* row = numbers + static_cast<std::ptrdiff_t>(d) * width;
      to.insert(to.end(), row, row + width);
    }
  };
  rows(lengths, from.lengths, 1);
  rows(tokens, from.tokens, program.slots);
  rows(inputs, from.inputs, program.inputs);
  rows(scale, from.scale, 1);
  rows(counted, from.counted, program.positions);
  totals.resize(count);
  return {static_cast<std::int32_t>(count),
          lengths.data(),
          tokens.data(),
          inputs.data(),
          scale.data(),
          from.counted == nullptr ? nullptr : counted.data()};
}

template <class T>
void Shards<T>::run(std::int32_t count, const std::function<void(int)>& task) {
  const int threads = std::min(threads_, in_use_);
  if (threads <= 1 || count == 1) {
    for (int i = 0; i < count; ++i) task(i);
    return;
  }
  forget_lost_workers();
  if (!workers_ || workers_->threads() < threads - 1) {
    workers_.reset();
    workers_ = std::make_unique<Workers>(threads - 1);
  }
  workers_->run(count, task);
}

template <class T>
void Shards<T>::forward_part(Shard& shard, const Documents& documents, std::size_t first,
                             std::size_t count, double* totals) {
  const Documents part = shard.copy(program_, documents, first, count);
  shard.replay.forward(part, shard.totals.data());
  for (std::size_t i = 0; i < count; ++i) totals[shard.members[first + i]] = shard.totals[i];
}

template <class T>
void Shards<T>::forward(const Documents& documents, double* totals) {
  deal(documents);
  run(in_use_, [&](int at) {
    Shard& shard = *shards_[static_cast<std::size_t>(at)];
    forward_part(shard, documents, 0, shard.members.size(), totals);
  });
}

template <class T>
void Shards<T>::backward(bool accumulate) {
  run(in_use_, [&](int at) {
    shards_[static_cast<std::size_t>(at)]->replay.backward(at == 0 && accumulate);
  });
  add_gradients();
}

template <class T>
void Shards<T>::forward_backward(const Documents& documents, double* totals, bool accumulate) {
  assignments_.clear();
  if (documents.count <= documents_at_once && shards_of(documents) == 1) {
    in_use_ = 1;  // the first shard would get all documents, in their order
    Replay<T>& replay = shards_.front()->replay;
    replay.forward(documents, totals);
    return replay.backward(accumulate);
  }
  deal(documents);
  run(in_use_, [&](int at) {
    Shard& shard = *shards_[static_cast<std::size_t>(at)];
    const std::size_t count = shard.members.size();
    const bool whole = program_.numerics == Numerics::exact;
    const std::size_t parts = whole ? 1 : std::max<std::size_t>(1, count / documents_at_once);
    for (std::size_t i = 0; i < parts; ++i) {
      const std::size_t first = i * count / parts;
      forward_part(shard, documents, first, (i + 1) * count / parts - first, totals);
      shard.replay.backward(i > 0 || (at == 0 && accumulate));
    }
  });
  assignments_.clear();
  add_gradients();
}

// Adds the gradients to the first shard's, in the order of the shards.
template <class T>
void Shards<T>::add_gradients() {
  if (in_use_ == 1) return;
  const auto add = [&](int at) {
    const std::size_t begin = static_cast<std::size_t>(at) * span;
    const std::size_t end = std::min(begin + span, program_.parameters);
    T* const to = gradients();
    for (std::int32_t s = 1; s < in_use_; ++s) {
      const T* const from = shards_[static_cast<std::size_t>(s)]->replay.gradients();
      for (std::size_t i = begin; i < end; ++i) to[i] += from[i];
    }
  };
  run(static_cast<std::int32_t>((program_.parameters + span - 1) / span), add);
}

template <class T>
double Shards<T>::observed(std::size_t i, std::int32_t document) const {
  const Assignment& at = assignments_[static_cast<std::size_t>(document)];
  return shards_[static_cast<std::size_t>(at.shard)]->replay.observed(i, at.member);
}

template <class T>
double Shards<T>::output(std::size_t i, std::int32_t document) const {
  const Assignment& at = assignments_[static_cast<std::size_t>(document)];
  return shards_[static_cast<std::size_t>(at.shard)]->replay.output(i, at.member);
}

template <class T>
std::size_t Shards<T>::bytes() const noexcept {
  std::size_t total = 0;
  for (const auto& shard : shards_) total += shard->replay.bytes();
  return total;
}

template class Shards<double>;
template class Shards<float>;

}  // namespace nanochat::program

// A batch in shards: parts of its documents, each a replay of its own on the same parameters, that
// threads may run side by side. How a batch is dealt depends on the batch alone, and the shards'
// gradients are added in the order of the shards: the same bits for any number of threads. Leaves
// out the replay of one shard (replay.hpp) and the threads (workers.hpp).
#ifndef NANOCHAT_SCALAR_PROGRAM_SHARDS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_SHARDS_HPP_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "scalar/program/replay/replay.hpp"
#include "threads/workers.hpp"

namespace nanochat::program {

// A shard has at least this many multiply-adds, forward and backward, and fills a cache line with a
// number of each document: below that its empty lanes, and the addresses that each shard finds for
// itself, cost one thread more than a tenth, and two gain little.
inline constexpr double least_work = 1e6;
template <class T>
inline constexpr std::int32_t least_documents = 64 / sizeof(T);
// Beyond two shards each has this many documents: its rows are memory that the others do not share.
inline constexpr std::int32_t many_documents = 32;
inline constexpr std::int32_t most_shards = 8;
// Documents that a shard takes at once where it can: enough lanes to fill the vectors, little
// enough for their rows to stay in the cache from forward to backward.
inline constexpr std::int32_t documents_at_once = 16;

// The interface of Replay, for whole batches.
template <class T>
class Shards {
 public:
  // The program must outlive the shards. `threads` at most, the caller's included.
  Shards(const VectorProgram& program, const simd::Table<T>& kernels, int threads);
  ~Shards();
  Shards(const Shards&) = delete;
  Shards& operator=(const Shards&) = delete;

  T* values() noexcept { return shards_.front()->replay.values(); }
  T* gradients() noexcept { return shards_.front()->replay.gradients(); }
  T* first_moments() noexcept { return shards_.front()->replay.first_moments(); }
  T* second_moments() noexcept { return shards_.front()->replay.second_moments(); }

  // As of Replay; the arrays of `documents` need not outlive the call.
  void forward(const Documents& documents, double* totals);
  void backward(bool accumulate);
  // Both, a few documents at a time: afterwards no outputs or watched values can be asked for.
  void forward_backward(const Documents& documents, double* totals, bool accumulate);
  std::size_t documents() const noexcept { return places_.size(); }  // of the last forward
  double watched(std::size_t i, std::int32_t document) const;
  double output(std::size_t i, std::int32_t document) const;

  void adamw(std::size_t begin, std::size_t end, const simd::Adam& settings) noexcept {
    shards_.front()->replay.adamw(begin, end, settings);
  }
  void sgd(std::size_t begin, std::size_t end, const simd::Sgd& settings) noexcept {
    shards_.front()->replay.sgd(begin, end, settings);
  }
  double gradient_sum_of_squares() const noexcept {
    return shards_.front()->replay.gradient_sum_of_squares();
  }

  std::size_t bytes() const noexcept;

  // Multiply-adds of these documents, forward and backward, about.
  double work(const Documents& documents) const noexcept;
  // A power of two, so that two, four or eight threads have equal parts; 1 with exact numerics,
  // whose gradients are added in one given order.
  std::int32_t shards_of(const Documents& documents) const noexcept;
  std::int32_t shards_in_use() const noexcept { return in_use_; }

 private:
  // Its documents' numbers, and which of the caller's they are.
  struct Shard {
    Replay<T> replay;
    std::vector<std::int32_t> members{}, lengths{}, tokens{};
    std::vector<double> inputs{}, scale{}, totals{};
    std::vector<std::uint8_t> counted{};

    // Takes members first … first + count - 1.
    Documents copy(const VectorProgram& program, const Documents& from, std::size_t first,
                   std::size_t count);
  };
  struct Place {
    std::int32_t shard, index;
  };

  void deal(const Documents& documents);
  void run(std::int32_t count, const std::function<void(int)>& task);
  void forward_part(Shard& shard, const Documents& documents, std::size_t first, std::size_t count,
                    double* totals);
  void add_gradients();
  void forget_lost_workers() noexcept;

  const VectorProgram& program_;
  const simd::Table<T>& kernels_;
  int threads_;
  std::vector<double> work_;  // of a document of each length
  std::vector<std::unique_ptr<Shard>> shards_;
  std::int32_t in_use_ = 1;
  std::vector<Place> places_;  // of each document of the last forward
  std::unique_ptr<Workers> workers_;
};

extern template class Shards<double>;
extern template class Shards<float>;

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_SHARDS_HPP_

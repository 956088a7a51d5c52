// Splits a batch into shards that threads run in parallel. Each shard has some of the documents and
// a separate replay with the same parameters. The split depends only on the batch, and the
// gradients of the shards are added in order, so the result has the same bits for any number of
// threads. The replay of one shard is in replay.hpp, the threads are in workers.hpp.
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

// A shard has at least this many multiply-adds, forward and backward, and one number per document
// fills a cache line. In smaller shards, empty lanes and the binding of addresses per shard cost
// one thread more than a tenth, and two threads gain little.
inline constexpr double least_work = 1e6;
template <class T>
inline constexpr std::int32_t least_documents = 64 / sizeof(T);
// With more than two shards, each has at least this many documents, because shards do not share the
// memory of their rows.
inline constexpr std::int32_t many_documents = 32;
inline constexpr std::int32_t most_shards = 8;
// The number of documents that a shard runs at once if possible: enough lanes to fill the vectors,
// and few enough that their rows stay in the cache from forward to backward.
inline constexpr std::int32_t documents_at_once = 16;

// Runs whole batches, with the interface of Replay.
template <class T>
class Shards {
 public:
  // The program must outlive the shards. Uses at most `threads` threads, including the caller's.
  Shards(const VectorProgram& program, const simd::Table<T>& kernels, int threads);
  ~Shards();
  Shards(const Shards&) = delete;
  Shards& operator=(const Shards&) = delete;

  T* values() noexcept { return shards_.front()->replay.values(); }
  T* gradients() noexcept { return shards_.front()->replay.gradients(); }
  T* first_moments() noexcept { return shards_.front()->replay.first_moments(); }
  T* second_moments() noexcept { return shards_.front()->replay.second_moments(); }

  // As in Replay; the arrays of `documents` need not outlive the call.
  void forward(const Documents& documents, double* totals);
  void backward(bool accumulate);
  // Both, a few documents at a time. Outputs and observed values are not available afterwards.
  void forward_backward(const Documents& documents, double* totals, bool accumulate);
  std::size_t documents() const noexcept { return assignments_.size(); }  // of the last forward
  double observed(std::size_t i, std::int32_t document) const;
  double output(std::size_t i, std::int32_t document) const;

  void adamw(std::size_t begin, std::size_t end, const simd::Adam& options) noexcept {
    shards_.front()->replay.adamw(begin, end, options);
  }
  void sgd(std::size_t begin, std::size_t end, const simd::Sgd& options) noexcept {
    shards_.front()->replay.sgd(begin, end, options);
  }
  double gradient_sum_of_squares() const noexcept {
    return shards_.front()->replay.gradient_sum_of_squares();
  }

  std::size_t bytes() const noexcept;

  // The approximate number of multiply-adds of these documents, forward and backward.
  double work(const Documents& documents) const noexcept;
  // A power of two, which gives two, four or eight threads equal parts. 1 with exact numerics,
  // which fix the order in which gradients are added.
  std::int32_t shards_of(const Documents& documents) const noexcept;
  std::int32_t shards_in_use() const noexcept { return in_use_; }

 private:
  // The numbers of its documents, and their indices in the batch.
  struct Shard {
    Replay<T> replay;
    std::vector<std::int32_t> members{}, lengths{}, tokens{};
    std::vector<double> inputs{}, scale{}, totals{};
    std::vector<std::uint8_t> counted{};

    // Copies members first … first + count − 1.
    Documents copy(const VectorProgram& program, const Documents& from, std::size_t first,
                   std::size_t count);
  };
  struct Assignment {
    std::int32_t shard, member;
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
  std::vector<double> work_;  // of a document, by its length
  std::vector<std::unique_ptr<Shard>> shards_;
  std::int32_t in_use_ = 1;
  std::vector<Assignment> assignments_;  // per document of the last forward
  std::unique_ptr<Workers> workers_;
};

extern template class Shards<double>;
extern template class Shards<float>;

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_SHARDS_HPP_

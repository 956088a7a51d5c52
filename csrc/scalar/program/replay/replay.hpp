// Runs a vector program: memory, the shape of a batch, and the kernel calls in order. The lowering
// is in lower.hpp, the kernels are in ../simd/.
#ifndef NANOCHAT_SCALAR_PROGRAM_REPLAY_HPP_
#define NANOCHAT_SCALAR_PROGRAM_REPLAY_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "scalar/program/lowering/vector_program.hpp"
#include "scalar/simd/simd.hpp"

namespace nanochat::program {

// The input of a replay: documents of up to `positions` positions. The caller owns the arrays.
struct Documents {
  std::int32_t count = 0;
  const std::int32_t* lengths = nullptr;  // (count,) positions, 1 … positions
  const std::int32_t* tokens = nullptr;   // (count, slots); only slots of positions in use are read
  const double* inputs = nullptr;         // (count, inputs)
  const double* scale = nullptr;          // (count,) the gradient that flows into each output
  // (count, positions); 0 excludes an output from the loss; null: all outputs count
  const std::uint8_t* counted = nullptr;
};

template <class T>
class Replay {
 public:
  // The program must outlive the replay. Throws std::bad_alloc.
  Replay(const VectorProgram& program, const simd::Table<T>& kernels);
  // Reads the parameters of another replay, which must outlive this one and is the only one that
  // updates them.
  Replay(const VectorProgram& program, const simd::Table<T>& kernels, T* values);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // (parameters,) each; adamw's moments, or sgd's momentum buffer in first_moments.
  T* values() noexcept { return values_; }
  T* gradients() noexcept { return gradients_.data(); }
  T* first_moments() noexcept { return first_.data(); }
  T* second_moments() noexcept { return second_.data(); }

  // totals[d] = start + output₀ + output₁ + … of document d, in order, without its scale.
  void forward(const Documents& documents, double* totals);
  // Gradients of Σ scale · output, which replace the previous ones or are added to them.
  void backward(bool accumulate);
  // Observed value i at its own position, of document d of the last forward; 0 beyond its length.
  double observed(std::size_t i, std::int32_t document) const;
  double output(std::size_t i, std::int32_t document) const;

  void adamw(std::size_t begin, std::size_t end, const simd::Adam& options) noexcept;
  void sgd(std::size_t begin, std::size_t end, const simd::Sgd& options) noexcept;
  double gradient_sum_of_squares() const noexcept;

  std::size_t bytes() const noexcept;  // rows, and the parameters and optimizer state it owns

 private:
  struct Bound;  // the kernel calls of one batch shape
  struct CrossBinder;

  template <class Element>
  struct Aligned {
    using value_type = Element;
    Aligned() = default;
    template <class Other>
    explicit Aligned(const Aligned<Other>&) noexcept {}
    Element* allocate(std::size_t n) {
      return static_cast<Element*>(::operator new(n * sizeof(Element), std::align_val_t{64}));
    }
    void deallocate(Element* p, std::size_t) noexcept {
      ::operator delete(p, std::align_val_t{64});
    }
    bool operator==(const Aligned&) const noexcept { return true; }
  };
  using AlignedVector = std::vector<T, Aligned<T>>;

  void set_shape(const Documents& documents);
  void sort_documents();
  std::unique_ptr<Bound>& find_bound();
  void lay_out();
  void bind_shape(std::unique_ptr<Bound>& bound);
  void grow_memory(std::size_t elements);
  void bind();
  std::int32_t width_at(std::int32_t position) const noexcept {
    return width_[static_cast<std::size_t>(position)];
  }
  std::int32_t lanes(std::int32_t group, std::int32_t position) const noexcept;
  std::int32_t first_lane(std::int32_t group, std::int32_t position) const noexcept;
  T* row(std::int32_t group, std::int32_t position, std::int32_t index) const noexcept;
  std::ptrdiff_t row_step(std::int32_t group, std::int32_t position) const noexcept;
  std::ptrdiff_t extent(std::int32_t group) const noexcept;
  const T* operand(const Ref& ref, std::int32_t position) const noexcept;
  std::ptrdiff_t step(const Ref& ref, std::int32_t position, std::int32_t steps) const noexcept;
  double number(const Ref& ref, std::int32_t document) const;

  bool is_reached(const Destination& to) const noexcept;
  std::int32_t first_position(const Destination& to) const noexcept;
  std::int32_t lanes_of(const SumOfProducts& sum) const noexcept;
  std::int32_t whole_lanes(const Destination& to) const noexcept;
  std::int32_t whole_vectors(std::int32_t group, std::int32_t position) const noexcept;
  void bind(const GatherRows& gather);
  void bind(const FillRows& fill);
  void bind(const InputRows& input);
  void bind(const SeedRows& seed);
  void bind(const OneHotRows& one_hot);
  void bind(const SelectRows& select);
  void bind(const ScatterRows& scatter);
  void bind(const MapRows& map);
  void bind(const LargestRow& largest);
  void bind(const SumRows& sum);
  void bind(const MatrixProduct& product);
  void bind(const CrossSum& cross);
  void bind(const ReduceLanes& reduce);
  void bind_outer(const OuterProduct& outer);
  void bind_unreached(const OuterProduct& outer, T* destination);
  void bind_columns(std::int32_t group);
  const simd::PositionRows<T>* rows_at_positions(std::int32_t group);
  T* take_columns(std::int32_t group);
  const T* column(std::int32_t group, std::int32_t position) const noexcept;
  std::ptrdiff_t column_step(std::int32_t group) const noexcept;

  void run(const std::vector<std::uint64_t>& calls);
  void run(const GatherRows& gather) noexcept;
  void run(const FillRows& fill) noexcept;
  void run(const InputRows& input) noexcept;
  void run(const SeedRows& seed) noexcept;
  void run(const OneHotRows& one_hot) noexcept;
  void run(const SelectRows& select) noexcept;
  void run(const ScatterRows& scatter) noexcept;
  void add_single_products(const Range& range) noexcept;
  std::int32_t token(std::int32_t lane, std::int32_t slot) const noexcept;

  const VectorProgram& program_;
  const simd::Table<T>& kernels_;
  AlignedVector own_values_, gradients_, first_, second_, constants_;
  T* values_;
  AlignedVector memory_;  // of the groups
  AlignedVector ones_;    // the number 1, in at least as many lanes as there are documents
  T unit_ = T{1};
  bool accumulate_ = false;

  // Shape: documents by decreasing length.
  Documents documents_;
  std::vector<std::int32_t> sorted_;  // the document of each lane of a position
  std::vector<std::int32_t> rank_;    // the lane of each document
  std::vector<std::int32_t> width_;   // documents at each position; 0 beyond the longest document
  std::vector<std::int32_t> offset_;  // lanes before each position
  std::int32_t longest_ = 0;

  std::vector<std::unique_ptr<Bound>> by_length_;  // batches of one document, by its length
  std::unique_ptr<Bound> other_;
  Bound* bound_ = nullptr;
};

extern template class Replay<double>;
extern template class Replay<float>;

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_REPLAY_HPP_

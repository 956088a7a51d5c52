// Runs a vector program: memory, the shape of a batch, and the calls of the kernels in order.
// Leaves out how the program was found (lower.hpp), the kernels (../simd/) and Python.
#ifndef NANOCHAT_SCALAR_PROGRAM_REPLAY_HPP_
#define NANOCHAT_SCALAR_PROGRAM_REPLAY_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {

// What a replay is given: documents of up to `stages` positions. Arrays belong to the caller.
struct Documents {
  std::int32_t count = 0;
  const std::int32_t* lengths = nullptr;  // (count,) positions, 1 … stages
  const std::int32_t* tokens = nullptr;   // (count, slots); only slots of positions in use are read
  const double* inputs = nullptr;         // (count, inputs)
  const double* scale = nullptr;          // (count,) the gradient that flows into each output
  const std::uint8_t* counted =
      nullptr;  // (count, stages): 0 leaves an output out; null: all count
};

template <class T>
class Replay {
 public:
  // The program must outlive the replay. Throws std::bad_alloc.
  Replay(const VectorProgram& program, const simd::Table<T>& kernels);
  // Reads the parameters of another replay, which must outlive this one and alone updates them.
  Replay(const VectorProgram& program, const simd::Table<T>& kernels, T* values);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // (parameters,) each; adam's m and v, or sgd's buffer in m.
  T* values() noexcept { return values_; }
  T* gradients() noexcept { return gradients_.data(); }
  T* first_moments() noexcept { return first_.data(); }
  T* second_moments() noexcept { return second_.data(); }

  // totals[d] = start + output₀ + output₁ + … of document d, in order, without its scale.
  void forward(const Documents& documents, double* totals);
  // Gradients of Σ scale · output, written over the old ones or added to them.
  void backward(bool accumulate);
  // Watched value i at its own position, of document d of the last forward; 0 beyond its length.
  double watched(std::size_t i, std::int32_t document) const;
  double output(std::size_t i, std::int32_t document) const;

  void adamw(std::size_t begin, std::size_t end, const simd::Adam& settings) noexcept;
  void sgd(std::size_t begin, std::size_t end, const simd::Sgd& settings) noexcept;
  double gradient_sum_of_squares() const noexcept;

  std::size_t bytes() const noexcept;  // rows, and what it has of parameters and their state

 private:
  struct Bound;  // the kernel calls of one shape
  struct CrossBinder;

  template <class Number>
  struct Aligned {
    using value_type = Number;
    Aligned() = default;
    template <class Other>
    explicit Aligned(const Aligned<Other>&) noexcept {}
    Number* allocate(std::size_t n) {
      return static_cast<Number*>(::operator new(n * sizeof(Number), std::align_val_t{64}));
    }
    void deallocate(Number* p, std::size_t) noexcept { ::operator delete(p, std::align_val_t{64}); }
    bool operator==(const Aligned&) const noexcept { return true; }
  };
  using Numbers = std::vector<T, Aligned<T>>;

  void set_shape(const Documents& documents);
  void lay_out();
  void bind_shape(std::unique_ptr<Bound>& bound);
  void bind();
  const T* row(const Ref& ref, std::int32_t stage) const noexcept;
  T* destination(std::int32_t group, std::int32_t stage, std::int32_t index) const noexcept;
  std::ptrdiff_t step(const Ref& ref, std::int32_t stage, std::int32_t steps) const noexcept;
  std::ptrdiff_t row_step(std::int32_t group, std::int32_t stage) const noexcept;
  std::int32_t lanes(std::int32_t group, std::int32_t stage) const noexcept;
  double visible(const Ref& ref, std::int32_t document) const;

  std::int32_t extent(std::int32_t group) const noexcept;

  void bind_instruction(const Instruction& instruction, std::size_t at, bool forward);
  void bind_sum(const Instruction& instruction, std::int32_t stage, bool forward);
  void bind_matrix(const Instruction& instruction, std::int32_t stage, bool forward);
  void bind_map(const Instruction& instruction, std::int32_t stage, bool forward);
  void bind_largest(const Instruction& instruction, std::int32_t stage, bool forward);
  void bind_cross(const Instruction& instruction, bool forward);
  void bind_outers(const Instruction& instruction, std::size_t at);
  void bind_outer(const Outer& outer);
  void bind_columns(std::int32_t group);
  T* take_columns(std::int32_t group);
  const T* column(std::int32_t group, std::int32_t stage) const noexcept;
  std::ptrdiff_t column_step(std::int32_t group) const noexcept;
  std::int32_t first_lane(std::int32_t group, std::int32_t stage) const noexcept;
  bool covers_group(const Instruction& instruction) const noexcept;

  void move(const Instruction& instruction) noexcept;
  void run(const std::vector<std::uint64_t>& calls);
  void gather(const Instruction& instruction) noexcept;
  void fill(const Instruction& instruction) noexcept;
  void read_inputs(const Instruction& instruction) noexcept;
  void seed(const Instruction& instruction) noexcept;
  void one_hot(const Instruction& instruction) noexcept;
  void select(const Instruction& instruction) noexcept;
  void scatter(const Instruction& instruction) noexcept;
  void add_odds(const Instruction& instruction) noexcept;
  std::int32_t token(std::int32_t lane, std::int32_t slot) const noexcept;

  const VectorProgram& program_;
  const simd::Table<T>& kernels_;
  Numbers own_values_, gradients_, first_, second_, constants_;
  T* values_;
  Numbers rows_;
  Numbers ones_;  // the number 1 in as many lanes as there are documents
  T unit_ = T{1};
  bool accumulate_ = false;

  // Shape: documents by falling length.
  Documents documents_;
  std::vector<std::int32_t> sorted_;  // document of each lane of a stage
  std::vector<std::int32_t> rank_;    // lane of each document
  std::vector<std::int32_t> width_;   // documents at each stage; 0 beyond the longest
  std::vector<std::int32_t> offset_;  // lanes before each stage
  std::int32_t longest_ = 0;

  std::vector<std::unique_ptr<Bound>> by_length_;  // one document: a shape for each length
  std::unique_ptr<Bound> other_;
  Bound* bound_ = nullptr;
};

extern template class Replay<double>;
extern template class Replay<float>;

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_REPLAY_HPP_

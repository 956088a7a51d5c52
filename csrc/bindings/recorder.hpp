// Recorder: records the operations on a tape. While it is active, a matrix row by token, a
// selection, a detached maximum and an input become symbols, which a replay computes again.
#ifndef NANOCHAT_BINDINGS_RECORDER_HPP_
#define NANOCHAT_BINDINGS_RECORDER_HPP_

#include <vector>

#include "bindings/matrix.hpp"
#include "scalar/program/graph/recording.hpp"

namespace nanochat::bindings {

// The token of one slot. A replay supplies the index.
struct Token {
  Token(std::int32_t slot, py::ssize_t value);

  std::int32_t slot;
  py::ssize_t value;  // used while recording
};

class Recorder {
 public:
  // blocks: Matrix and Value objects, the parameters in order. The recorder keeps them alive.
  Recorder(const TapeOwner& tape, const py::sequence& blocks);
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  ~Recorder();

  void enter();
  void exit() noexcept;

  py::list gather(const Matrix& matrix, const Token& token);
  py::object select(const py::list& values, const Token& token);
  py::object largest(const py::list& values, double value);
  py::object input(std::int32_t slot, double value);

  const TapeOwner& tape() const noexcept { return tape_; }
  const py::list& owners() const noexcept { return owners_; }
  const program::Recording& recording() const noexcept { return recording_; }

 private:
  py::object symbol(double value, program::Symbol symbol);
  NodeId node_of(py::handle value) const;

  TapeOwner tape_;
  py::list owners_;
  program::Recording recording_;
  bool active_ = false;
};

}  // namespace nanochat::bindings

NANOCHAT_BOUND_CLASS(nanochat::bindings::Token);
NANOCHAT_BOUND_CLASS(nanochat::bindings::Recorder);

#endif  // NANOCHAT_BINDINGS_RECORDER_HPP_

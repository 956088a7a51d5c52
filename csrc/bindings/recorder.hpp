// Recorder: a tape being recorded. While it is active, a row by token, a selection, a maximum and
// an input leave symbols that a replay fills anew.
#ifndef NANOCHAT_BINDINGS_RECORDER_HPP_
#define NANOCHAT_BINDINGS_RECORDER_HPP_

#include <vector>

#include "bindings/matrix.hpp"
#include "scalar/program/graph/recording.hpp"

namespace nanochat::bindings {

// The token of a slot: an index that a replay chooses.
struct Token {
  std::int32_t slot;
  py::ssize_t value;  // at the time of recording
};

class Recorder {
 public:
  // blocks: Matrix and Value objects, the parameters in their order. Keeps them alive.
  Recorder(const TapeOwner& tape, const py::sequence& blocks);
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  ~Recorder();

  void enter();
  void exit() noexcept;

  py::list gather(const Matrix& matrix, const Token& token);
  py::object select(const py::sequence& values, const Token& token);
  // None when no value is a Value.
  py::object largest(const py::sequence& values, double value);
  py::object input(std::int32_t slot, double value);

  const TapeOwner& tape() const noexcept { return tape_; }
  const py::list& owners() const noexcept { return owners_; }
  const program::Recording& recording() const noexcept { return recording_; }

 private:
  py::object symbol(double value, program::Symbol symbol);

  TapeOwner tape_;
  py::list owners_;
  program::Recording recording_;
  bool active_ = false;
};

}  // namespace nanochat::bindings

#endif  // NANOCHAT_BINDINGS_RECORDER_HPP_

// Compiled: the C++ state of a Python Program, and functions that read and check its arguments.
#ifndef NANOCHAT_BINDINGS_COMPILED_HPP_
#define NANOCHAT_BINDINGS_COMPILED_HPP_

#include <pybind11/numpy.h>

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/recorder.hpp"
#include "scalar/program/replay/shards.hpp"

namespace nanochat::bindings {

using program::Documents;
using program::Shards;
using program::VectorProgram;

using Integers = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Flags = py::array_t<std::uint8_t, py::array::c_style | py::array::forcecast>;

// Raises ValueError unless `holds`. `message` is a text, or a function that returns one: a text
// that is put together at each call would take a tenth of the time of a small step.
template <class Message>
void require(bool holds, const Message& message) {
  if (holds) return;
  if constexpr (std::is_invocable_v<const Message&>) {
    throw py::value_error(message());
  } else {
    throw py::value_error(message);
  }
}

// The last complete replay. backward() and outputs() need the rows that `forward` leaves.
enum class LastReplay : std::uint8_t { none, forward, forward_backward };

struct Compiled {
  explicit Compiled(const Recorder& recorder)
      : tape(recorder.tape()), blocks(recorder.recording().blocks), owners(recorder.owners()) {}

  TapeOwner tape;
  std::vector<program::Block> blocks;  // the parameters, in order
  py::list owners;                     // keeps them alive
  VectorProgram program;
  std::vector<std::pair<std::string, std::string>> passes;  // name, summary
  bool verified = false;  // whether the passes were checked: see verify.hpp
  bool single = false;    // float32
  bool mean = false;      // the loss is the mean of the document's outputs
  std::unique_ptr<Shards<double>> double_replay;
  std::unique_ptr<Shards<float>> float_replay;
  std::vector<std::int32_t> lengths;  // of the last forward
  std::vector<std::int32_t>
      last_slot;                     // per position: the highest slot that positions up to it read
  long long steps = 0;               // of AdamW
  std::int32_t given_tokens = 0;     // tokens per document of step(), read or not
  std::int32_t given_inputs = 0;     // inputs per document of step(), read or not
  std::vector<std::int32_t> tokens;  // of step()
  std::vector<double> numbers, scale, totals;
  LastReplay last = LastReplay::none;
  mutable bool in_use = false;

  // Calls visit with the replay of this program's dtype. The caller holds an InUse.
  template <class Visit>
  decltype(auto) replay(Visit&& visit) const {
    return single ? visit(*float_replay) : visit(*double_replay);
  }
};

// What consecutive steps of an optimizer have in common.
struct StepOptions {
  bool adamw;  // false: SGD, whose momentum is beta1
  double beta1, beta2, eps, weight_decay;
  double grad_clip;                // 0: gradients are not clipped
  long long done;                  // steps before these
  std::int32_t documents_at_once;  // per forward and backward pass, at most
};

// Marks a program as in use for the duration of one call. A second call, from another thread or
// from Python code that the first call runs (such as a token's __index__), raises ProgramError:
// both would write to the same buffers. The interpreter's lock protects the mark. It is held here,
// even if the replay releases it in between.
class InUse {
 public:
  explicit InUse(const Compiled& program) : program_(program) {
    if (program.in_use) {
      raise_program_error(
          "a program runs one call at a time, and this one is in use; wait until the first call "
          "returns, or compile a second program");
    }
    program.in_use = true;
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;
  ~InUse() { program_.in_use = false; }

 private:
  const Compiled& program_;
};

// Reads the documents of step(), loss() and grad(): one sequence of tokens or a sequence of such
// sequences, and their inputs. The result points into `self`. Raises TypeError or ValueError that
// names the argument.
Documents read_documents(Compiled& self, const py::object& tokens, const py::object& inputs);

// Reads the same as arrays (documents, slots), (documents, inputs) and (documents, positions). The
// result points into the caller's arrays. A token of −1 is valid where `counted` is given: the
// target of an output that does not count. Raises ValueError that names the array.
Documents read_arrays(Compiled& self, const Integers& lengths, const Integers& tokens,
                      const Doubles& scale, const std::optional<Doubles>& inputs,
                      const std::optional<Flags>& counted);

// Takes consecutive optimizer steps: Program.steps(), in steps.cpp.
py::tuple steps(Compiled& self, const Integers& lengths, const Integers& tokens,
                const Doubles& scale, const std::optional<Doubles>& inputs,
                const std::optional<Flags>& counted, const Integers& documents,
                const std::vector<std::size_t>& ends, const Doubles& rates,
                const std::optional<Integers>& watched, const StepOptions& options);

}  // namespace nanochat::bindings

NANOCHAT_BOUND_CLASS(nanochat::bindings::Compiled);

#endif  // NANOCHAT_BINDINGS_COMPILED_HPP_

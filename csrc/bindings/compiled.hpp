// Compiled: what stands behind a Program of Python, and the reading of what it is given.
#ifndef NANOCHAT_BINDINGS_COMPILED_HPP_
#define NANOCHAT_BINDINGS_COMPILED_HPP_

#include <pybind11/numpy.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
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

struct Compiled {
  explicit Compiled(const Recorder& recorder)
      : tape(recorder.tape()), blocks(recorder.recording().blocks), owners(recorder.owners()) {}

  TapeOwner tape;
  std::vector<program::Block> blocks;  // the parameters, in their order
  py::list owners;                     // keeps them alive
  VectorProgram program;
  std::vector<std::pair<std::string, std::string>> passes;  // name, summary
  bool single = false;                                      // float32
  bool mean = false;  // the loss is the mean of the outputs, however many a document has
  std::unique_ptr<Shards<double>> double_replay;
  std::unique_ptr<Shards<float>> float_replay;
  std::vector<std::int32_t> lengths;    // of the last forward
  std::vector<std::int32_t> last_slot;  // the highest slot that stages up to each one read
  long long steps = 0;                  // of Adam
  std::int32_t given_tokens = 0;        // what a document of step() has,
  std::int32_t given_inputs = 0;        // used or not
  std::vector<std::int32_t> tokens;     // of step()
  std::vector<double> numbers, scale, totals;
  mutable std::recursive_mutex in_use;

  // Calls visit with the replay of this program's dtype.
  template <class Visit>
  decltype(auto) replay(Visit&& visit) const {
    const auto alone = lock();
    return single ? visit(*float_replay) : visit(*double_replay);
  }

  // Long replays run without the interpreter's lock; this one keeps other threads out of them.
  std::unique_lock<std::recursive_mutex> lock() const {
    std::unique_lock<std::recursive_mutex> alone(in_use, std::try_to_lock);
    if (!alone.owns_lock()) {
      const py::gil_scoped_release release;  // its holder needs it to finish
      alone.lock();
    }
    return alone;
  }
};

// The documents of step(), loss() and grad(): one, or several as a sequence of sequences, with
// their numbers. They stay in `self`, with the weight of each in the loss. Raises TypeError or
// ValueError naming what does not fit.
Documents read_documents(Compiled& self, const py::object& tokens, const py::object& inputs);

// The same as arrays, (documents, slots), (documents, inputs) and (documents, stages), which the
// caller keeps. Raises ValueError naming the one that does not fit.
Documents read_arrays(Compiled& self, const Integers& lengths, const Integers& tokens,
                      const Doubles& scale, const std::optional<Doubles>& inputs,
                      const std::optional<Flags>& counted);

}  // namespace nanochat::bindings

#endif  // NANOCHAT_BINDINGS_COMPILED_HPP_

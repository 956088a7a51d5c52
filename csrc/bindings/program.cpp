// Program: a recorded function, optimized, with its parameters and optimizer state. See
// compiled.hpp.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <type_traits>

#include "bindings/compiled.hpp"
#include "scalar/program/c_text/to_c.hpp"
#include "scalar/program/graph/verify.hpp"
#include "scalar/program/passes/passes.hpp"

namespace nanochat::bindings {
namespace {

// Runs `body`, without the interpreter's lock if it takes long enough for other threads to benefit.
template <class T, class Body>
void run_long(const Shards<T>& replay, const Documents& documents, Body body) {
  std::optional<py::gil_scoped_release> release;
  if (replay.work(documents) >= program::least_work) release.emplace();
  body();
}

std::vector<NodeId> ids_of(const py::list& values, const Recorder& recorder, const char* what) {
  std::vector<NodeId> ids;
  for (const py::handle value : values) {
    if (!is_value(value.ptr())) {
      throw py::type_error(std::string(what) + " must be Values, got " + type_name(value));
    }
    if (as_value(value.ptr())->tape != recorder.tape().get()) {
      throw py::value_error(std::string(what) + " are on another tape");
    }
    ids.push_back(as_value(value.ptr())->id);
  }
  return ids;
}

std::unique_ptr<Compiled> compile(const Recorder& recorder, const py::sequence& outputs,
                                  const py::sequence& watched, const std::string& numerics,
                                  const std::string& dtype, bool mean, std::size_t dump_nodes,
                                  std::int32_t given_tokens, std::int32_t given_inputs,
                                  int threads) {
  require(numerics == "fast" || numerics == "exact",
          [&] { return "numerics must be 'fast' or 'exact', got '" + numerics + "'"; });
  require(dtype == "float64" || dtype == "float32",
          [&] { return "dtype must be 'float64' or 'float32', got '" + dtype + "'"; });
  const bool exact = numerics == "exact";
  require(!exact || dtype == "float64", "exact numerics need dtype 'float64'");
  require(given_tokens >= 0 && given_inputs >= 0, [&] {
    return "given_tokens and given_inputs must be at least 0, got " + std::to_string(given_tokens) +
           " and " + std::to_string(given_inputs);
  });
  require(threads >= 1,
          [&] { return "threads must be at least 1, got " + std::to_string(threads); });
  // Private copies, which keep the Values alive until the graph is made.
  const py::list output_list = items_of(outputs), watched_list = items_of(watched);
  require(!output_list.empty(), "a program needs at least one output");
  auto compiled = std::make_unique<Compiled>(recorder);
  program::Graph graph = program::to_graph(*recorder.tape().get(), recorder.recording(),
                                           ids_of(output_list, recorder, "outputs"),
                                           ids_of(watched_list, recorder, "watched values"));
  const auto kind = exact ? program::Numerics::exact : program::Numerics::fast;
  const program::Loss loss =
      program::optimise(graph, kind, !mean, [&](const char* pass, const program::Graph& after) {
        std::string text = program::summary(after);
        if (dump_nodes > 0) text += "\n" + program::dump(after, dump_nodes);
        compiled->passes.emplace_back(pass, std::move(text));
      });
  compiled->verified = program::verifies();
  compiled->program = program::lower(graph, kind);
  compiled->program.weight = loss.weight;
  compiled->program.start = loss.start;
  compiled->mean = mean;
  compiled->given_tokens = given_tokens;
  compiled->given_inputs = given_inputs;
  compiled->single = dtype == "float32";
  compiled->last_slot = program::last_slots(compiled->program);
  const simd::Tables& tables = simd::tables();
  if (compiled->single) {
    compiled->float_replay =
        std::make_unique<Shards<float>>(compiled->program, tables.fast32, threads);
  } else {
    compiled->double_replay = std::make_unique<Shards<double>>(
        compiled->program, exact ? tables.exact : tables.fast64, threads);
  }
  return compiled;
}

template <class From, class To>
void copy_numbers(const From* from, std::size_t count, To* to) {
  if constexpr (std::is_same_v<From, To>) {
    std::copy_n(from, count, to);
  } else {
    std::transform(from, from + count, to, [](From x) { return static_cast<To>(x); });
  }
}

// Copies the parameters from the tape's Values to the replay.
void load(Compiled& self) {
  self.replay([&](auto& replay) {
    auto* to = replay.values();
    for (const program::Block& block : self.blocks) {
      const std::size_t count = block.rows * block.cols;
      copy_numbers(self.tape->values(block.first), count, to);
      to += count;
    }
  });
}

// Copies the parameters, or the gradients, from the replay to the tape's Values.
void store(const Compiled& self, bool gradients) {
  self.replay([&](auto& replay) {
    const auto* from = gradients ? replay.gradients() : replay.values();
    for (const program::Block& block : self.blocks) {
      const std::size_t count = block.rows * block.cols;
      copy_numbers(from, count,
                   gradients ? self.tape->grads(block.first) : self.tape->values(block.first));
      from += count;
    }
  });
}

// Replays the documents, with a backward pass if `accumulate` is given.
void replay_documents(Compiled& self, const Documents& documents, std::optional<bool> accumulate,
                      double* totals) {
  self.last = LastReplay::none;  // also after an exception
  self.replay([&](auto& replay) {
    run_long(replay, documents, [&] {
      if (accumulate) {
        replay.forward_backward(documents, totals, *accumulate);
      } else {
        replay.forward(documents, totals);
      }
    });
  });
  self.last = accumulate ? LastReplay::forward_backward : LastReplay::forward;
}

Doubles forward(Compiled& self, const Integers& lengths, const Integers& tokens,
                const Doubles& scale, const std::optional<Doubles>& inputs,
                const std::optional<Flags>& counted, std::optional<bool> accumulate) {
  const InUse in_use(self);
  const Documents documents = read_arrays(self, lengths, tokens, scale, inputs, counted);
  Doubles totals(documents.count);
  replay_documents(self, documents, accumulate, totals.mutable_data());
  return totals;
}

void require_rows(const Compiled& self, const char* what) {
  if (self.last == LastReplay::forward) return;
  raise_program_error(std::string(what) +
                      " needs a forward() without gradients directly before it");
}

void backward(const Compiled& self, bool accumulate) {
  const InUse in_use(self);
  require_rows(self, "backward()");
  self.replay([&](auto& replay) {
    std::optional<py::gil_scoped_release> release;
    if (replay.shards_in_use() > 1) release.emplace();
    replay.backward(accumulate);
  });
}

// Mean loss of the documents. With `backward`, leaves the gradients in the replay.
double run(Compiled& self, const py::object& tokens, const py::object& inputs, bool backward) {
  const Documents documents = read_documents(self, tokens, inputs);
  self.totals.resize(self.lengths.size());
  replay_documents(self, documents, backward ? std::optional(false) : std::nullopt,
                   self.totals.data());
  double loss = 0.0;
  for (std::size_t d = 0; d < self.totals.size(); ++d) {
    const double weighted = self.scale[d] * self.totals[d];
    loss = d == 0 ? weighted : loss + weighted;
  }
  return loss;
}

double step(Compiled& self, const py::object& tokens, const py::object& inputs, double lr,
            double beta1, double beta2, double eps, double weight_decay) {
  const InUse in_use(self);
  load(self);
  const double loss = run(self, tokens, inputs, true);
  const auto t = static_cast<double>(++self.steps);
  const simd::Adam settings{
      lr, beta1, beta2, eps, weight_decay, 1.0 - libm::pow(beta1, t), 1.0 - libm::pow(beta2, t),
      1.0};
  self.replay([&](auto& replay) { replay.adamw(0, self.program.parameters, settings); });
  store(self, false);
  return loss;
}

double loss(Compiled& self, const py::object& tokens, const py::object& inputs) {
  const InUse in_use(self);
  load(self);
  return run(self, tokens, inputs, false);
}

double grad(Compiled& self, const py::object& tokens, const py::object& inputs) {
  const InUse in_use(self);
  load(self);
  const double mean = run(self, tokens, inputs, true);
  store(self, true);
  return mean;
}

void require_range(std::size_t begin, std::size_t end, std::size_t count, const char* what) {
  require(begin <= end && end <= count, [&] {
    return std::string(what) + " must be a range within 0 … " + std::to_string(count) + ", got " +
           std::to_string(begin) + " … " + std::to_string(end);
  });
}

void adamw(const Compiled& self, std::size_t begin, std::size_t end, double lr, double beta1,
           double beta2, double eps, double weight_decay, long long t, double grad_scale) {
  const InUse in_use(self);
  require_range(begin, end, self.program.parameters, "parameters");
  require(t >= 1, [&] { return "t counts steps from 1, got " + std::to_string(t); });
  const auto step = static_cast<double>(t);
  const simd::Adam settings{lr,
                            beta1,
                            beta2,
                            eps,
                            weight_decay,
                            1.0 - libm::pow(beta1, step),
                            1.0 - libm::pow(beta2, step),
                            grad_scale};
  self.replay([&](auto& replay) { replay.adamw(begin, end, settings); });
}

void sgd(const Compiled& self, std::size_t begin, std::size_t end, double lr, double momentum,
         double weight_decay, bool first, double grad_scale) {
  const InUse in_use(self);
  require_range(begin, end, self.program.parameters, "parameters");
  const simd::Sgd settings{lr, momentum, weight_decay, first, grad_scale};
  self.replay([&](auto& replay) { replay.sgd(begin, end, settings); });
}

// (documents, end - begin) numbers: cell(replay, i, document) for i from begin to end.
template <class Cell>
py::array_t<double> table(const Compiled& self, std::size_t begin, std::size_t end, Cell cell) {
  return self.replay([&](auto& replay) {
    const auto count = static_cast<py::ssize_t>(replay.documents());
    py::array_t<double> result({count, static_cast<py::ssize_t>(end - begin)});
    auto cells = result.mutable_unchecked<2>();
    for (py::ssize_t d = 0; d < count; ++d) {
      for (std::size_t i = begin; i < end; ++i) {
        cells(d, static_cast<py::ssize_t>(i - begin)) =
            cell(replay, i, static_cast<std::int32_t>(d));
      }
    }
    return result;
  });
}

py::array_t<double> outputs(const Compiled& self) {
  const InUse in_use(self);
  require_rows(self, "outputs()");
  return table(self, 0, static_cast<std::size_t>(self.program.positions),
               [](auto& replay, std::size_t i, std::int32_t d) { return replay.output(i, d); });
}

py::array_t<double> watched(const Compiled& self, std::size_t begin, std::size_t end) {
  const InUse in_use(self);
  require_rows(self, "watched()");
  require_range(begin, end, self.program.observed.size(), "watched values");
  return table(self, begin, end,
               [](auto& replay, std::size_t i, std::int32_t d) { return replay.observed(i, d); });
}

std::string to_c(Compiled& self) {
  const InUse in_use(self);
  load(self);
  program::Trained trained{self.single, self.mean, self.blocks, self.last_slot,
                           {},          {},        {},          self.steps};
  self.replay([&](auto& replay) {
    const auto copy = [&](const auto* from) {
      return std::vector<double>(from, from + self.program.parameters);
    };
    trained.values = copy(replay.values());
    trained.first_moments = copy(replay.first_moments());
    trained.second_moments = copy(replay.second_moments());
  });
  return program::to_c(self.program, trained);
}

enum class Array : std::uint8_t { values, gradients, first_moments, second_moments };

template <Array which>
py::array view(const py::object& self) {
  auto& compiled = self.cast<Compiled&>();
  const InUse in_use(compiled);
  return compiled.replay([&](auto& replay) -> py::array {
    const auto* data = which == Array::values          ? replay.values()
                       : which == Array::gradients     ? replay.gradients()
                       : which == Array::first_moments ? replay.first_moments()
                                                       : replay.second_moments();
    using Number = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    return py::array_t<Number>(static_cast<py::ssize_t>(compiled.program.parameters), data, self);
  });
}

}  // namespace

void raise_program_error(const std::string& message) {
  const py::object type = py::module_::import("nanochat.errors").attr("ProgramError");
  PyErr_SetString(type.ptr(), message.c_str());
  throw py::error_already_set();
}

void register_program(const py::module_& module) {
  py::class_<Compiled> bound(
      module, "Program",
      "A recorded function, optimized, with its parameters and optimizer state.\n\n"
      "nanochat.compile() and the scalar engine use it; documents are sequences of tokens and\n"
      "inputs (step, loss, grad) or arrays of a whole batch (forward). One call runs at a time: a\n"
      "second one raises ProgramError.");
  bound
      .def_static(
          "compile", &compile, py::arg("recorder"), py::arg("outputs"), py::arg("watched"),
          py::arg("numerics"), py::arg("dtype"), py::arg("mean") = true, py::arg("dump_nodes") = 0,
          py::arg("given_tokens") = 0, py::arg("given_inputs") = 0, py::arg("threads") = 1,
          "Optimize what a Recorder has recorded. `watched`: Values whose numbers watched()\n"
          "returns.")
      .def("step", &step, py::arg("tokens") = py::none(), py::arg("inputs") = py::none(),
           py::arg("lr") = 0.01, py::arg("beta1") = 0.9, py::arg("beta2") = 0.999,
           py::arg("eps") = 1e-8, py::arg("weight_decay") = 0.0,
           "Run one AdamW step on the mean of the documents; return the loss before it.")
      .def("loss", &loss, py::arg("tokens") = py::none(), py::arg("inputs") = py::none(),
           "Return the mean loss of the documents.")
      .def("grad", &grad, py::arg("tokens") = py::none(), py::arg("inputs") = py::none(),
           "Return the mean loss; store its gradients in the parameters' Values.")
      .def(
          "load",
          [](Compiled& self) {
            const InUse in_use(self);
            load(self);
          },
          "Copy the parameters from their Values to the program.")
      .def(
          "store",
          [](const Compiled& self) {
            const InUse in_use(self);
            store(self, false);
          },
          "Copy the parameters from the program to their Values.")
      .def("forward", &forward, py::arg("lengths"), py::arg("tokens"), py::arg("scale"),
           py::arg("inputs") = py::none(), py::arg("counted") = py::none(),
           py::arg("accumulate") = py::none(),
           "Run a batch; return the sum of the outputs of each document, (documents,) float64.\n\n"
           "lengths: (documents,) positions. tokens: (documents, slots). scale: (documents,), the\n"
           "gradient of each output. inputs: (documents, inputs). counted: (documents, positions), "
           "0\n"
           "for an output that does not count. accumulate: None runs no backward pass; otherwise\n"
           "whether the gradients are added to the previous ones.")
      .def("backward", &backward, py::arg("accumulate") = false,
           "Compute the gradients of the last forward(), which must have had no backward pass.")
      .def("adamw", &adamw, py::arg("begin"), py::arg("end"), py::arg("lr"), py::arg("beta1"),
           py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"), py::arg("t"),
           py::arg("grad_scale") = 1.0, "Update parameters begin … end - 1 by one AdamW step.")
      .def(
          "steps",
          [](Compiled& self, const Integers& lengths, const Integers& tokens, const Doubles& scale,
             const std::optional<Doubles>& inputs, const std::optional<Flags>& counted,
             const Integers& documents, const std::vector<std::size_t>& ends, const Doubles& rates,
             bool adamw, double beta1, double beta2, double eps, double weight_decay,
             double grad_clip, long long done, std::int32_t documents_at_once,
             const std::optional<Integers>& watched) {
            return steps(
                self, lengths, tokens, scale, inputs, counted, documents, ends, rates, watched,
                {adamw, beta1, beta2, eps, weight_decay, grad_clip, done, documents_at_once});
          },
          py::arg("lengths"), py::arg("tokens"), py::arg("scale"), py::arg("inputs"),
          py::arg("counted"), py::arg("documents"), py::arg("ends"), py::arg("rates"),
          py::kw_only(), py::arg("adamw"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"),
          py::arg("weight_decay"), py::arg("grad_clip"), py::arg("done"),
          py::arg("documents_at_once"), py::arg("watched") = py::none(),
          "Take consecutive optimizer steps; return (losses, gradient norms, steps taken, "
          "recorded).\n\n"
          "The documents of all steps are one batch, as in forward(). documents: (steps,\n"
          "microbatches), how many each has. ends: of the ranges of parameters that have separate\n"
          "rates. rates: (steps, ranges). done: steps before these. documents_at_once: per "
          "forward\n"
          "and backward pass, at most. The loss of a step is the sum of scale times the outputs. "
          "A\n"
          "step whose loss or gradient norm is not finite makes no update and is the last: its\n"
          "figures are at index `steps taken`. watched: indices of parameters. recorded:\n"
          "(steps, watched, 5), of each step taken the weight and the gradient before the update,\n"
          "and after it the moments (NaN without a second one) and the change of the weight.")
      .def("sgd", &sgd, py::arg("begin"), py::arg("end"), py::arg("lr"), py::arg("momentum"),
           py::arg("weight_decay"), py::arg("first"), py::arg("grad_scale") = 1.0,
           "Update parameters begin … end - 1 by one SGD step.")
      .def(
          "grad_sum_of_squares",
          [](const Compiled& self) {
            const InUse in_use(self);
            return self.replay([](auto& replay) { return replay.gradient_sum_of_squares(); });
          },
          "Return the sum of the squared gradients, a float.")
      .def(
          "outputs", &outputs,
          "Return the outputs of the last forward(), (documents, positions) float64; 0 beyond the\n"
          "length of a document.")
      .def("watched", &watched, py::arg("begin"), py::arg("end"),
           "Return watched values begin … end - 1 of the last forward(), (documents, end - begin).")
      .def_property_readonly("values", &view<Array::values>)
      .def_property_readonly("gradients", &view<Array::gradients>)
      .def_property_readonly("first_moments", &view<Array::first_moments>)
      .def_property_readonly("second_moments", &view<Array::second_moments>)
      .def_property_readonly("positions",
                             [](const Compiled& self) { return self.program.positions; })
      .def_property_readonly("slots", [](const Compiled& self) { return self.program.slots; })
      .def_property_readonly("inputs", [](const Compiled& self) { return self.program.inputs; })
      .def_property_readonly("limits", [](const Compiled& self) { return self.program.limits; })
      .def_property_readonly("fewest_tokens",
                             [](const Compiled& self) { return self.last_slot.front() + 1; })
      .def_property_readonly("weight", [](const Compiled& self) { return self.program.weight; })
      .def_property_readonly("ordered", [](const Compiled& self) { return self.program.ordered; })
      .def_property_readonly("passes", [](const Compiled& self) { return self.passes; })
      .def_property_readonly("verified", [](const Compiled& self) { return self.verified; })
      .def_property_readonly(
          "shards",
          [](const Compiled& self) {
            const InUse in_use(self);
            return self.replay([](auto& replay) { return replay.shards_in_use(); });
          })
      .def_property_readonly("bytes",
                             [](const Compiled& self) {
                               const InUse in_use(self);
                               return self.replay([](auto& replay) { return replay.bytes(); });
                             })
      .def(
          "listing", [](const Compiled& self) { return program::listing(self.program); },
          "Return the vector program as text.")
      .def("to_c", &to_c, "Return a C file that trains the program from its present state.");
}

}  // namespace nanochat::bindings

// Program: a recorded function, optimised, with its parameters and optimizer state, ready to
// replay.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <type_traits>

#include "bindings/compiled.hpp"
#include "scalar/program/passes/passes.hpp"
#include "scalar/program/c_text/to_c.hpp"

namespace nanochat::bindings {
namespace {

// Runs `body` without the interpreter's lock where it takes long enough for others to gain by it.
template <class T, class Body>
void run_long(const Shards<T>& replay, const Documents& documents, Body body) {
  std::optional<py::gil_scoped_release> release;
  if (replay.work(documents) >= program::least_work) release.emplace();
  body();
}

std::vector<NodeId> ids_of(const py::sequence& values, const Recorder& recorder, const char* what) {
  std::vector<NodeId> ids;
  for (const py::handle value : values) {
    if (!is_value(value.ptr())) {
      throw py::type_error(std::string(what) + " must be Values, got " +
                           Py_TYPE(value.ptr())->tp_name);
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
  if (numerics != "fast" && numerics != "exact") {
    throw py::value_error("numerics must be 'fast' or 'exact', got '" + numerics + "'");
  }
  if (dtype != "float64" && dtype != "float32") {
    throw py::value_error("dtype must be 'float64' or 'float32', got '" + dtype + "'");
  }
  const bool exact = numerics == "exact";
  if (exact && dtype != "float64") throw py::value_error("exact numerics need dtype 'float64'");
  if (py::len(outputs) == 0) throw py::value_error("a program needs at least one output");
  auto compiled = std::make_unique<Compiled>(recorder);
  program::Graph graph = program::to_graph(*recorder.tape().get(), recorder.recording(),
                                           ids_of(outputs, recorder, "outputs"),
                                           ids_of(watched, recorder, "watched values"));
  const auto kind = exact ? program::Numerics::exact : program::Numerics::fast;
  const program::Loss loss =
      program::optimise(graph, kind, !mean, [&](const char* pass, const program::Graph& after) {
        std::string text = program::summary(after);
        if (dump_nodes > 0) text += "\n" + program::dump(after, dump_nodes);
        compiled->passes.emplace_back(pass, std::move(text));
      });
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

// Parameters between the tape's Values and the replay.
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

Doubles forward(Compiled& self, const Integers& lengths, const Integers& tokens,
                const Doubles& scale, const std::optional<Doubles>& inputs,
                const std::optional<Flags>& counted, std::optional<bool> accumulate) {
  const auto alone = self.lock();
  const Documents documents = read_arrays(self, lengths, tokens, scale, inputs, counted);
  Doubles totals(documents.count);
  double* const to = totals.mutable_data();
  self.replay([&](auto& replay) {
    run_long(replay, documents, [&] {
      if (accumulate) {
        replay.forward_backward(documents, to, *accumulate);
      } else {
        replay.forward(documents, to);
      }
    });
  });
  return totals;
}

// Mean loss of one document (a sequence of ints) or of several (a sequence of such sequences);
// leaves the gradients in the replay.
double run(Compiled& self, const py::object& tokens, const py::object& inputs, bool backward) {
  const Documents documents = read_documents(self, tokens, inputs);
  self.totals.resize(self.lengths.size());
  self.replay([&](auto& replay) {
    run_long(replay, documents, [&] {
      if (backward) {
        replay.forward_backward(documents, self.totals.data(), false);
      } else {
        replay.forward(documents, self.totals.data());
      }
    });
  });
  double loss = 0.0;
  for (std::size_t d = 0; d < self.totals.size(); ++d) {
    const double weighted = self.scale[d] * self.totals[d];
    loss = d == 0 ? weighted : loss + weighted;
  }
  return loss;
}

double step(Compiled& self, const py::object& tokens, const py::object& inputs, double lr,
            double beta1, double beta2, double eps, double weight_decay) {
  const auto alone = self.lock();
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

std::string to_c(Compiled& self) {
  const auto alone = self.lock();
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

py::array view(const py::object& self, int which) {
  auto& compiled = self.cast<Compiled&>();
  return compiled.replay([&](auto& replay) -> py::array {
    auto* data = which == 0   ? replay.values()
                 : which == 1 ? replay.gradients()
                 : which == 2 ? replay.first_moments()
                              : replay.second_moments();
    using Number = std::remove_pointer_t<decltype(data)>;
    return py::array_t<Number>({compiled.program.parameters}, data, self);
  });
}

}  // namespace

void register_program(py::module_& module) {
  py::class_<Compiled> face(module, "Program");
  face.def_static("compile", &compile, py::arg("recorder"), py::arg("outputs"), py::arg("watched"),
                  py::arg("numerics"), py::arg("dtype"), py::arg("mean") = true,
                  py::arg("dump_nodes") = 0, py::arg("given_tokens") = 0,
                  py::arg("given_inputs") = 0, py::arg("threads") = 1)
      .def("step", &step, py::arg("tokens") = py::none(), py::arg("inputs") = py::none(),
           py::arg("lr") = 0.01, py::arg("beta1") = 0.9, py::arg("beta2") = 0.999,
           py::arg("eps") = 1e-8, py::arg("weight_decay") = 0.0)
      .def(
          "loss",
          [](Compiled& self, const py::object& tokens, const py::object& inputs) {
            const auto alone = self.lock();
            load(self);
            return run(self, tokens, inputs, false);
          },
          py::arg("tokens") = py::none(), py::arg("inputs") = py::none())
      .def(
          "grad",
          [](Compiled& self, const py::object& tokens, const py::object& inputs) {
            const auto alone = self.lock();
            load(self);
            const double loss = run(self, tokens, inputs, true);
            store(self, true);
            return loss;
          },
          py::arg("tokens") = py::none(), py::arg("inputs") = py::none())
      .def("load", &load)
      .def("store", [](const Compiled& self) { store(self, false); })
      .def("forward", &forward, py::arg("lengths"), py::arg("tokens"), py::arg("scale"),
           py::arg("inputs") = py::none(), py::arg("counted") = py::none(),
           py::arg("accumulate") = py::none())
      .def(
          "backward",
          [](Compiled& self, bool accumulate) {
            self.replay([&](auto& replay) {
              std::optional<py::gil_scoped_release> release;
              if (replay.shards_in_use() > 1) release.emplace();
              replay.backward(accumulate);
            });
          },
          py::arg("accumulate") = false)
      .def(
          "adamw",
          [](Compiled& self, std::size_t begin, std::size_t end, double lr, double beta1,
             double beta2, double eps, double weight_decay, long long t, double grad_scale) {
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
          },
          py::arg("begin"), py::arg("end"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"),
          py::arg("eps"), py::arg("weight_decay"), py::arg("t"), py::arg("grad_scale") = 1.0)
      .def(
          "sgd",
          [](Compiled& self, std::size_t begin, std::size_t end, double lr, double momentum,
             double weight_decay, bool first, double grad_scale) {
            const simd::Sgd settings{lr, momentum, weight_decay, first, grad_scale};
            self.replay([&](auto& replay) { replay.sgd(begin, end, settings); });
          },
          py::arg("begin"), py::arg("end"), py::arg("lr"), py::arg("momentum"),
          py::arg("weight_decay"), py::arg("first"), py::arg("grad_scale") = 1.0)
      .def("grad_sum_of_squares",
           [](const Compiled& self) {
             return self.replay([](auto& replay) { return replay.gradient_sum_of_squares(); });
           })
      .def("outputs",
           [](const Compiled& self) {
             const auto count = static_cast<py::ssize_t>(
                 self.replay([](auto& replay) { return replay.documents(); }));
             py::array_t<double> result({count, static_cast<py::ssize_t>(self.program.positions)});
             auto cells = result.mutable_unchecked<2>();
             for (py::ssize_t d = 0; d < count; ++d) {
               for (py::ssize_t i = 0; i < self.program.positions; ++i) {
                 cells(d, i) = self.replay([&](auto& replay) {
                   return replay.output(static_cast<std::size_t>(i), static_cast<std::int32_t>(d));
                 });
               }
             }
             return result;
           })
      .def(
          "watched",
          [](const Compiled& self, std::size_t begin, std::size_t end) {
            const auto count = static_cast<py::ssize_t>(
                self.replay([](auto& replay) { return replay.documents(); }));
            py::array_t<double> result({count, static_cast<py::ssize_t>(end - begin)});
            auto cells = result.mutable_unchecked<2>();
            for (py::ssize_t d = 0; d < count; ++d) {
              for (std::size_t i = begin; i < end; ++i) {
                cells(d, static_cast<py::ssize_t>(i - begin)) = self.replay(
                    [&](auto& replay) { return replay.observed(i, static_cast<std::int32_t>(d)); });
              }
            }
            return result;
          },
          py::arg("begin"), py::arg("end"))
      .def_property_readonly("values", [](const py::object& self) { return view(self, 0); })
      .def_property_readonly("gradients", [](const py::object& self) { return view(self, 1); })
      .def_property_readonly("first_moments", [](const py::object& self) { return view(self, 2); })
      .def_property_readonly("second_moments", [](const py::object& self) { return view(self, 3); })
      .def_property_readonly("stages", [](const Compiled& self) { return self.program.positions; })
      .def_property_readonly("slots", [](const Compiled& self) { return self.program.slots; })
      .def_property_readonly("inputs", [](const Compiled& self) { return self.program.inputs; })
      .def_property_readonly("limits", [](const Compiled& self) { return self.program.limits; })
      .def_property_readonly("fewest_tokens",
                             [](const Compiled& self) { return self.last_slot.front() + 1; })
      .def_property_readonly("weight", [](const Compiled& self) { return self.program.weight; })
      .def_property_readonly("ordered", [](const Compiled& self) { return self.program.ordered; })
      .def_property_readonly("passes", [](const Compiled& self) { return self.passes; })
      .def_property_readonly(
          "shards",
          [](const Compiled& self) {
            return self.replay([](auto& replay) { return replay.shards_in_use(); });
          })
      .def_property_readonly("bytes",
                             [](const Compiled& self) {
                               return self.replay([](auto& replay) { return replay.bytes(); });
                             })
      .def("listing", [](const Compiled& self) { return program::listing(self.program); })
      .def("to_c", &to_c);
}

}  // namespace nanochat::bindings

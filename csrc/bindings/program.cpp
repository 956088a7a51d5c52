// Program: a recorded function, optimised, with its parameters and optimizer state, ready to replay.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/recorder.hpp"
#include "scalar/program/passes.hpp"
#include "scalar/program/replay.hpp"

namespace nanochat::bindings {
namespace {

using program::Documents;
using program::Replay;
using program::VectorProgram;

using Integers = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Flags = py::array_t<std::uint8_t, py::array::c_style | py::array::forcecast>;

struct Compiled {
  VectorProgram program;
  std::vector<std::pair<std::string, std::string>> passes;  // name, summary
  bool single = false;                                      // float32
  std::unique_ptr<Replay<double>> double_replay;
  std::unique_ptr<Replay<float>> float_replay;
  std::vector<std::int32_t> lengths;  // of the last forward
  std::vector<double> totals;

  // Calls visit with the replay of this program's dtype.
  template <class Visit>
  decltype(auto) replay(Visit&& visit) const {
    return single ? visit(*float_replay) : visit(*double_replay);
  }
};

std::vector<NodeId> ids_of(const py::sequence& values, const Recorder& recorder, const char* what) {
  std::vector<NodeId> ids;
  for (const py::handle value : values) {
    if (!is_value(value.ptr())) {
      throw py::type_error(std::string(what) + " must be Values, got " + Py_TYPE(value.ptr())->tp_name);
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
                                  const std::string& dtype, std::size_t dump_nodes) {
  if (numerics != "fast" && numerics != "exact") {
    throw py::value_error("numerics must be 'fast' or 'exact', got '" + numerics + "'");
  }
  if (dtype != "float64" && dtype != "float32") {
    throw py::value_error("dtype must be 'float64' or 'float32', got '" + dtype + "'");
  }
  const bool exact = numerics == "exact";
  if (exact && dtype != "float64") throw py::value_error("exact numerics need dtype 'float64'");
  if (py::len(outputs) == 0) throw py::value_error("a program needs at least one output");
  auto compiled = std::make_unique<Compiled>();
  program::Graph graph = program::to_graph(*recorder.tape().get(), recorder.recording(),
                                           ids_of(outputs, recorder, "outputs"),
                                           ids_of(watched, recorder, "watched values"));
  const auto kind = exact ? program::Numerics::exact : program::Numerics::fast;
  const double weight =
      program::optimise(graph, kind, [&](const char* pass, const program::Graph& after) {
        std::string text = program::summary(after);
        if (dump_nodes > 0) text += "\n" + program::dump(after, dump_nodes);
        compiled->passes.emplace_back(pass, std::move(text));
      });
  compiled->program = program::lower(graph, kind);
  compiled->program.weight = weight;
  compiled->single = dtype == "float32";
  const simd::Tables& tables = simd::tables();
  if (compiled->single) {
    compiled->float_replay = std::make_unique<Replay<float>>(compiled->program, tables.fast32);
  } else {
    compiled->double_replay = std::make_unique<Replay<double>>(
        compiled->program, exact ? tables.exact : tables.fast64);
  }
  return compiled;
}

void require(bool holds, const std::string& message) {
  if (!holds) throw py::value_error(message);
}

template <class Array>
void require_shape(const Array& array, py::ssize_t rows, py::ssize_t cols, const char* name) {
  require(array.ndim() == 2 && array.shape(0) == rows && array.shape(1) >= cols,
          std::string(name) + " must be (" + std::to_string(rows) + ", " + std::to_string(cols) +
              ")");
}

Doubles forward(Compiled& self, const Integers& lengths, const Integers& tokens,
                const Doubles& scale, const std::optional<Doubles>& inputs,
                const std::optional<Flags>& counted) {
  const VectorProgram& program = self.program;
  const py::ssize_t count = lengths.size();
  require(count > 0, "a replay needs at least one document");
  require_shape(tokens, count, program.slots, "tokens");
  require(tokens.shape(1) == program.slots, "tokens must have a column for each of the " +
                                                std::to_string(program.slots) + " slots, got " +
                                                std::to_string(tokens.shape(1)));
  require(scale.size() == count, "scale must have one number a document");
  require(inputs.has_value() || program.inputs == 0,
          "inputs are missing: the program reads " + std::to_string(program.inputs));
  if (inputs) {
    require_shape(*inputs, count, program.inputs, "inputs");
    require(inputs->shape(1) == program.inputs, "inputs must have " +
                                                    std::to_string(program.inputs) + " columns");
  }
  if (counted) {
    require_shape(*counted, count, program.stages, "counted");
    require(counted->shape(1) == program.stages, "counted must have a column for each output");
  }
  self.lengths.assign(lengths.data(), lengths.data() + count);
  for (const std::int32_t length : self.lengths) {
    require(length >= 1 && length <= program.stages,
            "a document must have 1 … " + std::to_string(program.stages) + " positions, got " +
                std::to_string(length));
  }
  const Documents documents{static_cast<std::int32_t>(count), self.lengths.data(), tokens.data(),
                            inputs ? inputs->data() : nullptr, scale.data(),
                            counted ? counted->data() : nullptr};
  Doubles totals(count);
  self.replay([&](auto& replay) { replay.forward(documents, totals.mutable_data()); });
  return totals;
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
  face.def_static("compile", &compile, py::arg("recorder"), py::arg("outputs"),
                  py::arg("watched"), py::arg("numerics"), py::arg("dtype"),
                  py::arg("dump_nodes") = 0)
      .def("forward", &forward, py::arg("lengths"), py::arg("tokens"), py::arg("scale"),
           py::arg("inputs") = py::none(), py::arg("counted") = py::none())
      .def("backward",
           [](Compiled& self, bool accumulate) {
             self.replay([&](auto& replay) { replay.backward(accumulate); });
           },
           py::arg("accumulate") = false)
      .def("adamw",
           [](Compiled& self, std::size_t begin, std::size_t end, double lr, double beta1,
              double beta2, double eps, double weight_decay, long long t, double grad_scale) {
             const auto step = static_cast<double>(t);
             const simd::Adam settings{lr, beta1, beta2, eps, weight_decay,
                                       1.0 - libm::pow(beta1, step), 1.0 - libm::pow(beta2, step),
                                       grad_scale};
             self.replay([&](auto& replay) { replay.adamw(begin, end, settings); });
           },
           py::arg("begin"), py::arg("end"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"),
           py::arg("eps"), py::arg("weight_decay"), py::arg("t"), py::arg("grad_scale") = 1.0)
      .def("sgd",
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
             const auto count = static_cast<py::ssize_t>(self.lengths.size());
             py::array_t<double> result({count, static_cast<py::ssize_t>(self.program.stages)});
             auto cells = result.mutable_unchecked<2>();
             for (py::ssize_t d = 0; d < count; ++d) {
               for (py::ssize_t i = 0; i < self.program.stages; ++i) {
                 cells(d, i) = self.replay([&](auto& replay) {
                   return replay.output(static_cast<std::size_t>(i), static_cast<std::int32_t>(d));
                 });
               }
             }
             return result;
           })
      .def("watched",
           [](const Compiled& self, std::size_t begin, std::size_t end) {
             const auto count = static_cast<py::ssize_t>(self.lengths.size());
             py::array_t<double> result({count, static_cast<py::ssize_t>(end - begin)});
             auto cells = result.mutable_unchecked<2>();
             for (py::ssize_t d = 0; d < count; ++d) {
               for (std::size_t i = begin; i < end; ++i) {
                 cells(d, static_cast<py::ssize_t>(i - begin)) = self.replay([&](auto& replay) {
                   return replay.watched(i, static_cast<std::int32_t>(d));
                 });
               }
             }
             return result;
           },
           py::arg("begin"), py::arg("end"))
      .def_property_readonly("values", [](const py::object& self) { return view(self, 0); })
      .def_property_readonly("gradients", [](const py::object& self) { return view(self, 1); })
      .def_property_readonly("first_moments", [](const py::object& self) { return view(self, 2); })
      .def_property_readonly("second_moments", [](const py::object& self) { return view(self, 3); })
      .def_property_readonly("stages", [](const Compiled& self) { return self.program.stages; })
      .def_property_readonly("slots", [](const Compiled& self) { return self.program.slots; })
      .def_property_readonly("inputs", [](const Compiled& self) { return self.program.inputs; })
      .def_property_readonly("weight", [](const Compiled& self) { return self.program.weight; })
      .def_property_readonly("ordered", [](const Compiled& self) { return self.program.ordered; })
      .def_property_readonly("passes", [](const Compiled& self) { return self.passes; })
      .def_property_readonly("bytes",
                             [](const Compiled& self) {
                               return self.replay([](auto& replay) { return replay.bytes(); });
                             })
      .def("listing", [](const Compiled& self) { return program::listing(self.program); });
}

}  // namespace nanochat::bindings

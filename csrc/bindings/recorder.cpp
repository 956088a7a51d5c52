// See recorder.hpp.
#include "bindings/recorder.hpp"

#include <algorithm>
#include <string>

namespace nanochat::bindings {

Recorder::Recorder(const TapeOwner& tape, const py::sequence& blocks) : tape_(tape) {
  for (const py::handle block : blocks) {
    owners_.append(block);
    if (is_value(block.ptr())) {
      const ValueObject* value = as_value(block.ptr());
      if (value->tape != tape_.get()) throw py::value_error("a parameter is on another tape");
      if (tape_->op(value->id) != Op::leaf) {
        throw py::value_error("a parameter must be a Value without operands");
      }
      recording_.blocks.push_back({value->id, 1, 1});
    } else {
      const auto& matrix = block.cast<const Matrix&>();
      if (matrix.tape() != tape_.get()) throw py::value_error("a parameter is on another tape");
      recording_.blocks.push_back({matrix.first(), matrix.rows(), matrix.cols()});
    }
  }
  auto sorted = recording_.blocks;
  std::sort(sorted.begin(), sorted.end(),
            [](const program::Block& a, const program::Block& b) { return a.first < b.first; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1].first + sorted[i - 1].rows * sorted[i - 1].cols > sorted[i].first) {
      throw py::value_error("a parameter stands twice among the parameters");
    }
  }
}

Recorder::~Recorder() {
  exit();
  for (const auto& [id, symbol] : recording_.symbols) {
    for (const NodeId operand : symbol.operands) tape_->release(operand);
    tape_->release(id);
  }
}

void Recorder::enter() {
  if (tape_->recorder != nullptr) throw std::runtime_error("this tape is being recorded already");
  if (!tape_->recording()) throw std::runtime_error("a tape cannot be recorded inside no_grad()");
  tape_->recorder = this;
  active_ = true;
}

void Recorder::exit() noexcept {
  if (active_) tape_->recorder = nullptr;
  active_ = false;
}

py::object Recorder::symbol(double value, program::Symbol symbol) {
  // Nothing on the tape itself refers to a symbol's operands.
  for (const NodeId operand : symbol.operands) tape_->retain(operand);
  const NodeId id = tape_->leaf(value);
  recording_.symbols.emplace(id, std::move(symbol));
  tape_->retain(id);
  PyObject* object = wrap_node(tape_.get(), id);
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

py::list Recorder::gather(const Matrix& matrix, const Token& token) {
  std::size_t block = 0;
  while (block < recording_.blocks.size() && recording_.blocks[block].first != matrix.first()) {
    ++block;
  }
  if (block == recording_.blocks.size()) {
    throw py::value_error("row(token): the matrix is not among the parameters of this program");
  }
  py::list row;
  for (std::size_t column = 0; column < matrix.cols(); ++column) {
    const auto at = static_cast<std::size_t>(token.value) * matrix.cols() + column;
    row.append(symbol(matrix.values()[at], {program::Kind::gather, token.slot, block, column}));
  }
  return row;
}

py::object Recorder::select(const py::sequence& values, const Token& token) {
  program::Symbol symbol_of{program::Kind::select, token.slot};
  double chosen = 0.0;
  py::ssize_t index = 0;
  for (const py::handle value : values) {
    if (!is_value(value.ptr())) throw py::type_error("select() by a token takes Values alone");
    symbol_of.operands.push_back(as_value(value.ptr())->id);
    if (index++ == token.value) chosen = tape_->value(as_value(value.ptr())->id);
  }
  if (symbol_of.operands.empty()) throw py::value_error("select() needs at least one value");
  return symbol(chosen, std::move(symbol_of));
}

py::object Recorder::largest(const py::sequence& values, double value) {
  program::Symbol symbol_of{program::Kind::largest};
  bool any = false;
  for (const py::handle each : values) {
    if (is_value(each.ptr())) {
      any = true;
      symbol_of.operands.push_back(as_value(each.ptr())->id);
    }
  }
  if (!any) return py::none();
  if (symbol_of.operands.size() != py::len(values)) {
    throw py::type_error("detached_max() of a recorded function takes Values alone");
  }
  return symbol(value, std::move(symbol_of));
}

py::object Recorder::input(std::int32_t slot, double value) {
  return symbol(value, {program::Kind::input, slot});
}

namespace {

int refuse_choice(const Token& token) {
  throw py::type_error("Token " + std::to_string(token.slot) +
                       " is only known at replay and cannot decide what is recorded; give it to "
                       "Matrix.row() or select()");
}

}  // namespace

void register_recorder(py::module_& module) {
  py::class_<Token>(module, "Token",
                    "The token of a slot: what Matrix.row() and select() take in a recorded\n"
                    "function in place of an int that a replay chooses.")
      .def(py::init<std::int32_t, py::ssize_t>(), py::arg("slot"), py::arg("value"))
      .def_readonly("slot", &Token::slot)
      .def("__index__", &refuse_choice)
      .def("__bool__", &refuse_choice)
      .def("__hash__", &refuse_choice)
      .def("__eq__", [](const Token& self, const py::object&) { return refuse_choice(self); })
      .def("__repr__",
           [](const Token& self) { return "Token(slot=" + std::to_string(self.slot) + ")"; });
  py::class_<Recorder>(
      module, "Recorder",
      "Records what is computed on a tape inside `with recorder:`. parameters:\n"
      "Matrices and Values without operands. Raises ValueError for a parameter of\n"
      "another tape or with operands.")
      .def(py::init<const TapeOwner&, const py::sequence&>(), py::arg("tape"),
           py::arg("parameters"))
      .def("input", &Recorder::input, py::arg("slot"), py::arg("value") = 0.0,
           "A Value that a replay sets: number `slot` of its inputs.")
      .def("__enter__",
           [](py::object self) {
             self.cast<Recorder&>().enter();
             return self;
           })
      .def("__exit__", [](Recorder& self, const py::args&) { self.exit(); });
}

}  // namespace nanochat::bindings

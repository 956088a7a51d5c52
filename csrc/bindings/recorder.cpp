// See recorder.hpp.
#include "bindings/recorder.hpp"

#include <algorithm>
#include <string>

namespace nanochat::bindings {

namespace {

// Slots are counted in 32 bits, and tables of a program have one entry per slot.
constexpr std::int32_t most_slots = 1 << 24;

void check_slot(std::int32_t slot) {
  if (slot < 0 || slot >= most_slots) {
    throw py::value_error("slot must be 0 … " + std::to_string(most_slots - 1) + ", got " +
                          std::to_string(slot));
  }
}

void check_token(const Token& token, std::size_t count, const char* what) {
  if (static_cast<std::size_t>(token.value) < count) return;
  throw py::index_error("Token(slot=" + std::to_string(token.slot) + ") has the value " +
                        std::to_string(token.value) + ", which is out of range for " +
                        std::to_string(count) + what);
}

program::Block block_of(py::handle parameter, const TapeOwner& tape) {
  const auto check_tape = [&](const SharedTape* own) {
    if (own != tape.get()) throw py::value_error("a parameter is on another tape");
  };
  if (is_value(parameter.ptr())) {
    const ValueObject* value = as_value(parameter.ptr());
    check_tape(value->tape);
    if (tape->op(value->id) != Op::leaf) {
      throw py::value_error("a parameter must be a Value without operands");
    }
    return {value->id, 1, 1};
  }
  if (!py::isinstance<Matrix>(parameter)) {
    throw py::type_error("parameters must be Matrices and Values, got " + type_name(parameter));
  }
  const auto& matrix = parameter.cast<const Matrix&>();
  check_tape(matrix.tape());
  return {matrix.first(), matrix.rows(), matrix.cols()};
}

}  // namespace

Token::Token(std::int32_t slot_, py::ssize_t value_) : slot(slot_), value(value_) {
  check_slot(slot);
  if (value < 0) {
    throw py::value_error("the value of a Token must be at least 0, got " + std::to_string(value));
  }
}

Recorder::Recorder(const TapeOwner& tape, const py::sequence& blocks)
    : tape_(tape), owners_(items_of(blocks)) {
  for (const py::handle parameter : owners_) {
    recording_.blocks.push_back(block_of(parameter, tape_));
  }
  auto sorted = recording_.blocks;
  std::sort(sorted.begin(), sorted.end(),
            [](const program::Block& a, const program::Block& b) { return a.first < b.first; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1].first + sorted[i - 1].rows * sorted[i - 1].cols > sorted[i].first) {
      throw py::value_error("a parameter is given twice");
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
  // The tape itself holds no reference to a symbol's operands.
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
  check_token(token, matrix.rows(), " rows");
  py::list row;
  for (std::size_t column = 0; column < matrix.cols(); ++column) {
    const auto at = static_cast<std::size_t>(token.value) * matrix.cols() + column;
    row.append(symbol(matrix.values()[at], {program::Kind::gather, token.slot, block, column}));
  }
  return row;
}

NodeId Recorder::node_of(py::handle value) const {
  const ValueObject* object = as_value(value.ptr());
  if (object->tape != tape_.get()) {
    throw py::value_error(
        "all values of a recorded selection must be on the tape that is recorded");
  }
  return object->id;
}

py::object Recorder::select(const py::list& values, const Token& token) {
  program::Symbol symbol_of{program::Kind::select, token.slot};
  for (const py::handle value : values) {
    if (!is_value(value.ptr())) throw py::type_error("select() by a Token takes only Values");
    symbol_of.operands.push_back(node_of(value));
  }
  if (symbol_of.operands.empty()) throw py::value_error("select() needs at least one value");
  check_token(token, symbol_of.operands.size(), " values");
  const double chosen = tape_->value(symbol_of.operands[static_cast<std::size_t>(token.value)]);
  return symbol(chosen, std::move(symbol_of));
}

py::object Recorder::largest(const py::list& values, double value) {
  program::Symbol symbol_of{program::Kind::largest};
  for (const py::handle each : values) {
    if (!is_value(each.ptr())) {
      throw py::type_error("detached_max() of a recorded function takes only Values, got " +
                           type_name(each));
    }
    symbol_of.operands.push_back(node_of(each));
  }
  return symbol(value, std::move(symbol_of));
}

py::object Recorder::input(std::int32_t slot, double value) {
  check_slot(slot);
  return symbol(value, {program::Kind::input, slot});
}

namespace {

int refuse_choice(const Token& token) {
  throw py::type_error("Token " + std::to_string(token.slot) +
                       " is known only at replay and cannot decide what is recorded; pass it to "
                       "Matrix.row() or select()");
}

}  // namespace

void register_recorder(const py::module_& module) {
  py::class_<Token>(module, "Token",
                    "The token of one slot of a recorded function.\n\n"
                    "compile() passes Tokens to the function that it records. Matrix.row() and\n"
                    "select() accept a Token in place of an int; each replay supplies the int.\n"
                    "Every other use of the number raises TypeError.")
      .def(py::init<std::int32_t, py::ssize_t>(), py::arg("slot"), py::arg("value"),
           "__init__(self, slot, value)\n--\n\n"
           "Create the token of a slot; `value` is the int that is used while recording.")
      .def_readonly("slot", &Token::slot, "The position of the token in a document, an int.")
      .def("__index__", &refuse_choice)
      .def("__bool__", &refuse_choice)
      .def("__hash__", &refuse_choice)
      .def("__eq__", [](const Token& self, const py::object&) { return refuse_choice(self); })
      .def("__repr__",
           [](const Token& self) { return "Token(slot=" + std::to_string(self.slot) + ")"; });
  py::class_<Recorder>(
      module, "Recorder",
      "Recorder(tape, parameters): records the operations on a tape inside `with recorder:`.\n\n"
      "parameters: Matrices and Values without operands. Raises TypeError for another object,\n"
      "ValueError for a parameter that is on another tape, has operands or is given twice.")
      .def(py::init<const TapeOwner&, const py::sequence&>(), py::arg("tape"),
           py::arg("parameters"))
      .def("input", &Recorder::input, py::arg("slot"), py::arg("value") = 0.0,
           "input(self, slot, value=0.0)\n--\n\n"
           "Return a Value that each replay sets to number `slot` of its inputs.")
      .def("__enter__",
           [](py::object self) {
             self.cast<Recorder&>().enter();
             return self;
           })
      .def("__exit__", [](Recorder& self, const py::args&) { self.exit(); });
}

}  // namespace nanochat::bindings

// The vector program as text.
#include <array>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {
namespace {

std::string steps(const Ref& ref) {
  std::string text;
  if (ref.k_step != 0) text += (ref.k_step == 1 ? "+k" : "+" + std::to_string(ref.k_step) + "k");
  if (ref.f_step != 0) text += (ref.f_step == 1 ? "+f" : "+" + std::to_string(ref.f_step) + "f");
  if (ref.o_step != 0) text += (ref.o_step == 1 ? "+o" : "+" + std::to_string(ref.o_step) + "o");
  return text;
}

std::string text_of(const VectorProgram& program, const Ref& ref) {
  switch (ref.space) {
    case Space::unit:
      return "1";
    case Space::parameter:
      return "p[" + std::to_string(ref.index) + steps(ref) + "]";
    case Space::constant:
      if (ref.k_step == 0 && ref.f_step == 0 && ref.o_step == 0) {
        std::array<char, 32> text{};
        (void)std::snprintf(text.data(), text.size(), "%.6g",
                            program.constants[static_cast<std::size_t>(ref.index)]);
        return text.data();
      }
      return "c[" + std::to_string(ref.index) + steps(ref) + "]";
    default:
      break;
  }
  std::string text = "g" + std::to_string(ref.group) + "[" + std::to_string(ref.index) + steps(ref);
  if (ref.stage != own) text += " @" + std::to_string(ref.stage);
  return text + "]";
}

std::string terms_of(const VectorProgram& program, const Instruction& instruction) {
  std::string text;
  for (const Term& term : instruction.terms) {
    text += text.empty() ? "" : " + ";
    if (term.k > 1) text += "Σk<" + std::to_string(term.k) + " ";
    text += text_of(program, term.a);
    if (term.b.space != Space::unit) text += "·" + text_of(program, term.b);
  }
  return text.empty() ? "0" : text;
}

std::string line(const VectorProgram& program, const Instruction& instruction) {
  std::string text = "  ";
  if (instruction.group >= 0 && instruction.op != Op::scatter) {
    text += "g" + std::to_string(instruction.group);
    if (!instruction.whole && instruction.op != Op::cross && instruction.moves.empty()) {
      text += "[" + std::to_string(instruction.row) + "…" +
              std::to_string(instruction.row + instruction.features * instruction.outer - 1) + "]";
    }
    if (instruction.stage != own) text += " @" + std::to_string(instruction.stage);
    text += instruction.accumulate ? " += " : " = ";
  }
  switch (instruction.op) {
    case Op::map:
      text += std::string(name_of(instruction.kind)) + " " +
              text_of(program, instruction.terms.front().a);
      break;
    case Op::sum:
      text += (instruction.matrix ? "matrix " : "") + terms_of(program, instruction);
      break;
    case Op::cross: {
      text += "attend";
      for (const CrossPart& part : instruction.parts) {
        text += " g" + std::to_string(part.a_group) + "·g" + std::to_string(part.b_group) + " (" +
                std::to_string(part.runs.size()) + " runs)";
      }
      break;
    }
    case Op::largest:
      text += "largest of " + std::to_string(instruction.terms.front().k) + " rows from " +
              text_of(program, instruction.terms.front().a);
      break;
    case Op::outer:
      text += "gradients: " + std::to_string(instruction.features) + " outer products, " +
              std::to_string(instruction.outer) + " single ones";
      break;
    default:
      text += std::string(name_of(instruction.op)) + " (" +
              std::to_string(instruction.moves.size()) + " moves)";
      break;
  }
  return text + "\n";
}

}  // namespace

const char* name_of(Op op) noexcept {
  constexpr std::array<const char*, 12> names = {"gather",  "fill",   "input", "seed",
                                                 "one_hot", "map",    "sum",   "cross",
                                                 "largest", "select", "outer", "scatter"};
  return names[static_cast<std::size_t>(op)];
}

std::string listing(const VectorProgram& program) {
  std::string text = "groups\n";
  for (std::size_t g = 0; g < program.groups.size(); ++g) {
    const Group& group = program.groups[g];
    text += "  g" + std::to_string(g) + ": " + name_of(group.kind) + ", " +
            (group.ragged() ? "up to " : "") + std::to_string(group.features) + " rows";
    if (group.is_shared()) {
      text += ", shared\n";
    } else {
      text +=
          ", stages " + std::to_string(group.begin) + "…" + std::to_string(group.end - 1) + "\n";
    }
  }
  text += "forward\n";
  for (const Instruction& each : program.forward) text += line(program, each);
  text += "backward\n";
  for (const Instruction& each : program.backward) text += line(program, each);
  text += "gradients\n";
  for (const Outer& outer : program.outers) {
    text += "  " + std::string(outer.group < 0 ? "dp" : "g" + std::to_string(outer.group)) + "[" +
            std::to_string(outer.index) + "+" + std::to_string(outer.m_step) + "m+n] " +
            (outer.accumulate ? "+=" : "=") + " m<" + std::to_string(outer.m) + " n<" +
            std::to_string(outer.n) + " " + text_of(program, outer.a) + "·" +
            text_of(program, outer.b) + (outer.descending ? " from the last" : "") + "\n";
  }
  return text;
}

}  // namespace nanochat::program

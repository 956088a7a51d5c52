// What an instruction is, in the words of the comment above it. See c_text.hpp.
#include "scalar/program/c_text/writer.hpp"

namespace nanochat::program::c {
namespace {

// How an index moves, in a comment: " + 16 f".
std::string moving(std::int32_t step, const char* name) {
  if (step == 0) return "";
  const std::int32_t size = step < 0 ? -step : step;
  return cat({step < 0 ? " - " : " + ", size == 1 ? "" : std::to_string(size) + " ", name});
}

}  // namespace

std::string Writer::about(const Ref& ref) const {
  switch (ref.space) {
    case Space::unit:
      return "1";
    case Space::parameter:
      return cat({"parameters ", std::to_string(ref.index)}) + moving(ref.f_step, "f") +
             moving(ref.k_step, "k");
    case Space::constant:
      return ref.k_step == 0 && ref.f_step == 0 && ref.o_step == 0
                 ? literal(program_.constants[static_cast<std::size_t>(ref.index)], false)
                 : "constants";
    default:
      return cat({"g", std::to_string(ref.group)});
  }
}

std::string Writer::about(const Instruction& instruction) const {
  if (instruction.op == Op::scatter) return "gradients of matrix rows that tokens name";
  const std::string text = cat({"g", std::to_string(instruction.group)}) + " = ";
  const auto terms = [&] {
    std::string sum;
    for (std::size_t i = 0; i < instruction.terms.size() && i < 4; ++i) {
      const Term& term = instruction.terms[i];
      const bool times = term.b.space != Space::unit;
      append(sum, (term.k > 1 ? "sum over k of " : "") + about(term.a) +
                      (times ? " times " + about(term.b) : ""));
    }
    return sum + (instruction.terms.size() > 4 ? " + ..." : "");
  };
  switch (instruction.op) {
    case Op::gather:
      return text + "rows of a matrix, by token";
    case Op::fill:
      return text + "parameters and constants of each position";
    case Op::input:
      return text + "inputs";
    case Op::seed:
      return text + "the gradient of each output";
    case Op::one_hot:
      return text + (instruction.negated ? "0 at the token, else 1" : "1 at the token, else 0");
    case Op::select:
      return text + cat({"the row of g", std::to_string(instruction.moves.front().group)}) +
             " that a token names";
    case Op::largest:
      return text + "largest of " + about(instruction.terms.front().a);
    case Op::map:
      return text + name_of(instruction.kind) + " of " + about(instruction.terms.front().a);
    case Op::cross: {
      std::string parts;
      for (const CrossPart& part : instruction.parts) {
        const auto side = [](std::int32_t g) {
          return g < 0 ? "1" : cat({"g", std::to_string(g)});
        };
        append(parts, side(part.a_group) + " times " + side(part.b_group));
      }
      return text + "attention: " + parts + ", at other positions";
    }
    default:
      break;
  }
  if (instruction.terms.empty()) return text + "0";
  if (!instruction.matrix) return text + terms();
  return text + cat({"matrix: ", std::to_string(instruction.features)}) + " rows, " + terms();
}

}  // namespace nanochat::program::c

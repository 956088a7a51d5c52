// The comment above an instruction, which says what it computes. See writer.hpp.
#include "scalar/program/c_text/writer.hpp"

namespace nanochat::program::c {
namespace {

// Sums of more products end with "...".
constexpr std::size_t most_products = 4;

// How an index moves: " + 16 f".
std::string moving(std::int32_t step, const char* name) {
  if (step == 0) return "";
  const std::int32_t size = step < 0 ? -step : step;
  return cat({step < 0 ? " - " : " + ", size == 1 ? "" : std::to_string(size) + " ", name});
}

std::string group_name(std::int32_t g) {
  return g == no_group ? "1" : cat({"g", std::to_string(g)});
}

std::string attention(const CrossSum& cross) {
  std::string parts;
  for (const CrossPart& part : cross.parts) {
    append(parts, group_name(part.a_group) + " times " + group_name(part.b_group));
  }
  return "attention: " + parts + ", at other positions";
}

}  // namespace

std::string Writer::about(const Ref& ref) const {
  switch (ref.space) {
    case AddressSpace::unit:
      return "1";
    case AddressSpace::parameter:
      return cat({"parameters ", std::to_string(ref.index)}) + moving(ref.f_step, "f") +
             moving(ref.k_step, "k");
    case AddressSpace::constant:
      return ref.k_step == 0 && ref.f_step == 0 && ref.o_step == 0
                 ? literal(program_.constants[static_cast<std::size_t>(ref.index)], false)
                 : "constants";
    default:
      return group_name(ref.group);
  }
}

std::string Writer::about(const std::vector<ProductRun>& products) const {
  if (products.empty()) return "0";
  std::string sum;
  for (std::size_t i = 0; i < products.size() && i < most_products; ++i) {
    const ProductRun& run = products[i];
    const bool times = run.b.space != AddressSpace::unit;
    append(sum, (run.count > 1 ? "sum over k of " : "") + about(run.a) +
                    (times ? " times " + about(run.b) : ""));
  }
  return sum + (products.size() > most_products ? " + ..." : "");
}

std::string Writer::about(const Instruction& instruction) const {
  const auto assigned = [](std::int32_t group, const std::string& text) {
    return cat({group_name(group), " = ", text});
  };
  return std::visit(
      Overloaded{
          [&](const GatherRows& each) {
            return assigned(each.group, "rows of a matrix, by token");
          },
          [&](const FillRows& each) {
            return assigned(each.group, "parameters and constants of each position");
          },
          [&](const InputRows& each) { return assigned(each.group, "inputs"); },
          [&](const SeedRows& each) { return assigned(each.group, "the gradient of each output"); },
          [&](const OneHotRows& each) {
            return assigned(each.group, each.complement ? "0 at the token, 1 elsewhere"
                                                        : "1 at the token, 0 elsewhere");
          },
          [&](const SelectRows& each) {
            return assigned(each.group,
                            cat({"the row of ", group_name(each.moves.front().candidate_group),
                                 " that a token selects"}));
          },
          [&](const ScatterRows&) {
            return std::string("gradients of matrix rows that tokens select");
          },
          [&](const MapRows& each) {
            return assigned(each.to.group, name_of(each.kind) + (" of " + about(each.operand)));
          },
          [&](const LargestRow& each) {
            return assigned(each.to.group, "largest of " + about(each.operand));
          },
          [&](const SumRows& each) { return assigned(each.to.group, about(each.products)); },
          [&](const MatrixProduct& each) {
            return assigned(each.to.group, cat({"matrix: ", std::to_string(each.to.features),
                                                " rows, ", about(each.products)}));
          },
          [&](const CrossSum& each) { return assigned(each.group, attention(each)); },
          [&](const ReduceLanes&) { return std::string("gradients"); },
      },
      instruction);
}

}  // namespace nanochat::program::c

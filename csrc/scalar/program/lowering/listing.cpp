// The vector program as text: groups, instructions and gradients.
#include <array>
#include <cstdio>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {
namespace {

std::string step(std::int32_t size, const char* variable) {
  if (size == 0) return "";
  return "+" + (size == 1 ? "" : std::to_string(size)) + variable;
}

std::string steps(const Ref& ref) {
  return step(ref.k_step, "k") + step(ref.f_step, "f") + step(ref.o_step, "o");
}

std::string group_name(std::int32_t group) { return "g" + std::to_string(group); }

class Lister {
 public:
  explicit Lister(const VectorProgram& program) : program_(program) {}

  std::string group(std::size_t g) const {
    const Group& group = program_.groups[g];
    const std::string text = "  g" + std::to_string(g) + ": " + name_of(group.kind) + ", " +
                             (group.ragged() ? "up to " : "") + std::to_string(group.features) +
                             " rows";
    if (group.is_shared()) return text + ", shared\n";
    return text + ", positions " + std::to_string(group.begin) + "…" +
           std::to_string(group.end - 1) + "\n";
  }

  std::string instruction(const Instruction& instruction) const {
    return "  " + std::visit([this](const auto& each) { return this->line(each); }, instruction) +
           "\n";
  }

  std::string gradient(const OuterProduct& outer) const {
    return "  " + (outer.group == no_group ? "dp" : group_name(outer.group)) + "[" +
           std::to_string(outer.index) + "+" + std::to_string(outer.m_step) + "m+n] " +
           (outer.accumulate ? "+=" : "=") + " m<" + std::to_string(outer.m) + " n<" +
           std::to_string(outer.n) + " " + operand(outer.a) + "·" + operand(outer.b) +
           (outer.descending ? " from the last" : "") + "\n";
  }

 private:
  std::string operand(const Ref& ref) const {
    switch (ref.space) {
      case AddressSpace::unit:
        return "1";
      case AddressSpace::parameter:
        return "p[" + std::to_string(ref.index) + steps(ref) + "]";
      case AddressSpace::constant:
        if (steps(ref).empty()) {
          std::array<char, 32> text{};
          (void)std::snprintf(text.data(), text.size(), "%.6g",
                              program_.constants[static_cast<std::size_t>(ref.index)]);
          return text.data();
        }
        return "c[" + std::to_string(ref.index) + steps(ref) + "]";
      case AddressSpace::rows:
      case AddressSpace::shared_number:
        break;
    }
    std::string text = group_name(ref.group) + "[" + std::to_string(ref.index) + steps(ref);
    if (ref.position != own) text += " @" + std::to_string(ref.position);
    return text + "]";
  }

  std::string products(const std::vector<ProductRun>& runs) const {
    std::string text;
    for (const ProductRun& run : runs) {
      text += text.empty() ? "" : " + ";
      if (run.count > 1) text += "Σk<" + std::to_string(run.count) + " ";
      text += operand(run.a);
      if (run.b.space != AddressSpace::unit) text += "·" + operand(run.b);
    }
    return text.empty() ? "0" : text;
  }

  static std::string assigned(const Destination& to, bool accumulate) {
    std::string text = group_name(to.group);
    if (!to.whole) {
      text += "[" + std::to_string(to.row) + "…" +
              std::to_string(to.row + to.features * to.blocks - 1) + "]";
    }
    if (to.position != own) text += " @" + std::to_string(to.position);
    return text + (accumulate ? " += " : " = ");
  }

  template <class Moves>
  static std::string moves(std::int32_t group, const char* name, const Moves& moves) {
    return (group == no_group ? "" : group_name(group) + " = ") + name + " (" +
           std::to_string(moves.size()) + " moves)";
  }

  static std::string line(const GatherRows& each) {
    return moves(each.group, "gather", each.moves);
  }
  static std::string line(const FillRows& each) { return moves(each.group, "fill", each.moves); }
  static std::string line(const InputRows& each) { return moves(each.group, "input", each.moves); }
  static std::string line(const SeedRows& each) { return moves(each.group, "seed", each.moves); }
  static std::string line(const OneHotRows& each) {
    return moves(each.group, "one_hot", each.moves);
  }
  static std::string line(const SelectRows& each) {
    return moves(each.group, "select", each.moves);
  }
  static std::string line(const ScatterRows& each) {
    return moves(no_group, "scatter", each.moves);
  }
  std::string line(const MapRows& map) const {
    return assigned(map.to, false) + name_of(map.kind) + " " + operand(map.operand);
  }
  std::string line(const LargestRow& largest) const {
    return assigned(largest.to, false) + "largest of " + std::to_string(largest.count) +
           " rows from " + operand(largest.operand);
  }
  std::string line(const SumRows& sum) const {
    return assigned(sum.to, sum.accumulate) + products(sum.products);
  }
  std::string line(const MatrixProduct& product) const {
    return assigned(product.to, product.accumulate) + "matrix " + products(product.products);
  }
  static std::string line(const CrossSum& cross) {
    std::string text = group_name(cross.group) + " = attend";
    for (const CrossPart& part : cross.parts) {
      text += " " + group_name(part.a_group) + "·" + group_name(part.b_group) + " (" +
              std::to_string(part.runs.size()) + " runs)";
    }
    return text;
  }
  static std::string line(const ReduceLanes& reduce) {
    return (reduce.group == no_group ? "" : group_name(reduce.group) + " = ") +
           "gradients: " + std::to_string(reduce.outer_products.size()) + " outer products, " +
           std::to_string(reduce.single_products.size()) + " single products";
  }

  const VectorProgram& program_;
};

}  // namespace

std::string listing(const VectorProgram& program) {
  const Lister lister(program);
  std::string text = "groups\n";
  for (std::size_t g = 0; g < program.groups.size(); ++g) text += lister.group(g);
  text += "forward\n";
  for (const Instruction& each : program.forward) text += lister.instruction(each);
  text += "backward\n";
  for (const Instruction& each : program.backward) text += lister.instruction(each);
  text += "gradients\n";
  for (const OuterProduct& outer : program.outer_products) text += lister.gradient(outer);
  return text;
}

}  // namespace nanochat::program

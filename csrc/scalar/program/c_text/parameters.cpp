// The arrays of the C file: parameters, groups and constants. See parts.hpp.
#include <algorithm>

#include "scalar/program/c_text/parts.hpp"

namespace nanochat::program::c {
namespace {

constexpr std::size_t longest_line = 100;

std::string real(bool single) { return single ? "float" : "double"; }

std::string parameter_array(const std::string& name, const std::vector<double>& values,
                            const Trained& trained) {
  std::string text = "static " + real(trained.single) + " " + name + "[PARAMETERS] = {\n";
  std::size_t at = 0;
  for (std::size_t b = 0; b < trained.blocks.size(); ++b) {
    const Block& block = trained.blocks[b];
    text += "    /* " + std::to_string(at) + ": block " + std::to_string(b) + ", " +
            std::to_string(block.rows) + " x " + std::to_string(block.cols) + " */\n";
    std::string line = "   ";
    for (std::size_t i = 0; i < block.rows * block.cols; ++i, ++at) {
      const std::string cell = cat({" ", literal(values[at], trained.single), ","});
      const bool row_begins = block.cols > 1 && i % block.cols == 0;
      if (line.size() > 3 && (row_begins || line.size() + cell.size() > longest_line)) {
        text += line + "\n";
        line = "   ";
      }
      line += cell;
    }
    text += line + "\n";
  }
  return text + "};\n";
}

// "static double g7[16][64];  /* sum */"
std::string group_array(const Group& group, const std::string& name, bool single) {
  std::string line = "static " + real(single) + " " + name;
  const std::int32_t positions = group.end - group.begin;
  if (!group.is_shared() && positions > 1) line += cat({"[", std::to_string(positions), "]"});
  if (group.features > 1 || group.ragged()) {
    line += cat({"[", std::to_string(group.features), "]"});
  }
  line += ';';
  line.resize(std::max<std::size_t>(line.size(), 30), ' ');
  line += std::string(" /* ") + name_of(group.kind);
  if (group.ragged()) line += ", as many rows as the position needs";
  if (group.is_shared()) line += ", shared";
  if (group.begin > 0) line += ", from position " + std::to_string(group.begin);
  return line + " */\n";
}

}  // namespace

bool names(const std::string& text, const std::string& name) {
  const auto in_name = [](char each) {
    return (each >= '0' && each <= '9') || (each >= 'a' && each <= 'z') || each == '_';
  };
  bool comment = false;
  for (std::size_t i = 0; i + name.size() < text.size(); ++i) {
    if (text.compare(i, 2, "/*") == 0) comment = true;
    if (text.compare(i, 2, "*/") == 0) comment = false;
    if (!comment && text.compare(i, name.size(), name) == 0 && (i == 0 || !in_name(text[i - 1])) &&
        !in_name(text[i + name.size()])) {
      return true;
    }
  }
  return false;
}

std::string parameter_arrays(const Trained& trained) {
  const std::string type = real(trained.single);
  std::string text = parameter_array("p", trained.values, trained);
  text += "static " + type + " dp[PARAMETERS];\n";
  if (trained.steps == 0) {
    text += "static " + type + " m[PARAMETERS], v[PARAMETERS];\n";
  } else {
    text += parameter_array("m", trained.first_moments, trained);
    text += parameter_array("v", trained.second_moments, trained);
  }
  return text + "enum { STEPS_BEFORE = " + std::to_string(trained.steps) + " };\n\n";
}

// A group that is summed straight into gradients has no array.
std::string group_arrays(const VectorProgram& program, bool single, const std::string& functions) {
  std::string text;
  for (std::size_t g = 0; g < program.groups.size(); ++g) {
    const std::string name = cat({"g", std::to_string(g)});
    if (names(functions, name)) text += group_array(program.groups[g], name, single);
  }
  return text;
}

std::string constant_array(const VectorProgram& program, bool single) {
  std::string text = "static const " + real(single) + " c[" +
                     std::to_string(program.constants.size()) + "] = {\n   ";
  std::size_t width = 3;
  for (const double value : program.constants) {
    const std::string cell = cat({" ", literal(value, single), ","});
    if (width + cell.size() > longest_line) {
      text += "\n   ";
      width = 3;
    }
    text += cell;
    width += cell.size();
  }
  return text + "\n};\n";
}

}  // namespace nanochat::program::c

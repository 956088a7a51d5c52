// Operands, indices and functions of one number as C. See writer.hpp. Powers are pow with exact
// numerics, otherwise what the fast kernels of ../simd/map.cpp compute.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "scalar/program/c_text/writer.hpp"

namespace nanochat::program::c {
namespace {

std::string times(std::int32_t factor, const std::string& x) {
  if (factor == 1) return x;
  if (factor == -1) return "-" + x;
  return std::to_string(factor) + " * " + x;
}

}  // namespace

std::string cat(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text += part;
  return text;
}

void append(std::string& text, const std::string& piece) {
  if (text.empty()) {
    text = piece;
  } else if (piece.front() == '-') {
    text += " - " + piece.substr(1);
  } else {
    text += " + " + piece;
  }
}

// Of the loops of a nest, the innermost last.
std::string variable(std::size_t at, std::size_t depth) {
  constexpr std::array<const char*, 5> names = {"f", "o", "h", "i", "j"};
  const std::size_t from_inner = depth - 1 - at;
  return from_inner < names.size() ? names[from_inner] : cat({"i", std::to_string(from_inner)});
}

bool is_still(const Linear<VaryingInt>& linear) {
  return std::all_of(linear.step.begin(), linear.step.end(),
                     [](const VaryingInt& step) { return step.is(0); }) &&
         linear.k_step.is(0);
}

std::string literal(double value, bool single) {
  if (std::isnan(value)) return "NAN";
  if (std::isinf(value)) return value > 0 ? "INFINITY" : "(-INFINITY)";
  std::array<char, 40> text{};
  for (int digits = single ? 6 : 15; digits <= 17; ++digits) {
    (void)std::snprintf(text.data(), text.size(), "%.*g", digits, value);
    const double back = std::strtod(text.data(), nullptr);
    if (single ? static_cast<float>(back) == static_cast<float>(value) : back == value) break;
  }
  std::string result = text.data();
  if (result.find_first_of(".e") == std::string::npos) result += ".0";
  return single ? result + "f" : result;
}

std::string Writer::number(const VaryingInt& number) const {
  if (number.column >= 0) return cat({"x[", std::to_string(number.column)}) + "]";
  std::string text;
  if (number.slope > 0) text = times(number.slope, "t");
  if (number.base != 0 || number.slope == 0) append(text, std::to_string(number.base));
  if (number.slope < 0) append(text, times(number.slope, "t"));
  return text;
}

std::string Writer::linear(const Index& linear, std::int32_t minus,
                           const std::string& token) const {
  VaryingInt base = linear.base;
  std::string text;
  if (base.column >= 0) {
    text = number(base);
    if (minus != 0) text += cat({" - ", std::to_string(minus)});
  } else {
    base.base -= minus;
    if (!base.is(0)) text = number(base);
  }
  if (!token.empty()) append(text, token);
  const auto add = [&](const VaryingInt& step, const std::string& name) {
    if (step.is(0)) return;
    const bool plain = step.column < 0 && step.slope == 0;
    const bool bare = step.column >= 0 || (step.base == 0 && step.slope == 1);
    append(text, plain  ? times(step.base, name)
                 : bare ? number(step) + " * " + name
                        : cat({"(", number(step), ") * ", name}));
  };
  for (std::size_t d = 0; d < linear.step.size(); ++d) {
    add(linear.step[d], variable(d, linear.step.size()));
  }
  add(linear.k_step, "k");
  return text.empty() ? "0" : text;
}

std::string Writer::operand(const Factor& factor) {
  std::string token;
  if (factor.stride != 0) token = times(factor.stride, cat({"tokens[", linear(factor.slot), "]"}));
  switch (factor.kind) {
    case OperandKind::unit:
      return number_of(1.0);
    case OperandKind::total:
      return "total";
    case OperandKind::scale:
      return "scale(n)";
    case OperandKind::input:
      return cat({"inputs[", linear(factor.index), "]"});
    case OperandKind::parameter:
      return cat({"p[", linear(factor.index, 0, token), "]"});
    case OperandKind::gradient:
      return cat({"dp[", linear(factor.index, 0, token), "]"});
    case OperandKind::hit:
    case OperandKind::miss: {
      const bool hit = factor.kind == OperandKind::hit;
      return cat({"(", token, " == ", linear(factor.index), " ? ", number_of(hit ? 1.0 : 0.0),
                  " : ", number_of(hit ? 0.0 : 1.0), ")"});
    }
    case OperandKind::constant: {
      const VaryingInt& base = factor.index.base;
      if (is_still(factor.index) && base.slope == 0 && base.column < 0) {
        return number_of(program_.constants[static_cast<std::size_t>(base.base)]);
      }
      reads_constants_ = true;
      return cat({"c[", linear(factor.index), "]"});
    }
    default:
      break;
  }
  const Group& array = group(factor.group);
  std::string text = cat({"g", std::to_string(factor.group)});
  if (!array.is_shared() && array.end > array.begin + 1) {
    text += cat({"[", linear(factor.position, array.begin), "]"});
  }
  if (array.features > 1 || array.ragged()) text += cat({"[", linear(factor.index, 0, token), "]"});
  return text;
}

std::string Writer::product(const Products<VaryingInt>& run) {
  if (run.b.kind == OperandKind::unit) return operand(run.a);
  if (run.a.kind == OperandKind::unit) return operand(run.b);
  return operand(run.a) + " * " + operand(run.b);
}

// scale · x ** exponent: pow with exact numerics, otherwise as the fast kernels compute it.
std::string Writer::power(const std::string& x, double exponent, double scale) const {
  const std::string s = number_of(scale);
  const std::string front = scale == 1.0 ? "" : s + " * ";
  if (program_.numerics == Numerics::exact) {
    return front + "power(" + x + ", " + literal(exponent, false) + ")";
  }
  const std::string root = std::string(single_ ? "sqrtf(" : "sqrt(") + x + ")";
  if (exponent == -2.0) return s + " / " + x + " / " + x;
  if (exponent == -1.5) return s + " / " + x + " / " + root;
  if (exponent == -1.0) return s + " / " + x;
  if (exponent == -0.5) return s + " / " + root;
  if (exponent == 0.0) return s;
  if (exponent == 0.5) return front + root;
  if (exponent == 1.0) return front + x;
  if (exponent == 2.0) return front + "(" + x + " * " + x + ")";
  if (exponent == 3.0) return front + "(" + x + " * " + x + " * " + x + ")";
  const std::string call = front + "power(" + x + ", " + literal(exponent, false) + ")";
  return single_ ? "(float)(" + call + ")" : call;
}

std::string Writer::mapped(Kind kind, double constant, const std::string& x) const {
  const std::string f = single_ ? "f(" : "(";
  const std::string zero = number_of(0.0), unit = number_of(1.0);
  switch (kind) {
    case Kind::exp:
      return "exp" + f + x + ")";
    case Kind::log:
      return "log" + f + x + ")";
    case Kind::tanh:
      return "tanh" + f + x + ")";
    case Kind::relu:
      return x + " <= " + zero + " ? " + zero + " : " + x;
    case Kind::step:
      return x + " > " + zero + " ? " + unit + " : " + zero;
    case Kind::inverse:
      return unit + " / " + x;
    case Kind::power:
      return power(x, constant, 1.0);
    case Kind::power_local:
      return constant == 0.0 ? zero : power(x, constant - 1.0, constant);
    case Kind::one_minus_square:
      return unit + " - " + x + " * " + x;
    default:
      return x + " + " + number_of(constant);
  }
}

}  // namespace nanochat::program::c

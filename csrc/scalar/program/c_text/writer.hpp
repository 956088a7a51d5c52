// Nests as lines of C99: statements (c_text.cpp) of expressions (c_expressions.cpp), each
// instruction under a comment (c_comments.cpp). Leaves out the file around them (to_c.cpp).
#ifndef NANOCHAT_SCALAR_PROGRAM_C_TEXT_HPP_
#define NANOCHAT_SCALAR_PROGRAM_C_TEXT_HPP_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scalar/program/c_text/nests.hpp"

namespace nanochat::program::c {

std::string cat(std::initializer_list<std::string_view> parts);

// Adds a term: " + piece", or " - piece" when it carries its sign.
void append(std::string& text, const std::string& piece);
// The variable of a loop of a nest.
std::string variable(std::size_t at, std::size_t depth);
bool is_still(const Linear<Number>& linear);
// A literal that reads back as the same number.
std::string literal(double value, bool single);

class Writer {
 public:
  Writer(const VectorProgram& program, bool single) : program_(program), single_(single) {}

  void list(const std::vector<Instruction>& instructions);
  void outputs();  // total += each output
  void line(const std::string& text) { text_ += std::string(indent_ * 2, ' ') + text + "\n"; }
  std::string take() { return std::exchange(text_, {}); }
  const std::string& tables() const noexcept { return tables_; }
  bool reads_constants() const noexcept { return reads_constants_; }

 private:
  using Numbers = Linear<Number>;
  using Factor = Operand<Number>;
  using Headers = std::vector<std::string>;

  const Group& group(std::int32_t g) const { return program_.groups[static_cast<std::size_t>(g)]; }
  const char* real() const noexcept { return single_ ? "float" : "double"; }

  void positions(const std::vector<Position>& all);
  void moved(const std::vector<Position>& all);
  void compressed(const std::vector<Position>& all);
  void outers(const Instruction& instruction);
  void outer(const Outer& outer);
  void loop(const Loop& loop);
  void table(const Table& table);
  void nest(const NestOf<Number>& nest, Headers headers, bool over_t);
  void sum(const NestOf<Number>& nest, const Headers& headers);
  void map(const NestOf<Number>& nest, const Headers& headers);
  void largest(const NestOf<Number>& nest, const Headers& headers);
  void comment(const std::string& text);
  void block(const Headers& headers, const std::vector<std::string>& lines);

  std::string still_there(const NestOf<Number>& nest, const Products<Number>& term) const;
  std::string number(const Number& number) const;
  std::string linear(const Numbers& linear, std::int32_t minus = 0,
                     const std::string& token = "") const;
  std::string operand(const Factor& factor);
  std::string product(const Products<Number>& term);
  std::string mapped(Kind kind, double constant, const std::string& x) const;
  std::string power(const std::string& x, double exponent, double scale) const;
  std::string number_of(double value) const { return literal(value, single_); }

  std::string about(const Instruction& instruction) const;
  std::string about(const Ref& ref) const;

  const VectorProgram& program_;
  bool single_;
  std::string text_, tables_;
  std::size_t indent_ = 1;
  int table_count_ = 0;
  bool reads_constants_ = false;
};

}  // namespace nanochat::program::c

#endif  // NANOCHAT_SCALAR_PROGRAM_C_TEXT_HPP_

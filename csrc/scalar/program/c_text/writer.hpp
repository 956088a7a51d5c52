// Writes nests as lines of C99: statements (statements.cpp) of expressions (expressions.cpp), with
// a comment above each instruction (comments.cpp). The file around them is written by to_c.cpp.
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

// Appends a term: " + piece", or " - …" if the piece begins with a minus sign.
void append(std::string& text, const std::string& piece);
// The name of a loop variable of a nest.
std::string variable(std::size_t at, std::size_t depth);
bool is_still(const Linear<VaryingInt>& linear);
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
  using Index = Linear<VaryingInt>;
  using Factor = Operand<VaryingInt>;
  using Headers = std::vector<std::string>;

  const Group& group(std::int32_t g) const { return program_.group(g); }
  const char* real() const noexcept { return single_ ? "float" : "double"; }

  void instruction(const Instruction& instruction);
  void merged(std::vector<PositionNests>& all, std::vector<PositionNests> more) const;
  void loops(const std::vector<PositionNests>& all);
  void compressed(const std::vector<PositionNests>& all);
  void reduce(const ReduceLanes& reduce);
  void zero(std::int32_t group);
  void outer_comment(const OuterProduct& outer);
  void outer(const OuterProduct& outer);
  std::string over_positions(const OuterProduct& outer) const;
  void loop(const Loop& loop);
  void table(const Table& table);
  void nest(const VaryingNest& nest, Headers headers, bool over_t);
  void sum(const VaryingNest& nest, const Headers& headers);
  bool short_sum(const VaryingNest& nest, const Headers& headers);
  void map(const VaryingNest& nest, const Headers& headers);
  void largest(const VaryingNest& nest, const Headers& headers);
  void comment(const std::string& text);
  void block(const Headers& headers, const std::vector<std::string>& lines);

  std::string start_of(const VaryingNest& nest) const;
  std::string in_document(const VaryingNest& nest, const Products<VaryingInt>& run) const;
  std::string number(const VaryingInt& number) const;
  std::string linear(const Index& linear, std::int32_t minus = 0,
                     const std::string& token = "") const;
  std::string operand(const Factor& factor);
  std::string product(const Products<VaryingInt>& run);
  std::string mapped(Kind kind, double constant, const std::string& x) const;
  std::string power(const std::string& x, double exponent, double scale) const;
  std::string number_of(double value) const { return literal(value, single_); }

  std::string about(const Instruction& instruction) const;
  std::string about(const Ref& ref) const;
  std::string about(const std::vector<ProductRun>& products) const;

  const VectorProgram& program_;
  bool single_;
  std::string text_, tables_;
  std::size_t indent_ = 1;
  int table_count_ = 0;
  bool reads_constants_ = false;
};

}  // namespace nanochat::program::c

#endif  // NANOCHAT_SCALAR_PROGRAM_C_TEXT_HPP_

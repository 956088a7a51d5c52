// Nests, loops, tables and outer products as statements. See writer.hpp. The arithmetic of a line
// is that of ../simd: the same order of products, and a 0.0 in front of sums that start from 0.
#include <algorithm>
#include <utility>

#include "scalar/program/c_text/writer.hpp"

namespace nanochat::program::c {
namespace {

constexpr std::size_t longest_line = 96;
constexpr std::size_t most_nests = 12;  // more nests are easier to read as a table

std::string for_loop(const std::string& name, const std::string& count) {
  return "for (int " + name + " = 0; " + name + " < " + count + "; ++" + name + ")";
}

std::string condition(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " && ") + part;
  return text;
}

template <class Each>
concept has_destination = requires(const Each& each) { each.to; };
template <class Each>
concept has_moves = requires(const Each& each) { each.moves; };

const Destination* destination_of(const Instruction& instruction) {
  return std::visit(
      [](const auto& each) -> const Destination* {
        if constexpr (has_destination<decltype(each)>) {
          return &each.to;
        } else {
          return nullptr;
        }
      },
      instruction);
}

// Adds nests to those of the same positions.
void add_nests(std::vector<PositionNests>& all, std::vector<PositionNests> more) {
  for (PositionNests& nests : more) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const PositionNests& at) {
      return at.position == nests.position;
    });
    if (found == all.end()) {
      all.push_back(std::move(nests));
    } else {
      found->nests.push_back(std::move(nests.nests.front()));
    }
  }
}

}  // namespace

void Writer::comment(const std::string& text) {
  std::string rest = text;
  std::string front = "/* ";
  while (2 * indent_ + front.size() + rest.size() + 3 > longest_line) {
    const std::size_t cut = rest.rfind(' ', longest_line - 2 * indent_ - front.size() - 3);
    if (cut == std::string::npos) break;
    line(front + rest.substr(0, cut));
    rest.erase(0, cut + 1);
    front = "   ";
  }
  line(front + rest + " */");
}

void Writer::block(const Headers& headers, const std::vector<std::string>& lines) {
  const std::size_t before = indent_;
  for (std::size_t i = 0; i < headers.size(); ++i) {
    const bool braces = i + 1 == headers.size() && lines.size() > 1;
    line(headers[i] + (braces ? " {" : ""));
    ++indent_;
  }
  const bool alone = headers.empty() && lines.size() > 1;  // a scope for its own names
  if (alone) {
    line("{");
    ++indent_;
  }
  for (const std::string& each : lines) line(each);
  indent_ = before + (alone || headers.empty() ? 0 : headers.size() - 1);
  if (lines.size() > 1) line("}");
  indent_ = before;
}

// The condition that the positions of a product are in the document. Positions up to that of the
// destination need no test.
std::string Writer::in_document(const VaryingNest& nest, const Products<VaryingInt>& run) const {
  std::vector<std::string> parts;
  const VaryingInt& here = nest.dst.position.base;
  for (const Factor* factor : {&run.a, &run.b}) {
    if (factor->kind != OperandKind::rows) continue;
    const Index& position = factor->position;
    const VaryingInt& step = position.k_step;
    const bool backwards = step.slope == 0 && step.column < 0 && step.base <= 0;
    Index first = position;
    first.k_step = {};
    const bool same = here.column < 0 && position.base.column < 0 &&
                      position.base.base == here.base && position.base.slope == here.slope;
    if (backwards && same && is_still(first)) continue;
    std::string part = linear(position) + " < n";
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) {
      parts.push_back(std::move(part));
    }
  }
  return condition(parts);
}

// A sum that starts from 0.0 is never -0.0, which matters only with exact numerics.
std::string Writer::start_of(const VaryingNest& nest) const {
  const bool exact = program_.numerics == Numerics::exact;
  return number_of(nest.from_zero || !exact ? 0.0 : -0.0);
}

void Writer::sum(const VaryingNest& nest, const Headers& headers) {
  if (short_sum(nest, headers)) return;
  const std::string to = operand(nest.dst);
  std::vector<std::string> lines{std::string(real()) +
                                 " s = " + (nest.accumulate ? to : start_of(nest)) + ";"};
  const std::size_t room = longest_line - 2 * std::min(indent_ + headers.size(), longest_line / 4);
  for (const auto& run : nest.products) {
    std::string head = run.count.is(1) ? "" : for_loop("k", number(run.count));
    const std::string test = run.ends ? in_document(nest, run) : "";
    if (!test.empty()) head += (head.empty() ? "" : " ") + cat({"if (", test, ")"});
    const std::string body = cat({"s += ", product(run), ";"});
    if (head.size() + 1 + body.size() <= room) {
      lines.push_back(head.empty() ? body : cat({head, " ", body}));
    } else {
      if (!head.empty()) lines.push_back(head);
      lines.push_back(head.empty() ? body : cat({"  ", body}));
    }
  }
  lines.push_back(to + " = s;");
  block(headers, lines);
}

// Writes a sum without loops or tests as one statement if it fits on a line.
bool Writer::short_sum(const VaryingNest& nest, const Headers& headers) {
  const auto& products = nest.products;
  const bool plain = std::all_of(products.begin(), products.end(),
                                 [](const auto& run) { return run.count.is(1) && !run.ends; });
  if (!plain) return false;
  const std::string to = operand(nest.dst);
  std::string text;
  for (const auto& run : products) text += (text.empty() ? "" : " + ") + product(run);
  std::string statement;
  if (nest.accumulate && products.size() == 1) {
    statement = to + " += " + text + ";";
  } else if (nest.accumulate) {
    statement = to + " = " + to + " + " + text + ";";
  } else if (products.empty()) {
    statement = to + " = " + start_of(nest) + ";";
  } else {
    const bool from_zero = nest.from_zero && program_.numerics == Numerics::exact;
    statement = to + " = " + (from_zero ? start_of(nest) + " + " : "") + text + ";";
  }
  const std::size_t size = statement.size() + 2 * (indent_ + headers.size());
  if (products.size() > 1 && size > longest_line) return false;
  block(headers, {statement});
  return true;
}

void Writer::map(const VaryingNest& nest, const Headers& headers) {
  block(headers, {operand(nest.dst) + " = " +
                  mapped(nest.kind, nest.constant, operand(nest.products.front().a)) + ";"});
}

// As Python's max(): the first number stays unless a later one is greater.
void Writer::largest(const VaryingNest& nest, const Headers& headers) {
  const Products<VaryingInt>& run = nest.products.front();
  Factor first = run.a;
  first.index.k_step = {};
  if (run.count.is(1)) return block(headers, {operand(nest.dst) + " = " + operand(first) + ";"});
  std::string loop = for_loop("k", number(run.count));
  loop.replace(loop.find("= 0"), 3, "= 1");
  const std::string x = operand(run.a);
  block(headers, {std::string(real()) + " s = " + operand(first) + ";",
                  loop + " s = " + x + " > s ? " + x + " : s;", operand(nest.dst) + " = s;"});
}

// over_t: the nest is in a loop over positions that stops at the last one of the document.
void Writer::nest(const VaryingNest& nest, Headers headers, bool over_t) {
  const std::size_t depth = nest.counts.size();
  const Index& needs = nest.needs;
  const bool none = needs.base.is(shared) && is_still(needs);
  // Every document has a first position, and loops over t stop at the last one.
  bool open = !none && !(is_still(needs) && (needs.base.is(0) || (over_t && needs.base.is_t())));
  const std::string check = linear(needs) + " < n";
  if (open && is_still(needs)) {
    headers.push_back("if (" + check + ")");
    open = false;
  }
  for (std::size_t d = 0; d < depth; ++d) {
    const std::string name = variable(d, depth);
    std::string count = number(nest.counts[d]);
    if (open && check == name + " < n") {
      // A loop over all positions ends with the document.
      count = nest.counts[d].is(program_.positions) ? "n" : count + " && " + check;
      open = false;
    }
    headers.push_back(for_loop(name, count));
  }
  if (open) headers.push_back("if (" + check + ")");
  if (nest.body == Body::sum) return sum(nest, headers);
  if (nest.body == Body::map) return map(nest, headers);
  largest(nest, headers);
}

void Writer::loop(const Loop& loop) {
  const std::int32_t low = std::min(loop.first, loop.last), high = std::max(loop.first, loop.last);
  if (loop.first == loop.last) {
    // The numbers of a single position contain no t.
    for (const auto& each : loop.nests) nest(each, {}, false);
    return;
  }
  const bool all = high + 1 == program_.positions;
  const std::string end = std::to_string(high + 1);
  const std::string start = std::to_string(low);
  const std::string header =
      loop.first < loop.last
          ? "for (int t = " + start + "; t < n" + (all ? "" : " && t < " + end) + "; ++t)"
          : "for (int t = " + (all ? "n" : "(n < " + end + " ? n : " + end + ")") +
                " - 1; t >= " + start + "; --t)";
  if (loop.nests.size() == 1) return nest(loop.nests.front(), {header}, true);
  line(header + " {");
  ++indent_;
  for (const auto& each : loop.nests) nest(each, {}, true);
  --indent_;
  line("}");
}

void Writer::loops(const std::vector<PositionNests>& all) {
  for (const Loop& each : loops_of(all)) loop(each);
}

void Writer::table(const Table& table) {
  const std::size_t columns = table.rows.front().size();
  if (columns == 0 || table.rows.size() == 1) return nest(table.nest, {}, false);
  const std::string name = cat({"table", std::to_string(table_count_++)});
  const std::string rows = std::to_string(table.rows.size());
  tables_ +=
      "static const int " + name + "[" + rows + cat({"][", std::to_string(columns)}) + "] = {\n";
  std::string row_text = "   ";
  for (const auto& row : table.rows) {
    std::string cell = " {";
    for (std::size_t i = 0; i < row.size(); ++i) {
      cell += (i == 0 ? "" : ", ") + std::to_string(row[i]);
    }
    cell += "},";
    if (row_text.size() + cell.size() > longest_line) {
      tables_ += row_text + "\n";
      row_text = "   ";
    }
    row_text += cell;
  }
  tables_ += row_text + "\n};\n";
  line(for_loop("r", rows) + " {");
  ++indent_;
  line("const int *x = " + name + "[r];");
  nest(table.nest, {}, false);
  --indent_;
  line("}");
}

void Writer::compressed(const std::vector<PositionNests>& all) {
  std::vector<PositionNests> shorter = all;
  for (PositionNests& position : shorter) position.nests = compress(std::move(position.nests));
  const std::vector<Loop> loops = loops_of(shorter);
  std::size_t nests = 0;
  for (const Loop& each : loops) nests += each.nests.size();
  if (nests <= most_nests) {
    for (const Loop& each : loops) loop(each);
  } else {
    for (const Table& each : tables_of(all)) table(each);
  }
}

void Writer::outputs() { compressed({output_nests(program_)}); }

// The loop over the positions of an outer product, or the test for its one position.
std::string Writer::over_positions(const OuterProduct& outer) const {
  const Group& rows = group(outer.b.group);
  if (outer.b.position != own) {
    const bool has_position = outer.a.space == AddressSpace::rows;
    const std::int32_t last = std::max(outer.b.position, has_position ? outer.a.position : own);
    return last > 0 ? cat({"if (", std::to_string(last), " < n) "}) : "";
  }
  const std::string begin = std::to_string(rows.begin), end = std::to_string(rows.end);
  const bool to_last = rows.end == program_.positions;
  if (outer.descending) {
    return "for (int t = " + (to_last ? "n" : "(n < " + end + " ? n : " + end + ")") +
           " - 1; t >= " + begin + "; --t) ";
  }
  return "for (int t = " + begin + "; t < n" + (to_last ? "" : " && t < " + end) + "; ++t) ";
}

void Writer::outer(const OuterProduct& outer) {
  const std::int32_t m_step = outer.m > 1 ? outer.m_step : 0, n_step = outer.n > 1 ? 1 : 0;
  const auto index = [](std::int32_t base, std::int32_t m, std::int32_t n) -> Index {
    return {{base, 0}, {{m, 0}, {n, 0}}, {}};
  };
  const auto factor = [&](const Ref& ref, std::int32_t m, std::int32_t n) {
    const VaryingInt position =
        ref.position == own ? VaryingInt{0, 1} : VaryingInt{ref.position, 0};
    const std::vector<VaryingInt> still(2);
    return Factor{operand_kind(ref.space), ref.group, 0, {position, still, {}},
                  index(ref.index, m, n),  {}};
  };
  const Products<VaryingInt> run{{1, 0},
                                 factor(outer.a, outer.m > 1 ? outer.a.f_step : 0, 0),
                                 factor(outer.b, 0, n_step),
                                 false};
  const bool is_gradient = outer.group == no_group;
  const Factor to{is_gradient ? OperandKind::gradient : OperandKind::shared_number,
                  outer.group,
                  0,
                  {},
                  index(outer.index, m_step, n_step),
                  {}};
  Headers headers;
  if (outer.m > 1) headers.push_back(for_loop("o", std::to_string(outer.m)));
  if (outer.n > 1) headers.push_back(for_loop("f", std::to_string(outer.n)));
  const std::string cell = operand(to);
  block(headers, {std::string(real()) + " s = " + (outer.accumulate ? cell : number_of(0.0)) + ";",
                  over_positions(outer) + "s += " + product(run) + ";", cell + " = s;"});
}

void Writer::outer_comment(const OuterProduct& outer) {
  const std::int32_t last = outer.index + (outer.m - 1) * outer.m_step + outer.n - 1;
  const std::string to = outer.group == no_group ? "dp" : cat({"g", std::to_string(outer.group)});
  comment(cat({to, "[", std::to_string(outer.index), " ... ", std::to_string(last),
               "]: ", std::to_string(outer.m), " x ", std::to_string(outer.n), ", ", about(outer.a),
               " times ", about(outer.b), ", summed over positions"}));
}

void Writer::zero(std::int32_t g) {
  const std::int32_t features = group(g).features;
  const std::string name = cat({"g", std::to_string(g)});
  if (features == 1) {
    line(name + " = " + number_of(0.0) + ";");
  } else {
    line(for_loop("f", std::to_string(features)) + " " + name + "[f] = " + number_of(0.0) + ";");
  }
}

void Writer::reduce(const ReduceLanes& reduce) {
  if (reduce.group != no_group) zero(reduce.group);
  std::vector<SingleProduct> single;
  for (std::int32_t i = reduce.outer_products.begin; i < reduce.outer_products.end; ++i) {
    const OuterProduct& each = program_.outer_products[static_cast<std::size_t>(i)];
    if (is_row_of_position(each, group(each.b.group))) {
      SingleProduct cell{each.group, each.index, each.a, each.b, each.b.position};
      for (std::int32_t n = 0; n < each.n; ++n, ++cell.index, ++cell.b.index) {
        single.push_back(cell);
      }
      continue;
    }
    outer_comment(each);
    outer(each);
  }
  const auto first = program_.single_products.begin();
  single.insert(single.end(), first + reduce.single_products.begin,
                first + reduce.single_products.end);
  if (single.empty()) return;
  line("/* products at single positions */");
  compressed({nests_of(single)});
}

// An instruction without a destination of loops.
void Writer::instruction(const Instruction& instruction) {
  std::visit(Overloaded{[&](const ReduceLanes& each) { reduce(each); },
                        [&](const CrossSum& each) {
                          for (const CrossPart& part : each.parts) {
                            compressed(nests_of(program_, each, part));
                          }
                        },
                        [&](const auto& each) {
                          if constexpr (has_moves<decltype(each)>) compressed(nests_of(each));
                        }},
             instruction);
}

// Consecutive instructions for the same group are written together, position by position: the
// members of a group do not read each other.
void Writer::list(const std::vector<Instruction>& instructions) {
  for (std::size_t i = 0; i < instructions.size();) {
    const Instruction& first = instructions[i];
    if (!std::holds_alternative<ReduceLanes>(first)) comment(about(first));
    const Destination* to = destination_of(first);
    if (to == nullptr) {
      instruction(first);
      ++i;
      continue;
    }
    std::vector<PositionNests> all;
    for (; i < instructions.size(); ++i) {
      const Destination* next = destination_of(instructions[i]);
      if (next == nullptr || next->group != to->group) break;
      std::visit(
          [&](const auto& each) {
            if constexpr (has_destination<decltype(each)>) add_nests(all, nests_of(program_, each));
          },
          instructions[i]);
    }
    loops(all);
  }
}

}  // namespace nanochat::program::c

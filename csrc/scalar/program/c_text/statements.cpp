// Nests, loops, tables and outer products as statements. See c_text.hpp. The arithmetic that a line
// spells out is that of ../simd: the order of its products, and a 0.0 in front of sums that start
// from 0.
#include "scalar/program/c_text/writer.hpp"

#include <algorithm>

namespace nanochat::program::c {
namespace {

constexpr std::size_t longest_line = 96;
constexpr std::size_t most_nests = 12;  // beyond them a table is easier to read

std::string for_loop(const std::string& name, const std::string& count) {
  return "for (int " + name + " = 0; " + name + " < " + count + "; ++" + name + ")";
}

std::string condition(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " && ") + part;
  return text;
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

// Which positions of a product must be tested: not those up to the destination's own.
std::string Writer::still_there(const NestOf<Number>& nest, const Products<Number>& term) const {
  std::vector<std::string> parts;
  const Number& here = nest.dst.stage.base;
  for (const Factor* factor : {&term.a, &term.b}) {
    if (factor->where != Where::rows) continue;
    const Numbers& stage = factor->stage;
    const bool back = stage.k_step.slope == 0 && stage.k_step.column < 0 && stage.k_step.base <= 0;
    Numbers first = stage;
    first.k_step = {};
    const bool same = here.column < 0 && stage.base.column < 0 && stage.base.base == here.base &&
                      stage.base.slope == here.slope;
    if (back && same && is_still(first)) continue;
    std::string part = linear(stage) + " < n";
    if (std::find(parts.begin(), parts.end(), part) == parts.end())
      parts.push_back(std::move(part));
  }
  return condition(parts);
}

void Writer::sum(const NestOf<Number>& nest, const Headers& headers) {
  const std::string to = operand(nest.dst);
  // A sum that starts from 0.0 is never -0.0: only the exact numerics care.
  const bool exact = program_.numerics == Numerics::exact;
  const bool from_zero = nest.from_zero && exact;
  const std::string start = number_of(nest.from_zero || !exact ? 0.0 : -0.0);
  const bool plain = std::all_of(nest.terms.begin(), nest.terms.end(),
                                 [](const auto& term) { return term.k.is(1) && !term.ends; });
  if (plain) {
    std::string text;
    for (const auto& term : nest.terms) text += (text.empty() ? "" : " + ") + product(term);
    std::string statement;
    if (nest.accumulate && nest.terms.size() == 1) {
      statement = to + " += " + text + ";";
    } else if (nest.accumulate) {
      statement = to + " = " + to + " + " + text + ";";
    } else if (nest.terms.empty()) {
      statement = to + " = " + start + ";";
    } else {
      statement = to + " = " + (from_zero ? start + " + " : "") + text + ";";
    }
    if (nest.terms.size() <= 1 ||
        statement.size() + 2 * (indent_ + headers.size()) <= longest_line) {
      return block(headers, {statement});
    }
  }
  std::vector<std::string> lines{std::string(real()) + " s = " + (nest.accumulate ? to : start) +
                                 ";"};
  const std::size_t room = longest_line - 2 * std::min(indent_ + headers.size(), longest_line / 4);
  for (const auto& term : nest.terms) {
    std::string head = term.k.is(1) ? "" : for_loop("k", number(term.k));
    const std::string alive = term.ends ? still_there(nest, term) : "";
    if (!alive.empty()) head += (head.empty() ? "" : " ") + cat({"if (", alive, ")"});
    const std::string body = cat({"s += ", product(term), ";"});
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

void Writer::map(const NestOf<Number>& nest, const Headers& headers) {
  block(headers, {operand(nest.dst) + " = " +
                  mapped(nest.kind, nest.constant, operand(nest.terms.front().a)) + ";"});
}

// As Python's max(): what comes first stays unless a later one is greater.
void Writer::largest(const NestOf<Number>& nest, const Headers& headers) {
  const Products<Number>& term = nest.terms.front();
  Factor first = term.a;
  first.index.k_step = {};
  if (term.k.is(1)) return block(headers, {operand(nest.dst) + " = " + operand(first) + ";"});
  std::string loop = for_loop("k", number(term.k));
  loop.replace(loop.find("= 0"), 3, "= 1");
  const std::string x = operand(term.a);
  block(headers, {std::string(real()) + " s = " + operand(first) + ";",
                  loop + " s = " + x + " > s ? " + x + " : s;", operand(nest.dst) + " = s;"});
}

// over_t: the loop over positions stands around it and stops at the document's last.
void Writer::nest(const NestOf<Number>& nest, Headers headers, bool over_t) {
  const std::size_t depth = nest.counts.size();
  const Numbers& needs = nest.needs;
  const bool none = needs.base.is(shared) && is_still(needs);
  // A document has a first position; loops over t stop at its last.
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
      // Where the loop ends with the last position, the document's own end is before it.
      count = nest.counts[d].is(program_.stages) ? "n" : count + " && " + check;
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
    // The numbers of one position carry no t; each nest says itself what it needs.
    for (const auto& each : loop.nests) nest(each, {}, false);
    return;
  }
  const bool all = high + 1 == program_.stages;
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

void Writer::positions(const std::vector<Position>& all) {
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

void Writer::compressed(const std::vector<Position>& all) {
  std::vector<Position> shorter = all;
  for (Position& position : shorter) position.nests = compress(std::move(position.nests));
  const std::vector<Loop> loops = loops_of(shorter);
  std::size_t nests = 0;
  for (const Loop& each : loops) nests += each.nests.size();
  if (nests <= most_nests) {
    for (const Loop& each : loops) loop(each);
  } else {
    for (const Table& each : tables_of(all)) table(each);
  }
}

void Writer::outputs() { compressed({outputs_of(program_)}); }

void Writer::outer(const Outer& outer) {
  const Group& rows = group(outer.b.group);
  const bool many = outer.b.stage == own;
  const auto factor = [&](const Ref& ref, std::int32_t i_step, std::int32_t j_step) {
    const Number stage = ref.stage == own ? Number{0, 1} : Number{ref.stage, 0};
    const Where where = ref.space == Space::rows        ? Where::rows
                        : ref.space == Space::number    ? Where::number
                        : ref.space == Space::parameter ? Where::parameter
                        : ref.space == Space::constant  ? Where::constant
                                                        : Where::unit;
    const std::vector<Number> still(2);
    return Factor{
        where, ref.group, 0, {stage, still, {}}, {{ref.index, 0}, {{i_step, 0}, {j_step, 0}}, {}},
        {}};
  };
  Products<Number> term{{1, 0}, factor(outer.a, outer.a.f_step, 0), factor(outer.b, 0, 1), false};
  const Factor to{outer.group < 0 ? Where::gradient : Where::number,   outer.group, 0, {},
                  {{outer.index, 0}, {{outer.m_step, 0}, {1, 0}}, {}}, {}};
  Headers headers;
  if (outer.m > 1) headers.push_back(for_loop("o", std::to_string(outer.m)));
  if (outer.n > 1) headers.push_back(for_loop("f", std::to_string(outer.n)));
  if (outer.m <= 1) term.a.index.step[0] = {};
  if (outer.n <= 1) term.b.index.step[1] = {};
  Factor onto = to;
  if (outer.m <= 1) onto.index.step[0] = {};
  if (outer.n <= 1) onto.index.step[1] = {};
  const std::string cell = operand(onto);
  std::string over;
  const std::string begin = std::to_string(rows.begin), end = std::to_string(rows.end);
  const bool to_last = rows.end == program_.stages;
  if (!many) {
    const std::int32_t stage =
        std::max(outer.b.stage, outer.a.space == Space::rows ? outer.a.stage : own);
    if (stage > 0) over = cat({"if (", std::to_string(stage)}) + " < n) ";
  } else if (outer.descending) {
    over = "for (int t = " + (to_last ? "n" : "(n < " + end + " ? n : " + end + ")") +
           " - 1; t >= " + begin + "; --t) ";
  } else {
    over = "for (int t = " + begin + "; t < n" + (to_last ? "" : " && t < " + end) + "; ++t) ";
  }
  block(headers, {std::string(real()) + " s = " + (outer.accumulate ? cell : number_of(0.0)) + ";",
                  over + "s += " + product(term) + ";", cell + " = s;"});
}

void Writer::outers(const Instruction& instruction) {
  if (instruction.group >= 0) {
    const Group& sums = group(instruction.group);
    const std::string name = cat({"g", std::to_string(instruction.group)});
    if (sums.features == 1) {
      line(name + " = " + number_of(0.0) + ";");
    } else {
      line(for_loop("f", std::to_string(sums.features)) + " " + name + "[f] = " + number_of(0.0) +
           ";");
    }
  }
  std::vector<Odd> odds;
  for (std::int32_t i = 0; i < instruction.features; ++i) {
    const Outer& each = program_.outers[static_cast<std::size_t>(instruction.row + i)];
    if (is_row_of_stage(each, group(each.b.group))) {
      Odd odd{each.group, each.index, each.a, each.b, each.b.stage};
      for (std::int32_t n = 0; n < each.n; ++n, ++odd.index, ++odd.b.index) odds.push_back(odd);
      continue;
    }
    const std::int32_t last = each.index + (each.m - 1) * each.m_step + each.n - 1;
    const std::string to = each.group < 0 ? "dp" : cat({"g", std::to_string(each.group)});
    comment(cat({to, "[", std::to_string(each.index), " ... ", std::to_string(last),
                 "]: ", std::to_string(each.m), " x ", std::to_string(each.n), ", ", about(each.a),
                 " times ", about(each.b), ", summed over positions"}));
    outer(each);
  }
  const auto first = program_.odds.begin() + instruction.slot;
  odds.insert(odds.end(), first, first + instruction.outer);
  if (!odds.empty()) {
    line("/* products at single positions */");
    compressed({odds_of(odds)});
  }
}

void Writer::list(const std::vector<Instruction>& instructions) {
  const auto nested = [](const Instruction& each) {
    return each.op == Op::sum || each.op == Op::map || each.op == Op::largest;
  };
  for (std::size_t i = 0; i < instructions.size();) {
    const Instruction& head = instructions[i];
    if (head.op == Op::outer) {
      outers(head);
      ++i;
      continue;
    }
    comment(about(head));
    if (!nested(head)) {
      if (head.op == Op::cross) {
        for (const CrossPart& part : head.parts) {
          compressed(positions_of(group(head.group), head.group, part, head.from_zero));
        }
      } else {
        compressed(moves_of(head));
      }
      ++i;
      continue;
    }
    // What one group is made of, position by position: its members do not read each other.
    std::vector<Position> all;
    for (;
         i < instructions.size() && nested(instructions[i]) && instructions[i].group == head.group;
         ++i) {
      for (Position& position : positions_of(program_, instructions[i])) {
        const auto found = std::find_if(
            all.begin(), all.end(), [&](const Position& at) { return at.stage == position.stage; });
        if (found == all.end()) {
          all.push_back(std::move(position));
        } else {
          found->nests.push_back(std::move(position.nests.front()));
        }
      }
    }
    positions(all);
  }
}

}  // namespace nanochat::program::c

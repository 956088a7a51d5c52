// Merges nests that are alike into loops: neighbors in the list of one position, then positions.
// Every step is checked against the numbers it replaces, so a loop enumerates exactly the nests it
// was built from, in their order.
#include "scalar/program/c_text/nests.hpp"

#include <algorithm>
#include <functional>
#include <optional>

namespace nanochat::program::c {
namespace {

bool same_form(const Operand<std::int32_t>& x, const Operand<std::int32_t>& y) {
  return x.kind == y.kind && x.group == y.group && x.stride == y.stride;
}

bool same_form(const FixedNest& x, const FixedNest& y) {
  if (x.body != y.body || x.kind != y.kind || x.constant != y.constant ||
      x.accumulate != y.accumulate || x.from_zero != y.from_zero || !same_form(x.dst, y.dst)) {
    return false;
  }
  return std::equal(x.products.begin(), x.products.end(), y.products.begin(), y.products.end(),
                    [](const auto& s, const auto& t) {
                      return s.ends == t.ends && same_form(s.a, t.a) && same_form(s.b, t.b);
                    });
}

template <class NestType, class Visit>
void visit_linears(NestType& nest, Visit&& visit) {
  const auto operand = [&](auto& each) {
    visit(each.position);
    visit(each.index);
    visit(each.slot);
  };
  visit(nest.needs);
  operand(nest.dst);
  for (auto& run : nest.products) {
    operand(run.a);
    operand(run.b);
  }
}

std::vector<std::int32_t> bases(const FixedNest& nest) {
  std::vector<std::int32_t> result;
  visit_linears(nest, [&](const auto& each) { result.push_back(each.base); });
  return result;
}

// All numbers except the bases.
std::vector<std::int32_t> frame(const FixedNest& nest) {
  std::vector<std::int32_t> result = nest.counts;
  visit_linears(nest, [&](const auto& each) {
    result.insert(result.end(), each.step.begin(), each.step.end());
    result.push_back(each.k_step);
  });
  for (const auto& run : nest.products) result.push_back(run.count);
  return result;
}

// Inserts a loop of `count` iterations in front of loop `at`.
void insert_loop(FixedNest& nest, std::size_t at, std::int32_t count,
                 const std::vector<std::int32_t>& steps) {
  const auto offset = static_cast<std::ptrdiff_t>(at);
  nest.counts.insert(nest.counts.begin() + offset, count);
  std::size_t i = 0;
  visit_linears(nest, [&](auto& each) {
    each.step.insert(each.step.begin() + offset, steps.empty() ? 0 : steps[i]);
    ++i;
  });
}

struct Shape {
  std::vector<std::int32_t> bases, frame;
};

std::vector<std::int32_t> difference(const Shape& from, const Shape& to) {
  std::vector<std::int32_t> steps = to.bases;
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] -= from.bases[i];
  return steps;
}

// The number of nests from `at` on that are one step apart from each other.
std::size_t run_length(const std::vector<FixedNest>& list, const std::vector<Shape>& shapes,
                       std::size_t at) {
  const auto alike = [&](std::size_t i) {
    return i < list.size() && shapes[i].frame == shapes[at].frame && same_form(list[i], list[at]);
  };
  if (!alike(at + 1)) return 1;
  const std::vector<std::int32_t> steps = difference(shapes[at], shapes[at + 1]);
  std::size_t end = at + 2;
  while (alike(end) && difference(shapes[end - 1], shapes[end]) == steps) ++end;
  return end - at;
}

using Values = std::vector<std::optional<std::int32_t>>;

Values values_of(const FixedNest& nest) {
  Values values;
  visit_numbers(nest, [&](std::int32_t value, bool matters) {
    values.push_back(matters ? std::optional(value) : std::nullopt);
  });
  return values;
}

// A straight line through numbers at positions, defined by the first two that matter.
class Line {
 public:
  bool fits(std::int32_t t, std::int32_t value) const {
    if (!first_) return true;
    if (slope_) return value == at_ + *slope_ * (t - *first_);
    return (value - at_) % (t - *first_) == 0;
  }
  void add(std::int32_t t, std::int32_t value) {
    if (!first_) {
      first_ = t;
      at_ = value;
    } else if (!slope_) {
      slope_ = (value - at_) / (t - *first_);
    }
  }
  VaryingInt number() const {
    const std::int32_t slope = slope_.value_or(0);
    return {at_ - slope * first_.value_or(0), slope};
  }

 private:
  std::optional<std::int32_t> first_, slope_;
  std::int32_t at_ = 0;
};

bool add_values(std::vector<Line>& lines, std::int32_t t, const Values& values) {
  if (lines.empty()) lines.resize(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] && !lines[i].fits(t, *values[i])) return false;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i]) lines[i].add(t, *values[i]);
  }
  return true;
}

// Inserts loops of one iteration, in every possible way, until the nest fits.
bool add_deepened(std::vector<Line>& lines, std::int32_t t, const FixedNest& nest,
                  std::size_t depth, std::size_t from = 0) {
  if (nest.counts.size() == depth) return add_values(lines, t, values_of(nest));
  for (std::size_t at = from; at <= nest.counts.size(); ++at) {
    FixedNest deeper = nest;
    insert_loop(deeper, at, 1, {});
    if (add_deepened(lines, t, deeper, depth, at + 1)) return true;
  }
  return false;
}

template <class N>
Linear<VaryingInt> widened(const Linear<N>& from) {
  return {{}, std::vector<VaryingInt>(from.step.size()), {}};
}

Operand<VaryingInt> widened(const Operand<std::int32_t>& from) {
  return {from.kind,           from.group,        from.stride, widened(from.position),
          widened(from.index), widened(from.slot)};
}

VaryingNest widened(const FixedNest& from) {
  VaryingNest nest{
      from.body,           from.kind,         from.constant,
      from.accumulate,     from.from_zero,    std::vector<VaryingInt>(from.counts.size()),
      widened(from.needs), widened(from.dst), {}};
  for (const auto& run : from.products) {
    nest.products.push_back({{}, widened(run.a), widened(run.b), run.ends});
  }
  return nest;
}

// Nest number `nth` of the positions [begin, end) as one nest of numbers in t.
std::optional<VaryingNest> fit(const std::vector<PositionNests>& positions, std::size_t begin,
                               std::size_t end, std::size_t nth) {
  const FixedNest* deepest = &positions[begin].nests[nth];
  for (std::size_t i = begin; i < end; ++i) {
    const FixedNest& nest = positions[i].nests[nth];
    if (!same_form(nest, *deepest)) return std::nullopt;
    if (nest.counts.size() > deepest->counts.size()) deepest = &nest;
  }
  const std::size_t depth = deepest->counts.size();
  std::vector<Line> lines;
  for (const bool deep : {true, false}) {
    for (std::size_t i = begin; i < end; ++i) {
      const FixedNest& nest = positions[i].nests[nth];
      if ((nest.counts.size() == depth) == deep &&
          !add_deepened(lines, positions[i].position, nest, depth)) {
        return std::nullopt;
      }
    }
  }
  VaryingNest result = widened(*deepest);
  std::size_t i = 0;
  visit_numbers(result, [&](VaryingInt& number, bool) { number = lines[i++].number(); });
  return result;
}

std::optional<Loop> loop_of(const std::vector<PositionNests>& positions, std::size_t begin,
                            std::size_t end) {
  Loop loop{positions[begin].position, positions[end - 1].position, {}};
  for (std::size_t nth = 0; nth < positions[begin].nests.size(); ++nth) {
    std::optional<VaryingNest> nest = fit(positions, begin, end, nth);
    if (!nest) return std::nullopt;
    loop.nests.push_back(std::move(*nest));
  }
  return loop;
}

}  // namespace

std::vector<FixedNest> compress(std::vector<FixedNest> list) {
  for (;;) {
    std::vector<Shape> shapes;
    for (const FixedNest& nest : list) shapes.push_back({bases(nest), frame(nest)});
    std::vector<FixedNest> shorter;
    for (std::size_t at = 0; at < list.size();) {
      std::size_t count = run_length(list, shapes, at);
      // The second nest of a pair may be the beginning of a longer run.
      if (count == 2 && run_length(list, shapes, at + 1) > 2) count = 1;
      shorter.push_back(list[at]);
      if (count > 1) {
        insert_loop(shorter.back(), 0, static_cast<std::int32_t>(count),
                    difference(shapes[at], shapes[at + 1]));
      }
      at += count;
    }
    if (shorter.size() == list.size()) return list;
    list = std::move(shorter);
  }
}

std::vector<Loop> loops_of(const std::vector<PositionNests>& positions) {
  std::vector<Loop> loops;
  for (std::size_t begin = 0; begin < positions.size();) {
    std::size_t most = begin + 1;
    const auto neighbour = [&](std::size_t i) {
      return i < positions.size() && positions[i].nests.size() == positions[begin].nests.size();
    };
    if (neighbour(most)) {
      const std::int32_t step = positions[most].position - positions[begin].position;
      while ((step == 1 || step == -1) && neighbour(most) &&
             positions[most].position == positions[most - 1].position + step) {
        ++most;
      }
    }
    std::size_t end = most;
    std::optional<Loop> loop;
    while (!(loop = loop_of(positions, begin, end))) --end;
    // Any two positions are on a line, so a loop over two of more positions is not worth it.
    if (end == begin + 2 && end < most) loop = loop_of(positions, begin, --end);
    loops.push_back(std::move(*loop));
    begin = end;
  }
  return loops;
}

std::vector<Table> tables_of(const std::vector<PositionNests>& positions) {
  std::vector<const FixedNest*> all;
  for (const PositionNests& position : positions) {
    for (const FixedNest& nest : position.nests) all.push_back(&nest);
  }
  std::vector<Table> tables;
  for (std::size_t begin = 0; begin < all.size();) {
    std::vector<std::vector<std::int32_t>> rows;
    std::size_t end = begin;
    for (; end < all.size() && same_form(*all[end], *all[begin]) &&
           all[end]->counts.size() == all[begin]->counts.size();
         ++end) {
      rows.emplace_back();
      visit_numbers(*all[end], [&](std::int32_t value, bool matters) {
        rows.back().push_back(matters ? value : 0);
      });
    }
    Table table{widened(*all[begin]), std::vector<std::vector<std::int32_t>>(rows.size())};
    std::size_t i = 0;
    visit_numbers(table.nest, [&](VaryingInt& number, bool) {
      number.base = rows.front()[i];
      const bool varies = std::any_of(rows.begin(), rows.end(),
                                      [&](const auto& row) { return row[i] != number.base; });
      if (varies) {
        number.column = static_cast<std::int32_t>(table.rows.front().size());
        for (std::size_t r = 0; r < rows.size(); ++r) table.rows[r].push_back(rows[r][i]);
      }
      ++i;
    });
    tables.push_back(std::move(table));
    begin = end;
  }
  return tables;
}

}  // namespace nanochat::program::c

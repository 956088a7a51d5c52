// Maps, sums, maxima and selections become nests of loops over the rows of their operands.
//
// Needs: the operands of each stage. Makes of a group, where it can, one instruction for its whole
// memory; else one for all stages where their nests are alike, else one a stage. A sum is split
// where the documents that still take part change, and where a matrix product can take over.
// Right because stages are taken together only when all their lists are equal and no row of one
// stage stands in them, and the parts of a sum add to it in the order of its products.
#include <algorithm>
#include <tuple>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

bool alike(const std::vector<Lists>& all) {
  return std::all_of(all.begin(), all.end(), [&](const Lists& lists) {
    return lists.start == all.front().start && lists.pairs == all.front().pairs;
  });
}

bool reads_rows(const std::vector<Lists>& all) {
  return std::all_of(all.begin(), all.end(), [](const Lists& lists) {
    return std::all_of(lists.pairs.begin(), lists.pairs.end(),
                       [](const Pair& pair) { return pair[0].space == Space::rows; });
  });
}

// Rows alone, some of them at other stages.
bool looks_elsewhere(const std::vector<Lists>& all) {
  bool elsewhere = false;
  for (const Lists& lists : all) {
    for (const Pair& pair : lists.pairs) {
      if (pair[0].space > Space::rows) return false;
      elsewhere = elsewhere || pair[0].stage != own || pair[1].stage != own;
    }
  }
  return elsewhere;
}

bool is_matrix_term(const Term& term, std::int32_t features) {
  return term.a.space > Space::rows && term.b.space == Space::rows &&
         (features == 1 || term.b.f_step == 0);
}

}  // namespace

bool Lowering::same_shape(std::int32_t other) const {
  const Group& x = group();
  const Group& y = program_.groups[static_cast<std::size_t>(other)];
  return x.begin == y.begin && x.end == y.end && x.features == y.features &&
         x.per_stage == y.per_stage;
}

// Is every operand row f of an array of the group's own shape, or one number for all? Then the
// whole memory is one row.
bool Lowering::is_whole(const std::vector<Lists>& all) const {
  const Lists& head = all.front();
  if (group().is_shared() || head.start.size() < 2) return false;
  const std::uint32_t terms = head.start[1];
  if (terms == 0 || terms > 4) return false;
  for (const Lists& lists : all) {
    for (std::size_t f = 0; f + 1 < lists.start.size(); ++f) {
      if (lists.start[f + 1] - lists.start[f] != terms) return false;
      for (std::uint32_t i = 0; i < terms; ++i) {
        for (const std::size_t side : {std::size_t{0}, std::size_t{1}}) {
          const Place& at = lists.pairs[lists.start[f] + i][side];
          const Place& first = head.pairs[i][side];
          if (at.space != first.space || at.group != first.group) return false;
          if (at.space == Space::rows) {
            if (at.stage != own || at.index != static_cast<std::int32_t>(f) ||
                !same_shape(at.group)) {
              return false;
            }
          } else if (at != first) {
            return false;
          }
        }
      }
    }
  }
  return true;
}

void Lowering::emit_whole(const Lists& head, Instruction instruction) {
  instruction.whole = true;
  for (std::uint32_t i = 0; i < head.start[1]; ++i) {
    const auto reference = [](const Place& at) {
      return Ref{at.space, at.group, own, at.space == Space::rows ? 0 : at.index};
    };
    instruction.terms.push_back({reference(head.pairs[i][0]), reference(head.pairs[i][1]), 1});
  }
  emit(std::move(instruction));
}

// A row of one stage, or of a ragged group, which lies in a block a stage, is no row through all
// stages.
bool Lowering::reads_blocks(const Lists& lists) const {
  const auto ragged = [&](const Place& at) {
    return at.space == Space::rows &&
           (at.stage != own || program_.groups[static_cast<std::size_t>(at.group)].ragged());
  };
  return std::any_of(lists.pairs.begin(), lists.pairs.end(),
                     [&](const Pair& pair) { return ragged(pair[0]) || ragged(pair[1]); });
}

// Calls visit(stage, lists) once with `own` when all stages are alike, else for each stage.
void Lowering::for_stages(const std::vector<Lists>& all,
                          const std::function<void(std::int32_t, const Lists&)>& visit) const {
  if (!group().ragged() && all.size() > 1 && alike(all) && !reads_blocks(all.front())) {
    visit(own, all.front());
    return;
  }
  for (std::size_t s = 0; s < all.size(); ++s) {
    if (all[s].features() > 0) visit(first_stage() + static_cast<std::int32_t>(s), all[s]);
  }
}

void Lowering::place_part(Instruction& part, std::int32_t stage, const Nest& nest) const {
  part.stage = group().is_shared() ? own : stage;
  part.row = nest.row;
  part.features = nest.features;
  part.outer = nest.outer;
}

void Lowering::lower_map() {
  Instruction map{};
  map.op = Op::map;
  map.kind = group().kind;
  map.constant = node(members().front()).value;
  const std::vector<Lists> all = all_lists();
  if (!group().is_shared() && !reads_rows(all)) {
    // A map reads rows: spread the numbers over the group's own, then map these in place.
    for_stages(all, [&](std::int32_t stage, const Lists& lists) {
      for (const Nest& nest : find_nests(lists)) emit_sum(stage, nest);
    });
    map.whole = true;
    map.terms.push_back({Ref{Space::rows, group_, own, 0}, Ref{}, 1});
    emit(std::move(map));
    return;
  }
  if (is_whole(all)) {
    emit_whole(all.front(), std::move(map));
    return;
  }
  for_stages(all, [&](std::int32_t stage, const Lists& lists) {
    for (Nest& nest : find_nests(lists)) {
      Instruction part = map;
      place_part(part, stage, nest);
      part.terms = std::move(nest.terms);
      emit(std::move(part));
    }
  });
}

// The operands of a maximum or a selection are consecutive rows (group_nodes.cpp saw to it).
void Lowering::lower_rows() {
  if (group().kind == Kind::select) {
    Instruction select{};
    select.op = Op::select;
    for (const Id id : members()) {
      const Node& each = node(id);
      const Place head = place(graph_.operands[each.first]);
      select.moves.push_back({each.stage, each.slot, head.index,
                              static_cast<std::int32_t>(each.count), grouping_.feature_of[id], 1,
                              head.group, false});
    }
    emit(std::move(select));
    return;
  }
  const std::vector<Lists> all = all_lists();
  for_stages(all, [&](std::int32_t stage, const Lists& lists) {
    for (Nest& nest : find_nests(lists)) {
      Instruction part{};
      part.op = Op::largest;
      place_part(part, stage, nest);
      part.terms = std::move(nest.terms);
      emit(std::move(part));
    }
  });
}

void Lowering::lower_sum() {
  const std::vector<Lists> all = all_lists();
  if (group().is_shared()) {
    lower_shared_sum(all.front());
    return;
  }
  if (is_whole(all)) {
    Instruction sum{};
    sum.op = Op::sum;
    sum.from_zero = node(members().front()).from_zero;
    emit_whole(all.front(), std::move(sum));
    return;
  }
  if (all.size() > 1 && looks_elsewhere(all)) {
    lower_cross(all);
    return;
  }
  for_stages(all, [&](std::int32_t stage, const Lists& lists) {
    for (const Nest& nest : find_nests(lists)) emit_sum(stage, nest);
  });
}

// One nest: split where the documents that still take part change, and where a matrix product
// can take over from the general sum.
void Lowering::emit_sum(std::int32_t stage, const Nest& nest) {
  constexpr std::int32_t enough = 4;
  const auto width_of = [&](const Term& term) {
    std::int32_t width = own;
    for (const Ref& ref : {term.a, term.b}) {
      if (ref.space == Space::rows && ref.stage > stage) width = std::max(width, ref.stage);
    }
    return stage == own ? own : width;
  };
  const auto key_of = [&](const Term& term) {
    const bool matrix = nest.outer == 1 && is_matrix_term(term, nest.features);
    return std::tuple(width_of(term), matrix, matrix ? term.a.f_step : 0);
  };
  const bool from_zero = node(members().front()).from_zero;
  std::vector<Instruction> parts;
  for (std::size_t at = 0; at < nest.terms.size();) {
    Instruction part{};
    part.op = Op::sum;
    part.from_zero = from_zero;
    const auto key = key_of(nest.terms[at]);
    part.width = std::get<0>(key);
    part.matrix = std::get<1>(key);
    std::int32_t products = 0;
    for (; at < nest.terms.size() && key_of(nest.terms[at]) == key; ++at) {
      part.terms.push_back(nest.terms[at]);
      products += nest.terms[at].k;
    }
    part.matrix = part.matrix && nest.features >= enough && products >= 2;
    // Two general sums for the same documents are one.
    if (!part.matrix && !parts.empty() && !parts.back().matrix &&
        parts.back().width == part.width) {
      parts.back().terms.insert(parts.back().terms.end(), part.terms.begin(), part.terms.end());
    } else {
      parts.push_back(std::move(part));
    }
  }
  bool written = false;
  if (parts.empty() || parts.front().width != own) {
    Instruction zero{};
    zero.op = Op::sum;
    zero.from_zero = from_zero;
    place_part(zero, stage, nest);
    emit(std::move(zero));
    written = true;
  }
  for (Instruction& part : parts) {
    place_part(part, stage, nest);
    part.accumulate = written;
    written = true;
    emit(std::move(part));
  }
}

}  // namespace nanochat::program

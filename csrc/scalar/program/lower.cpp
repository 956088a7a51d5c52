// From groups of nodes to instructions. Each group becomes the nests of loops that its members'
// operands form; which operand stands where is read from the graph, so every number is computed
// from what the graph says. In `fast` the products of a sum are sorted, so that the gradients that
// come from one array follow each other.
#include "scalar/program/lower.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <tuple>
#include <unordered_map>

namespace nanochat::program {
namespace {

constexpr std::int32_t all_tokens = std::numeric_limits<std::int32_t>::max();

class Lowering {
 public:
  Lowering(Graph& graph, Numerics numerics)
      : graph_(graph), grouping_(group_nodes(graph)), exact_(numerics == Numerics::exact) {
    program_.numerics = numerics;
    program_.stages = static_cast<std::int32_t>(graph.outputs.size());
    program_.parameters = graph.parameters;
    program_.groups = grouping_.groups;
    program_.ordered = graph.ordered;
    for (const Node& node : graph.nodes) {
      if (node.kind == Kind::input) program_.inputs = std::max(program_.inputs, node.slot + 1);
      const bool gathers = node.kind == Kind::gather, selects = node.kind == Kind::select;
      if (!gathers && !selects) continue;
      program_.slots = std::max(program_.slots, node.slot + 1);
      program_.limits.resize(static_cast<std::size_t>(program_.slots), all_tokens);
      std::int32_t& limit = program_.limits[static_cast<std::size_t>(node.slot)];
      limit = std::min(limit, gathers ? node.rows : static_cast<std::int32_t>(node.count));
    }
  }

  VectorProgram run() {
    mark_forward();
    for (std::size_t g = 0; g < grouping_.groups.size(); ++g) {
      group_ = static_cast<std::int32_t>(g);
      if (!is_parameter_gradient_[grouping_.members[g].front()]) lower_group();
    }
    lower_parameter_gradients();
    lower_scatter();
    for (const Id id : graph_.outputs) program_.outputs.push_back(visible(id));
    for (const Id id : graph_.watched) program_.watched.push_back(visible(id));
    return std::move(program_);
  }

 private:
  const Node& node(Id id) const { return graph_.nodes[id]; }
  const Group& group() const { return program_.groups[static_cast<std::size_t>(group_)]; }
  const std::vector<Id>& members() const {
    return grouping_.members[static_cast<std::size_t>(group_)];
  }
  std::uint32_t start(std::int32_t stage) const {
    return grouping_
        .starts[static_cast<std::size_t>(group_)][static_cast<std::size_t>(stage - group().begin)];
  }
  // Stages that have members, as [begin, end); a shared group has one, named `shared`.
  std::int32_t first_stage() const { return group().begin; }
  std::int32_t last_stage() const { return group().is_shared() ? shared : group().end - 1; }

  void mark_forward() {
    std::vector<char> needed(graph_.nodes.size(), 0);
    for (const Id id : graph_.outputs) needed[id] = 1;
    for (const Id id : graph_.watched) needed[id] = 1;
    is_parameter_gradient_.assign(graph_.nodes.size(), 0);
    for (const Id id : graph_.parameter_gradients) {
      const bool own_sum = id != none && node(id).kind == Kind::sum && node(id).stage == shared;
      if (own_sum) is_parameter_gradient_[id] = 1;
    }
    is_forward_.assign(grouping_.groups.size(), 0);
    for (Id id = static_cast<Id>(graph_.nodes.size()); id-- > 0;) {
      if (!needed[id]) {
        graph_.for_operands(id, [&](Id& operand) {
          if (is_parameter_gradient_[operand]) is_parameter_gradient_[operand] = 0;
        });
        continue;
      }
      graph_.for_operands(id, [&](Id& operand) { needed[operand] = 1; });
      if (grouping_.group_of[id] >= 0) {
        is_forward_[static_cast<std::size_t>(grouping_.group_of[id])] = 1;
      }
    }
    // A group whose members are only partly gradients of parameters is stored like any other.
    for (const std::vector<Id>& ids : grouping_.members) {
      const bool all = std::all_of(ids.begin(), ids.end(),
                                   [&](Id id) { return is_parameter_gradient_[id] != 0; });
      if (!all) {
        for (const Id id : ids) is_parameter_gradient_[id] = 0;
      }
    }
  }

  Instruction& emit(Instruction instruction) {
    instruction.group = group_;
    auto& list =
        is_forward_[static_cast<std::size_t>(group_)] ? program_.forward : program_.backward;
    list.push_back(std::move(instruction));
    return list.back();
  }

  Place place(Id id) {
    if (id >= one) return {};
    const Node& factor = node(id);
    if (factor.kind == Kind::parameter) return {Space::parameter, 0, own, factor.index};
    if (factor.kind == Kind::constant) return {Space::constant, 0, own, constant(factor.value)};
    const std::int32_t g = grouping_.group_of[id], f = grouping_.feature_of[id];
    if (factor.stage == shared) return {Space::number, g, own, f};
    return {Space::rows, g, factor.stage, f};
  }

  std::int32_t constant(double value) {
    const auto [found, fresh] = constants_.try_emplace(
        std::bit_cast<std::uint64_t>(value), static_cast<std::int32_t>(program_.constants.size()));
    if (fresh) program_.constants.push_back(value);
    return found->second;
  }

  Ref visible(Id id) {
    const Place at = place(id);
    return {at.space, at.group, at.stage, at.index};
  }

  void lower_group() {
    switch (group().kind) {
      case Kind::constant:
      case Kind::parameter:
        break;
      case Kind::gather:
      case Kind::input:
      case Kind::seed:
      case Kind::one_hot:
      case Kind::not_one_hot:
        lower_leaf();
        break;
      case Kind::sum:
        lower_sum();
        break;
      case Kind::largest:
      case Kind::select:
        lower_rows();
        break;
      default:
        lower_map();
        break;
    }
  }

  // One move for each run of features that follow each other.
  void lower_leaf() {
    Instruction leaf{};
    const Kind kind = group().kind;
    leaf.op = kind == Kind::gather  ? Op::gather
              : kind == Kind::input ? Op::input
              : kind == Kind::seed  ? Op::seed
                                    : Op::one_hot;
    leaf.negated = kind == Kind::not_one_hot;
    for (const Id id : members()) {
      const Node& each = node(id);
      // An input is named by its slot, everything else by slot and index.
      const std::int32_t index = kind == Kind::input ? each.slot : each.index;
      const std::int32_t slot = kind == Kind::input ? -1 : each.slot;
      append(leaf.moves,
             {each.stage, slot, index, each.stride, grouping_.feature_of[id], 1, group_, false});
    }
    emit(std::move(leaf));
  }

  static void append(std::vector<Move>& moves, const Move& next) {
    if (!moves.empty()) {
      Move& last = moves.back();
      if (last.stage == next.stage && last.slot == next.slot && last.stride == next.stride &&
          last.group == next.group && last.constant == next.constant &&
          next.index == last.index + last.count && next.row == last.row + last.count) {
        last.count += next.count;
        return;
      }
    }
    moves.push_back(next);
  }

  // Operands of one stage, in place of `own` where they stand at the member's own stage.
  Lists lists_of(std::int32_t stage) {
    Lists lists;
    const std::uint32_t end =
        group().is_shared() ? static_cast<std::uint32_t>(members().size()) : start(stage + 1);
    std::size_t pairs = 0;
    for (std::uint32_t at = start(stage); at < end; ++at) {
      const Node& each = node(members()[at]);
      pairs += is_unary(each.kind) ? 1 : each.count;
    }
    lists.pairs.reserve(pairs);
    lists.start.reserve(end - start(stage) + 1);
    for (std::uint32_t at = start(stage); at < end; ++at) {
      const Node& each = node(members()[at]);
      if (each.kind == Kind::sum) {
        for (std::uint32_t i = 0; i < each.count; ++i) {
          const Product& product = graph_.products[each.first + i];
          Pair pair{relative(place(product.a), stage), relative(place(product.b), stage)};
          number_first(pair);
          lists.pairs.push_back(pair);
        }
        if (!exact_ && each.count > 1) sort_products(lists, stage);
      } else if (is_unary(each.kind)) {
        lists.pairs.push_back({relative(place(each.first), stage), Place{}});
      } else {
        for (std::uint32_t i = 0; i < each.count; ++i) {
          lists.pairs.push_back({relative(place(graph_.operands[each.first + i]), stage), Place{}});
        }
      }
      lists.start.push_back(static_cast<std::uint32_t>(lists.pairs.size()));
    }
    return lists;
  }

  // A number for all lanes stands before a row.
  static void number_first(Pair& pair) {
    if (pair[0].space == Space::rows && pair[1].space > Space::rows) std::swap(pair[0], pair[1]);
  }

  static void sort_products(Lists& lists, std::int32_t here) {
    // By absolute stage, so that what runs through the stages is one run.
    const auto stage = [here](const Place& at) { return at.stage == own ? here : at.stage; };
    const auto key = [&](const Pair& pair) {
      return std::tuple(pair[0].space, pair[0].group, pair[1].space, pair[1].group, stage(pair[0]),
                        stage(pair[1]), pair[0].index, pair[1].index);
    };
    const auto begin = lists.pairs.begin() + lists.start.back();
    const auto before = [&](const Pair& x, const Pair& y) { return key(x) < key(y); };
    if (!std::is_sorted(begin, lists.pairs.end(), before)) {
      std::stable_sort(begin, lists.pairs.end(), before);
    }
  }

  static Place relative(Place place, std::int32_t stage) {
    if (place.space == Space::rows && place.stage == stage) place.stage = own;
    return place;
  }

  // The operand lists of every stage, with parameters and constants that differ from stage to
  // stage (or constants from feature to feature) turned into rows that are filled beforehand.
  std::vector<Lists> all_lists() {
    std::vector<Lists> all;
    for (std::int32_t s = first_stage(); s <= last_stage(); ++s) all.push_back(lists_of(s));
    fill_varying(all);
    return all;
  }

  void fill_varying(std::vector<Lists>& all) {
    const auto varies = [&](std::uint32_t f, std::uint32_t i, std::size_t side) {
      const Place* head = nullptr;
      bool different = false;
      for (const Lists& lists : all) {
        if (f + 1 >= lists.start.size() || lists.start[f] + i >= lists.start[f + 1]) continue;
        const Place& at = lists.pairs[lists.start[f] + i][side];
        if (at.space != Space::parameter && at.space != Space::constant) return false;
        different = different || (head != nullptr && *head != at);
        head = &at;
      }
      return different;
    };
    Lists* longest = &all.front();
    for (Lists& lists : all) {
      if (lists.features() > longest->features()) longest = &lists;
    }
    // Constants that differ between features also go to rows: there is no row of constants.
    const bool one_stage = all.size() == 1;
    Instruction fill{};
    fill.op = Op::fill;
    std::vector<std::int32_t> rows(all.size(), 0);
    const auto fill_group = static_cast<std::int32_t>(program_.groups.size());
    for (std::uint32_t f = 0; f + 1 < longest->start.size() && !one_stage; ++f) {
      const std::uint32_t count = longest->start[f + 1] - longest->start[f];
      for (std::uint32_t i = 0; i < count; ++i) {
        for (const std::size_t side : {std::size_t{0}, std::size_t{1}}) {
          if (!varies(f, i, side)) continue;
          for (std::size_t s = 0; s < all.size(); ++s) {
            Lists& lists = all[s];
            if (f + 1 >= lists.start.size() || lists.start[f] + i >= lists.start[f + 1]) continue;
            Place& at = lists.pairs[lists.start[f] + i][side];
            const std::int32_t stage = first_stage() + static_cast<std::int32_t>(s);
            fill.moves.push_back(
                {stage, -1, at.index, 0, rows[s], 1, fill_group, at.space == Space::constant});
            at = {Space::rows, fill_group, own, rows[s]++};
          }
        }
      }
    }
    if (fill.moves.empty()) return;
    for (Lists& lists : all) {
      for (Pair& pair : lists.pairs) number_first(pair);
    }
    std::stable_sort(fill.moves.begin(), fill.moves.end(),
                     [](const Move& a, const Move& b) { return a.stage < b.stage; });
    std::vector<Move> merged;
    for (const Move& move : fill.moves) append(merged, move);
    fill.moves = std::move(merged);
    Group filled{Kind::constant, group().begin, group().end, 0, {}};
    filled.features = *std::max_element(rows.begin(), rows.end());
    if (std::any_of(rows.begin(), rows.end(),
                    [&](std::int32_t n) { return n != filled.features; })) {
      filled.per_stage = std::move(rows);
    }
    // In front of the group's own instructions, in the same list.
    const std::int32_t mine = group_;
    program_.groups.push_back(std::move(filled));
    is_forward_.push_back(is_forward_[static_cast<std::size_t>(mine)]);
    group_ = fill_group;
    emit(std::move(fill));
    group_ = mine;
  }

  static bool alike(const std::vector<Lists>& all) {
    return std::all_of(all.begin(), all.end(), [&](const Lists& lists) {
      return lists.start == all.front().start && lists.pairs == all.front().pairs;
    });
  }

  bool same_shape(std::int32_t other) const {
    const Group& x = group();
    const Group& y = program_.groups[static_cast<std::size_t>(other)];
    return x.begin == y.begin && x.end == y.end && x.features == y.features &&
           x.per_stage == y.per_stage;
  }

  // Is every operand row f of an array of the group's own shape, or one number for all? Then the
  // whole memory is one row.
  bool is_whole(const std::vector<Lists>& all) const {
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

  void emit_whole(const Lists& head, Instruction instruction) {
    instruction.whole = true;
    for (std::uint32_t i = 0; i < head.start[1]; ++i) {
      const auto reference = [](const Place& at) {
        return Ref{at.space, at.group, own, at.space == Space::rows ? 0 : at.index};
      };
      instruction.terms.push_back({reference(head.pairs[i][0]), reference(head.pairs[i][1]), 1});
    }
    emit(std::move(instruction));
  }

  static bool reads_rows(const std::vector<Lists>& all) {
    return std::all_of(all.begin(), all.end(), [](const Lists& lists) {
      return std::all_of(lists.pairs.begin(), lists.pairs.end(),
                         [](const Pair& pair) { return pair[0].space == Space::rows; });
    });
  }

  void lower_map() {
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
        set_nest(part, stage, nest);
        emit(std::move(part));
      }
    });
  }

  void set_nest(Instruction& part, std::int32_t stage, Nest& nest) const {
    part.stage = group().is_shared() ? own : stage;
    part.row = nest.row;
    part.features = nest.features;
    part.outer = nest.outer;
    part.terms = std::move(nest.terms);
  }

  // A row of one stage, or of a ragged group, which lies in a block a stage, is no row through all
  // stages.
  bool reads_blocks(const Lists& lists) const {
    const auto ragged = [&](const Place& at) {
      return at.space == Space::rows &&
             (at.stage != own || program_.groups[static_cast<std::size_t>(at.group)].ragged());
    };
    return std::any_of(lists.pairs.begin(), lists.pairs.end(),
                       [&](const Pair& pair) { return ragged(pair[0]) || ragged(pair[1]); });
  }

  // Calls visit(stage, lists) once with `own` when all stages are alike, else for each stage.
  template <class Visit>
  void for_stages(const std::vector<Lists>& all, Visit&& visit) {
    if (!group().ragged() && all.size() > 1 && alike(all) && !reads_blocks(all.front())) {
      visit(own, all.front());
      return;
    }
    for (std::size_t s = 0; s < all.size(); ++s) {
      if (all[s].features() > 0) visit(first_stage() + static_cast<std::int32_t>(s), all[s]);
    }
  }

  // The operands of a maximum or a selection are consecutive rows (group_nodes.cpp saw to it).
  void lower_rows() {
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
        set_nest(part, stage, nest);
        emit(std::move(part));
      }
    });
  }

  void lower_sum() {
    const std::vector<Lists> all = all_lists();
    if (group().is_shared()) {
      lower_shared_sum(all.front());
      return;
    }
    if (is_whole(all)) {
      Instruction sum{};
      sum.op = Op::sum;
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

  // Rows alone, some of them at other stages.
  static bool looks_elsewhere(const std::vector<Lists>& all) {
    bool elsewhere = false;
    for (const Lists& lists : all) {
      for (const Pair& pair : lists.pairs) {
        if (pair[0].space > Space::rows) return false;
        elsewhere = elsewhere || pair[0].stage != own || pair[1].stage != own;
      }
    }
    return elsewhere;
  }

  static bool is_matrix_term(const Term& term, std::int32_t features) {
    return term.a.space > Space::rows && term.b.space == Space::rows &&
           (features == 1 || term.b.f_step == 0);
  }

  // One nest: split where the documents that still take part change, and where a matrix product
  // can take over from the general sum.
  void emit_sum(std::int32_t stage, const Nest& nest) {
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
    std::vector<Instruction> parts;
    for (std::size_t at = 0; at < nest.terms.size();) {
      Instruction part{};
      part.op = Op::sum;
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

  void place_part(Instruction& part, std::int32_t stage, const Nest& nest) const {
    part.stage = group().is_shared() ? own : stage;
    part.row = nest.row;
    part.features = nest.features;
    part.outer = nest.outer;
  }

  // Attention: each destination is a run of products whose stages and rows advance by steps.
  void lower_cross(const std::vector<Lists>& all) {
    Instruction cross{};
    cross.op = Op::cross;
    const auto stages = static_cast<std::size_t>(group().end - group().begin);
    const auto part_of = [&](std::size_t nth, std::int32_t a, std::int32_t b, std::size_t stage) {
      for (std::size_t i = nth; i < cross.parts.size(); ++i) {
        const CrossPart& part = cross.parts[i];
        if (part.a_group == a && part.b_group == b && part.begin.size() <= stage + 1) return i;
      }
      cross.parts.push_back({a, b, true, {}, {}});
      return cross.parts.size() - 1;
    };
    for (std::size_t s = 0; s < all.size(); ++s) {
      const Lists& lists = all[s];
      const std::int32_t here = group().begin + static_cast<std::int32_t>(s);
      const auto stage_of = [&](const Place& at) { return at.stage == own ? here : at.stage; };
      for (std::int32_t f = 0; f < lists.features(); ++f) {
        std::size_t nth = 0;
        const auto end = lists.start[static_cast<std::size_t>(f) + 1];
        for (std::uint32_t i = lists.start[static_cast<std::size_t>(f)]; i < end;) {
          const Pair& head = lists.pairs[i];
          const auto group_at = [](const Place& at) {
            return at.space == Space::rows ? at.group : -1;
          };
          Run run{
              f, 1, 1, head[0].index, 0, stage_of(head[0]), 0, head[1].index, 0, stage_of(head[1]),
              0};
          const auto fits = [&](const Pair& next, std::int32_t k) {
            return group_at(next[0]) == group_at(head[0]) &&
                   group_at(next[1]) == group_at(head[1]) &&
                   next[0].index == run.fa + k * run.dfa && next[1].index == run.fb + k * run.dfb &&
                   stage_of(next[0]) == run.ta + k * run.dta &&
                   stage_of(next[1]) == run.tb + k * run.dtb;
          };
          std::uint32_t next = i + 1;
          if (next < end) {
            const Pair& second = lists.pairs[next];
            run.dfa = second[0].index - run.fa;
            run.dfb = second[1].index - run.fb;
            run.dta = stage_of(second[0]) - run.ta;
            run.dtb = stage_of(second[1]) - run.tb;
            while (next < end && fits(lists.pairs[next], run.k)) {
              ++run.k;
              ++next;
            }
            if (run.k == 1) run.dfa = run.dfb = run.dta = run.dtb = 0;
          }
          i = next;
          const std::size_t at = part_of(nth, group_at(head[0]), group_at(head[1]), s);
          nth = at + 1;
          CrossPart& part = cross.parts[at];
          while (part.begin.size() <= s) {
            part.begin.push_back(static_cast<std::uint32_t>(part.runs.size()));
          }
          part.runs.push_back(run);
        }
      }
    }
    for (CrossPart& part : cross.parts) {
      while (part.begin.size() <= stages) {
        part.begin.push_back(static_cast<std::uint32_t>(part.runs.size()));
      }
    }
    for (CrossPart& part : cross.parts) share_factors(part);
    // The first part writes when it reaches every destination; else all add to zeros.
    std::size_t written = 0;
    for (const Run& run : cross.parts.front().runs) written += static_cast<std::size_t>(run.o);
    if (written == members().size()) {
      cross.parts.front().accumulate = false;
    } else {
      Instruction zero{};
      zero.op = Op::sum;
      zero.whole = true;
      emit(std::move(zero));
    }
    emit(std::move(cross));
  }

  // Numbers that all stages share: from each other as any sum, from rows as a sum over lanes.
  void lower_shared_sum(const Lists& lists) {
    bool staged = false;
    for (const Pair& pair : lists.pairs) {
      staged = staged || pair[0].space == Space::rows || pair[1].space == Space::rows;
    }
    if (!staged) {
      for (const Nest& nest : find_nests(lists)) emit_sum(own, nest);
      return;
    }
    std::vector<Reduction> reductions;
    for (std::int32_t f = 0; f < lists.features(); ++f) {
      const auto at = static_cast<std::size_t>(f);
      reductions.push_back(
          {group_,
           f,
           {lists.pairs.begin() + lists.start[at], lists.pairs.begin() + lists.start[at + 1]}});
    }
    reduce(reductions);
  }

  void reduce(const std::vector<Reduction>& reductions) {
    Instruction outer{};
    outer.op = Op::outer;
    outer.group = group_;
    outer.row = static_cast<std::int32_t>(program_.outers.size());
    outer.slot = static_cast<std::int32_t>(program_.odds.size());
    program_.ordered =
        lower_reductions(reductions, program_.groups, exact_, program_) && program_.ordered;
    outer.features = static_cast<std::int32_t>(program_.outers.size()) - outer.row;
    outer.outer = static_cast<std::int32_t>(program_.odds.size()) - outer.slot;
    program_.backward.push_back(std::move(outer));
  }

  void lower_parameter_gradients() {
    std::vector<Reduction> reductions;
    for (std::size_t i = 0; i < graph_.parameter_gradients.size(); ++i) {
      const Id id = graph_.parameter_gradients[i];
      if (id == none) continue;
      Reduction reduction{-1, static_cast<std::int32_t>(i), {}};
      if (is_parameter_gradient_[id]) {
        const Node& each = node(id);
        for (std::uint32_t j = 0; j < each.count; ++j) {
          const Product& product = graph_.products[each.first + j];
          add_pair(reduction, place(product.a), place(product.b));
        }
      } else {
        add_pair(reduction, place(id), Place{});
      }
      reductions.push_back(std::move(reduction));
    }
    group_ = -1;
    const std::size_t first = program_.outers.size();
    reduce(reductions);
    // An outer product may write where nothing has been written; the rest starts from zero.
    std::vector<char> covered(program_.parameters, 0);
    for (std::size_t i = first; i < program_.outers.size(); ++i) {
      Outer& outer = program_.outers[i];
      if (is_row_of_stage(outer, program_.groups[static_cast<std::size_t>(outer.b.group)])) {
        continue;  // a batch may have no document at this stage
      }
      bool fresh = true;
      const auto cells = [&](auto&& visit) {
        for (std::int32_t m = 0; m < outer.m; ++m) {
          for (std::int32_t n = 0; n < outer.n; ++n) {
            visit(covered[static_cast<std::size_t>(outer.index + m * outer.m_step + n)]);
          }
        }
      };
      cells([&](char& cell) { fresh = fresh && !cell; });
      outer.accumulate = !fresh;
      if (fresh) cells([](char& cell) { cell = 1; });
    }
    for (std::size_t i = 0; i < covered.size(); ++i) {
      if (covered[i]) continue;
      const auto at = static_cast<std::int32_t>(i);
      if (!program_.untouched.empty() && program_.untouched.back().end == at) {
        ++program_.untouched.back().end;
      } else {
        program_.untouched.push_back({at, at + 1});
      }
    }
  }

  // A row stands second, so that the first may be any number.
  static void add_pair(Reduction& reduction, Place a, Place b) {
    if (b.space != Space::rows) std::swap(a, b);
    reduction.pairs.push_back({a, b});
  }

  // microgpt.py adds to a row whenever a user of it is walked. A replay adds leaf by leaf, from the
  // last stage to the first: the same when each leaf has one user, stages fall in the order of the
  // walk, and nothing but tokens reaches the matrix.
  void check_scatter_order(const std::vector<Product>& pairs) {
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const Node &leaf = node(pairs[i].a), &gradient = node(pairs[i].b);
      const bool several = gradient.gradient && gradient.order == leaf.order && gradient.count > 1;
      const bool rises = i > 0 && leaf.stage > node(pairs[i - 1].a).stage;
      bool direct = false;
      const std::int32_t row = leaf.stride;
      for (std::int32_t at = leaf.index; at < leaf.index + row * leaf.rows; at += row) {
        direct = direct || graph_.parameter_gradients[static_cast<std::size_t>(at)] != none;
      }
      if (several || rises || direct) program_.ordered = false;
    }
  }

  void lower_scatter() {
    if (graph_.gather_gradients.empty()) return;
    Instruction scatter{};
    scatter.op = Op::scatter;
    std::vector<Product> pairs = graph_.gather_gradients;
    check_scatter_order(pairs);
    // Stage by stage in the order found, features of a stage side by side.
    std::stable_sort(pairs.begin(), pairs.end(), [&](const Product& x, const Product& y) {
      if (node(x.a).stage != node(y.a).stage) return node(x.a).stage > node(y.a).stage;
      return node(x.a).index < node(y.a).index;
    });
    for (const Product& pair : pairs) {
      const Node& leaf = node(pair.a);
      const Place from = place(pair.b);
      append(scatter.moves,
             {from.stage, leaf.slot, leaf.index, leaf.stride, from.index, 1, from.group, false});
    }
    program_.backward.push_back(std::move(scatter));
  }

  Graph& graph_;
  Grouping grouping_;
  bool exact_;
  VectorProgram program_;
  std::int32_t group_ = 0;
  std::vector<char> is_forward_;  // of each group
  std::vector<char> is_parameter_gradient_;
  std::unordered_map<std::uint64_t, std::int32_t> constants_;
};

}  // namespace

VectorProgram lower(Graph& graph, Numerics numerics) { return Lowering(graph, numerics).run(); }

}  // namespace nanochat::program

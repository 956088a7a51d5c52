// Gradients of parameters become outer products summed over lanes.
//
// Needs: for each destination its products, stages absolute. A factor pair that occurs once at
// every stage of its group is one product of two whole rows, summed over all lanes; a run of
// destinations whose rows follow each other is a matrix of them (Outer); neighbours that meet a row
// at one stage alone are a row of such a matrix. What does not fit is kept product by product
// (Odd). Right because each product is either in exactly one outer product or in one odd.
// microgpt.py adds from the last position to the first: a pair whose stages fall keeps that order
// at replay; a destination with several pairs is summed pair by pair, which is another order, and
// is reported.
#include <algorithm>
#include <map>
#include <tuple>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

using Key = std::tuple<Space, std::int32_t, std::int32_t, Space, std::int32_t, std::int32_t>;

struct Whole {
  std::int32_t group, index;  // destination
  Place a, b;
  bool descending;
};

Key key_of(const Pair& pair) {
  return {pair[0].space, pair[0].group, pair[0].index, pair[1].space, pair[1].group, pair[1].index};
}

class Splitter {
 public:
  Splitter(const std::vector<Group>& groups, VectorProgram& program)
      : groups_(groups), program_(program) {}

  // Rows over all stages by occurrence: the first whole pair of each destination, the second, ….
  std::vector<std::vector<Whole>> wholes;
  std::vector<Odd> alone;  // the only products of their destinations
  bool ordered = true;

  void split(const Reduction& reduction) {
    std::map<Key, std::vector<std::int32_t>> stages;  // of each pair, in the order of the products
    for (const Pair& pair : reduction.pairs) stages[key_of(pair)].push_back(stage_of(pair));
    std::size_t occurrence = 0;
    std::map<Key, bool> whole;
    for (const auto& [key, found] : stages) {
      whole[key] = covers(key, found);
      ordered = ordered && (!whole[key] || stages.size() == 1);
    }
    for (const Pair& pair : reduction.pairs) {
      const Key key = key_of(pair);
      const auto found = stages.find(key);
      if (found == stages.end()) continue;  // its first product stood for all
      if (!whole[key]) {
        const Odd odd{reduction.group, reduction.index, absolute(pair[0]), absolute(pair[1]),
                      stage_of(pair)};
        (reduction.pairs.size() == 1 ? alone : program_.odds).push_back(odd);
        continue;
      }
      const std::vector<std::int32_t>& order = found->second;
      const bool descending = order.size() > 1 && order.front() > order.back();
      ordered = ordered && (descending ? std::is_sorted(order.rbegin(), order.rend())
                                       : std::is_sorted(order.begin(), order.end()));
      if (occurrence == wholes.size()) wholes.emplace_back();
      wholes[occurrence++].push_back(
          {reduction.group, reduction.index, relative(pair[0]), relative(pair[1]), descending});
      stages.erase(found);
    }
  }

 private:
  static std::int32_t stage_of(const Pair& pair) {
    const std::int32_t a = pair[0].space == Space::rows ? pair[0].stage : shared;
    const std::int32_t b = pair[1].space == Space::rows ? pair[1].stage : shared;
    return std::max(a, b);
  }

  static Ref absolute(const Place& place) {
    return {place.space, place.group, place.space == Space::rows ? place.stage : own, place.index};
  }

  // Rows over all stages; of a group with one stage, rows at that stage.
  Place relative(Place place) const {
    if (place.space != Space::rows) return place;
    const Group& group = groups_[static_cast<std::size_t>(place.group)];
    place.stage = group.end == group.begin + 1 ? group.begin : own;
    return place;
  }

  // Each stage of the rows' group once, both factors at the same one? Or two groups of one stage
  // each, whatever their stages: the documents that reach the later one.
  bool covers(const Key& key, std::vector<std::int32_t> stages) const {
    const auto& [a_space, a_group, a_index, b_space, b_group, b_index] = key;
    if (b_space != Space::rows) return false;
    const Group& b = groups_[static_cast<std::size_t>(b_group)];
    if (b.ragged() || stages.size() != static_cast<std::size_t>(b.end - b.begin)) return false;
    if (a_space == Space::rows) {
      const Group& a = groups_[static_cast<std::size_t>(a_group)];
      const bool single = a.end == a.begin + 1 && b.end == b.begin + 1;
      if (a.ragged() || (!single && (a.begin != b.begin || a.end != b.end))) return false;
      if (single) return true;
    }
    std::sort(stages.begin(), stages.end());
    for (std::size_t i = 0; i < stages.size(); ++i) {
      if (stages[i] != b.begin + static_cast<std::int32_t>(i)) return false;
    }
    return true;
  }

  const std::vector<Group>& groups_;
  VectorProgram& program_;
};

Ref reference(const Place& place) { return {place.space, place.group, place.stage, place.index}; }

bool same_array(const Place& x, const Place& y) { return x.space == y.space && x.group == y.group; }

// One row of a matrix of gradients: neighbours whose moving factor is b.
Outer row_at(const std::vector<Whole>& list, std::size_t at) {
  const Whole& head = list[at];
  Outer row{head.group,        head.index,      0,   1, 1, reference(head.a),
            reference(head.b), head.descending, true};
  bool swapped = false;
  for (std::size_t i = at + 1; i < list.size(); ++i) {
    const Whole& next = list[i];
    const std::int32_t n = row.n;
    if (next.group != head.group || next.index != head.index + n ||
        next.descending != head.descending || !same_array(next.a, head.a) ||
        !same_array(next.b, head.b)) {
      break;
    }
    const bool b_moves = next.a.index == head.a.index && next.b.index == head.b.index + n;
    const bool a_moves = next.b.index == head.b.index && next.a.index == head.a.index + n &&
                         head.a.space == Space::rows;
    if (n == 1) swapped = a_moves && !b_moves;
    if (swapped ? !a_moves : !b_moves) break;
    ++row.n;
  }
  if (swapped) std::swap(row.a, row.b);
  return row;
}

void find_matrices(const std::vector<Whole>& list, VectorProgram& program) {
  for (std::size_t at = 0; at < list.size();) {
    Outer matrix = row_at(list, at);
    at += static_cast<std::size_t>(matrix.n);
    while (at < list.size()) {
      const Outer next = row_at(list, at);
      if (matrix.m == 1) {
        matrix.m_step = next.index - matrix.index;
        matrix.a.f_step = next.a.index - matrix.a.index;
      }
      Ref expected = matrix.a;
      expected.index += matrix.m * matrix.a.f_step;
      expected.f_step = 0;
      if (next.n != matrix.n || next.group != matrix.group || next.b != matrix.b ||
          next.a != expected || next.index != matrix.index + matrix.m * matrix.m_step ||
          next.descending != matrix.descending) {
        break;
      }
      at += static_cast<std::size_t>(next.n);
      ++matrix.m;
    }
    if (matrix.m == 1) matrix.m_step = matrix.a.f_step = 0;
    program.outers.push_back(matrix);
  }
}

// Neighbours that each are one product of a row at the same stage and the same other factor are a
// row of gradients, summed over the documents of that stage.
void find_rows_of_stages(const std::vector<Odd>& alone, VectorProgram& program) {
  constexpr std::int32_t enough = 4;
  for (std::size_t at = 0; at < alone.size();) {
    const Odd& head = alone[at];
    std::int32_t n = 1;
    const auto continues = [&](const Odd& next) {
      Ref expected = head.b;
      expected.index += n;
      return next.group == head.group && next.index == head.index + n && next.a == head.a &&
             next.b == expected && next.stage == head.stage;
    };
    while (at + static_cast<std::size_t>(n) < alone.size() &&
           continues(alone[at + static_cast<std::size_t>(n)])) {
      ++n;
    }
    const bool ragged =
        program.groups[static_cast<std::size_t>(head.b.group)].ragged() || head.stage == shared;
    if (n >= enough && head.b.space == Space::rows && head.a.space != Space::rows && !ragged) {
      program.outers.push_back({head.group, head.index, 0, 1, n, head.a, head.b, false, true});
    } else {
      program.odds.insert(program.odds.end(), alone.begin() + static_cast<std::ptrdiff_t>(at),
                          alone.begin() + static_cast<std::ptrdiff_t>(at) + n);
    }
    at += static_cast<std::size_t>(n);
  }
}

}  // namespace

bool lower_reductions(const std::vector<Reduction>& reductions, const std::vector<Group>& groups,
                      bool exact, VectorProgram& program) {
  Splitter splitter(groups, program);
  for (const Reduction& reduction : reductions) splitter.split(reduction);
  for (const std::vector<Whole>& list : splitter.wholes) find_matrices(list, program);
  find_rows_of_stages(splitter.alone, program);
  return !exact || splitter.ordered;
}

}  // namespace nanochat::program

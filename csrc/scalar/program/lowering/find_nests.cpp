// Lists of operands become nests of loops with constant steps: dot products, matrix–vector
// products and broadcasts are nests that the replay knows a fast way for.
//
// Needs: for each feature of a group at one stage, its products in order. Finds, greedily: runs of
// products whose two factors advance by constant steps (a term), runs of features with the same
// terms, each shifted by a constant step, and runs of such blocks. Right because a nest enumerates
// exactly the places it was built from: every step is checked, never assumed.
#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

Ref reference(const Place& place) { return {place.space, place.group, place.stage, place.index}; }

bool same_array(const Place& x, const Place& y) {
  return x.space == y.space && x.group == y.group && x.stage == y.stage;
}

bool same_array(const Ref& x, const Ref& y) {
  return x.space == y.space && x.group == y.group && x.stage == y.stage && x.k_step == y.k_step;
}

std::vector<Term> terms_of(const Pair* begin, const Pair* end) {
  std::vector<Term> terms;
  for (const Pair* at = begin; at != end;) {
    Term term{reference((*at)[0]), reference((*at)[1]), 1};
    const Pair* next = at + 1;
    if (next != end && same_array((*at)[0], (*next)[0]) && same_array((*at)[1], (*next)[1])) {
      term.a.k_step = (*next)[0].index - (*at)[0].index;
      term.b.k_step = (*next)[1].index - (*at)[1].index;
      while (next != end && same_array((*at)[0], (*next)[0]) && same_array((*at)[1], (*next)[1]) &&
             (*next)[0].index == term.a.index + term.k * term.a.k_step &&
             (*next)[1].index == term.b.index + term.k * term.b.k_step) {
        ++term.k;
        ++next;
      }
    }
    at = next;
    terms.push_back(term);
  }
  return terms;
}

// Can `next` stand `distance` repetitions after `head`? The first repetition sets the steps.
template <std::int32_t Ref::* step>
bool extend(std::vector<Term>& head, const std::vector<Term>& next, std::int32_t distance) {
  if (head.size() != next.size()) return false;
  for (std::size_t i = 0; i < head.size(); ++i) {
    if (head[i].k != next[i].k || !same_array(head[i].a, next[i].a) ||
        !same_array(head[i].b, next[i].b)) {
      return false;
    }
    if (distance > 1 && (next[i].a.index != head[i].a.index + distance * (head[i].a.*step) ||
                         next[i].b.index != head[i].b.index + distance * (head[i].b.*step))) {
      return false;
    }
  }
  if (distance == 1) {
    for (std::size_t i = 0; i < head.size(); ++i) {
      head[i].a.*step = next[i].a.index - head[i].a.index;
      head[i].b.*step = next[i].b.index - head[i].b.index;
    }
  }
  return true;
}

bool same_features(const Nest& x, const Nest& y) {
  if (x.features != y.features || x.terms.size() != y.terms.size()) return false;
  for (std::size_t i = 0; i < x.terms.size(); ++i) {
    if (x.terms[i].a.f_step != y.terms[i].a.f_step || x.terms[i].b.f_step != y.terms[i].b.f_step) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::vector<Nest> find_nests(const Lists& lists) {
  std::vector<Nest> blocks;
  for (std::int32_t f = 0; f < lists.features(); ++f) {
    const auto at = static_cast<std::size_t>(f);
    std::vector<Term> terms =
        terms_of(lists.pairs.data() + lists.start[at], lists.pairs.data() + lists.start[at + 1]);
    if (!blocks.empty() &&
        extend<&Ref::f_step>(blocks.back().terms, terms, f - blocks.back().row)) {
      ++blocks.back().features;
    } else {
      blocks.push_back({f, 1, 1, std::move(terms)});
    }
  }
  std::vector<Nest> nests;
  for (Nest& block : blocks) {
    if (!nests.empty() && same_features(nests.back(), block) &&
        extend<&Ref::o_step>(nests.back().terms, block.terms, nests.back().outer)) {
      ++nests.back().outer;
    } else {
      nests.push_back(std::move(block));
    }
  }
  return nests;
}

}  // namespace nanochat::program

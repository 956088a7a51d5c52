// Destinations of a cross sum that share their first factors become one run, so that a factor is
// loaded once for all of them.
//
// Needs: for each stage, runs of one destination each. Rewrites neighbours f, f + 1, … whose first
// factors are the same and whose second factors differ by a constant number of rows or of stages
// into one run of several destinations; where the second factors are what is shared, the two
// change places first. Right because a product does not depend on the order of its factors, and
// each destination keeps its own products in their order.
#include <utility>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

bool same_first(const Run& x, const Run& y) {
  return x.k == y.k && x.fa == y.fa && x.dfa == y.dfa && x.ta == y.ta && x.dta == y.dta;
}

// Does `next` continue `run`? Then it is taken in.
bool join(Run& run, const Run& next) {
  if (next.f != run.f + run.o || !same_first(run, next) || next.dfb != run.dfb ||
      next.dtb != run.dtb) {
    return false;
  }
  const std::int32_t rows = next.fb - run.fb;
  const std::int32_t stages = next.tb - run.tb;
  if (run.o == 1) {
    if (run.dtb != 0 && stages != 0) return false;
    run.ofb = rows;
    run.otb = stages;
  } else if (rows != run.o * run.ofb || stages != run.o * run.otb) {
    return false;
  }
  ++run.o;
  return true;
}

CrossPart joined(const CrossPart& part) {
  CrossPart shorter{part.a_group, part.b_group, part.accumulate, {}, {}};
  for (std::size_t s = 0; s + 1 < part.begin.size(); ++s) {
    const auto first = static_cast<std::uint32_t>(shorter.runs.size());
    shorter.begin.push_back(first);
    for (std::uint32_t r = part.begin[s]; r < part.begin[s + 1]; ++r) {
      if (shorter.runs.size() > first && join(shorter.runs.back(), part.runs[r])) continue;
      shorter.runs.push_back(part.runs[r]);
    }
  }
  shorter.begin.push_back(static_cast<std::uint32_t>(shorter.runs.size()));
  return shorter;
}

void swap_factors(CrossPart& part) {
  std::swap(part.a_group, part.b_group);
  for (Run& run : part.runs) {
    std::swap(run.fa, run.fb);
    std::swap(run.dfa, run.dfb);
    std::swap(run.ta, run.tb);
    std::swap(run.dta, run.dtb);
  }
}

}  // namespace

void share_factors(CrossPart& part) {
  CrossPart one_way = joined(part);
  swap_factors(part);
  CrossPart other_way = joined(part);
  const bool other = other_way.runs.size() < one_way.runs.size();
  part = std::move(other ? other_way : one_way);
}

std::vector<Run> separate(const Run& run) {
  std::vector<Run> runs;
  for (std::int32_t i = 0; i < run.o; ++i) {
    Run each = run;
    each.f += i;
    each.fb += i * run.ofb;
    each.tb += i * run.otb;
    each.o = 1;
    each.ofb = each.otb = 0;
    runs.push_back(each);
  }
  return runs;
}

}  // namespace nanochat::program

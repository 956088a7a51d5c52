// Destinations of a cross sum that share their first factors become one run, so a factor is loaded
// once for all of them.
//
// Needs: per position, runs of one destination each. Rewrites: neighbors f, f + 1, … whose first
// factors are equal and whose second factors differ by a constant number of rows or of positions
// into one run of several destinations. If the second factors are the shared ones, the two factors
// are swapped first. Correct because a product does not depend on the order of its factors, and
// each destination keeps its products in their order.
#include <utility>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

// Adds the destination of `next` to `run` if it continues the run.
bool join(CrossRun& run, const CrossRun& next) {
  if (next.row != run.row + run.rows || next.products != run.products || next.a != run.a ||
      next.b.row_step != run.b.row_step || next.b.position_step != run.b.position_step) {
    return false;
  }
  const std::int32_t rows = next.b.row - run.b.row;
  const std::int32_t positions = next.b.position - run.b.position;
  if (run.rows == 1) {
    if (run.b.position_step != 0 && positions != 0) return false;
    run.b_next_row = rows;
    run.b_next_position = positions;
  } else if (rows != run.rows * run.b_next_row || positions != run.rows * run.b_next_position) {
    return false;
  }
  ++run.rows;
  return true;
}

CrossPart joined(const CrossPart& part) {
  CrossPart shorter{part.a_group, part.b_group, part.accumulate, {}, {}};
  for (std::size_t p = 0; p + 1 < part.begin.size(); ++p) {
    const auto first = static_cast<std::uint32_t>(shorter.runs.size());
    shorter.begin.push_back(first);
    for (std::uint32_t r = part.begin[p]; r < part.begin[p + 1]; ++r) {
      if (shorter.runs.size() > first && join(shorter.runs.back(), part.runs[r])) continue;
      shorter.runs.push_back(part.runs[r]);
    }
  }
  shorter.begin.push_back(static_cast<std::uint32_t>(shorter.runs.size()));
  return shorter;
}

void swap_factors(CrossPart& part) {
  std::swap(part.a_group, part.b_group);
  for (CrossRun& run : part.runs) std::swap(run.a, run.b);
}

}  // namespace

void share_factors(CrossPart& part) {
  CrossPart as_given = joined(part);
  swap_factors(part);
  CrossPart swapped = joined(part);
  const bool swap = swapped.runs.size() < as_given.runs.size();
  part = std::move(swap ? swapped : as_given);
}

std::vector<CrossRun> separate(const CrossRun& run) {
  std::vector<CrossRun> runs;
  for (std::int32_t i = 0; i < run.rows; ++i) {
    CrossRun each = run;
    each.row += i;
    each.b.row += i * run.b_next_row;
    each.b.position += i * run.b_next_position;
    each.rows = 1;
    each.b_next_row = each.b_next_position = 0;
    runs.push_back(each);
  }
  return runs;
}

}  // namespace nanochat::program

// Destinations of a cross sum that share their first factors become one run, so a factor is loaded
// once for all of them.
//
// Needs: per position, runs of one destination each. Rewrites: neighbors f, f + 1, … whose first
// factors are equal and whose second factors differ by a constant number of rows or of positions
// into one run of several destinations. If the second factors are the shared ones, the two factors
// are swapped first. Runs that differ only in their rows, by constant numbers, become one repeated
// run. Correct because a product does not depend on the order of its factors, and each destination
// keeps its products in their order.
#include <utility>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

// Adds the destination of `next` to `run` if it continues the run.
bool join_destinations(CrossRun& run, const CrossRun& next) {
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

// Adds `next` to the repeats of `run` if it continues them.
bool join_repeats(CrossRun& run, const CrossRun& next) {
  const auto same_positions = [](const CrossOperand& x, const CrossOperand& y) {
    return x.position == y.position && x.position_step == y.position_step;
  };
  if (next.rows != run.rows || next.products != run.products || !same_positions(next.a, run.a) ||
      !same_positions(next.b, run.b) || next.b_next_row != run.b_next_row ||
      next.b_next_position != run.b_next_position) {
    return false;
  }
  const CrossRun last = repeat(run, run.repeats - 1);
  const CrossRun::Next steps{next.row - last.row, next.a.row - last.a.row,
                             next.a.row_step - last.a.row_step, next.b.row - last.b.row,
                             next.b.row_step - last.b.row_step};
  if (run.repeats == 1) run.next = steps;
  if (run.next != steps) return false;
  ++run.repeats;
  return true;
}

// The part with each run that `join` accepts joined to the one before it.
template <class Join>
CrossPart joined(const CrossPart& part, Join join) {
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
  const CrossPart as_given = joined(part, join_destinations);
  swap_factors(part);
  const CrossPart swapped = joined(part, join_destinations);
  const bool swap = swapped.runs.size() < as_given.runs.size();
  part = joined(swap ? swapped : as_given, join_repeats);
}

CrossRun repeat(const CrossRun& run, std::int32_t j) {
  CrossRun each = run;
  each.row += j * run.next.row;
  each.a.row += j * run.next.a_row;
  each.a.row_step += j * run.next.a_row_step;
  each.b.row += j * run.next.b_row;
  each.b.row_step += j * run.next.b_row_step;
  each.repeats = 1;
  each.next = {};
  return each;
}

std::vector<CrossRun> separate(const CrossRun& run) {
  std::vector<CrossRun> runs;
  for (std::int32_t j = 0; j < run.repeats; ++j) {
    for (std::int32_t i = 0; i < run.rows; ++i) {
      CrossRun each = repeat(run, j);
      each.row += i;
      each.b.row += i * run.b_next_row;
      each.b.position += i * run.b_next_position;
      each.rows = 1;
      each.b_next_row = each.b_next_position = 0;
      runs.push_back(each);
    }
  }
  return runs;
}

}  // namespace nanochat::program

// Groups: which nodes do the same work on different numbers. Used by the lowering only.
#ifndef NANOCHAT_SCALAR_PROGRAM_GROUPS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_GROUPS_HPP_

#include <cstdint>
#include <vector>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {

struct Grouping {
  std::vector<Group> groups;                       // in an order in which they can run
  std::vector<std::vector<Id>> members;            // per group: by position, then by recorded order
  std::vector<std::vector<std::uint32_t>> starts;  // per group: first member per position, and end
  std::vector<std::int32_t> group_of;              // per node; -1: constant or parameter
  std::vector<std::int32_t> feature_of;            // per node
};

// Copies the operands of selections and maxima that are not consecutive rows.
Grouping group_nodes(Graph& graph);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_GROUPS_HPP_

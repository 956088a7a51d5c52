// Which nodes are the same work on different numbers. Used by the lowering alone.
#ifndef NANOCHAT_SCALAR_PROGRAM_GROUPS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_GROUPS_HPP_

#include <cstdint>
#include <vector>

#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {

struct Grouping {
  std::vector<Group> groups;             // in an order in which they can run
  std::vector<std::vector<Id>> members;  // of each group: by stage, then by recorded order
  std::vector<std::vector<std::uint32_t>> starts;  // of each stage in members, and the end
  std::vector<std::int32_t> group_of;              // of each node; -1: constant or parameter
  std::vector<std::int32_t> feature_of;            // of each node
};

// Copies the operands of selections and maxima that do not already stand in consecutive rows.
Grouping group_nodes(Graph& graph);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_GROUPS_HPP_

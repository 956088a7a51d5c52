// Writes a program as one C99 file that trains by itself. Loops are found in nests.hpp and written
// by writer.hpp.
#ifndef NANOCHAT_SCALAR_PROGRAM_TO_C_HPP_
#define NANOCHAT_SCALAR_PROGRAM_TO_C_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "scalar/program/graph/recording.hpp"
#include "scalar/program/lowering/vector_program.hpp"

namespace nanochat::program {

// The state from which the file continues training.
struct Trained {
  bool single = false;                  // float instead of double
  bool mean = false;                    // the loss is the mean of the outputs of a document
  std::vector<Block> blocks;            // of the parameters
  std::vector<std::int32_t> last_slot;  // the highest slot that positions up to each one read
  std::vector<double> values, first_moments, second_moments;
  long long steps = 0;  // of Adam so far
};

std::string to_c(const VectorProgram& program, const Trained& trained);

}  // namespace nanochat::program

#endif  // NANOCHAT_SCALAR_PROGRAM_TO_C_HPP_

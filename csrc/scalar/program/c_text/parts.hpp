// The parts of the C file other than the code of the program itself: arrays (parameters.cpp), the
// reader of documents (reader.cpp), and the optimizer with main() (trainer.cpp).
#ifndef NANOCHAT_SCALAR_PROGRAM_C_PARTS_HPP_
#define NANOCHAT_SCALAR_PROGRAM_C_PARTS_HPP_

#include <string>

#include "scalar/program/c_text/to_c.hpp"
#include "scalar/program/c_text/writer.hpp"

namespace nanochat::program::c {

inline bool has_tokens(const VectorProgram& program) { return program.slots > 0; }
inline bool has_inputs(const VectorProgram& program) { return program.inputs > 0; }
inline bool reads_documents(const VectorProgram& program) {
  return has_tokens(program) || has_inputs(program);
}

// Does the text name a variable outside of comments?
bool names(const std::string& text, const std::string& name);

// The parameters, their gradients and their moments.
std::string parameter_arrays(const Trained& trained);
// The groups that the functions name.
std::string group_arrays(const VectorProgram& program, bool single, const std::string& functions);
std::string constant_array(const VectorProgram& program, bool single);

// read_document() and what it needs.
std::string reader(const VectorProgram& program, const Trained& trained);

// The options of training, as macros that -D overrides.
std::string training_options();
// adamw(), with the arithmetic of ../optimizer.cpp.
std::string optimizer(bool single);
// main(), which trains.
std::string main_function(const VectorProgram& program);

}  // namespace nanochat::program::c

#endif  // NANOCHAT_SCALAR_PROGRAM_C_PARTS_HPP_

// See to_c.hpp. This file: the order of the parts, the comment at the top, and the functions that
// contain the program.
#include "scalar/program/c_text/to_c.hpp"

#include <cmath>
#include <utility>

#include "scalar/program/c_text/parts.hpp"

namespace nanochat::program {
namespace {

using c::cat;
using c::has_inputs;
using c::has_tokens;
using c::reads_documents;

constexpr const char* usage = R"(
   cc -std=c99 -O2 -ffp-contract=off program.c -o program -lm
   ./program documents.txt steps

)";

constexpr const char* names_of_arrays = R"(
   Numbers that are computed in the same way form a group: g7[t][f] is row f of group 7 at position
   t. A group of one row has no [f]. A group of one position, or one that all positions share, has no
   [t]. p are the parameters, dp their gradients, m and v the moments of Adam.

)";

constexpr const char* exact_numerics =
    R"(   Numerics are exact: sums run in the recorded order from 0.0, each operation is rounded once, and
   powers are computed by pow. Losses are bit-identical to those of Program.step if libm is the same. */
)";

constexpr const char* fast_numerics =
    R"(   Numerics are fast: Program.step fuses products with sums and has its own exp and log, so its
   losses differ from these by rounding. */
)";

constexpr const char* power_function = R"(
/* Compilers cannot see through a volatile pointer. They would turn pow(x, 2.0) into x * x, which
   rounds differently. */
static double (*volatile const power)(double, double) = pow;

)";

constexpr const char* fail_function = R"(
static void fail(const char *message) {
  fprintf(stderr, "%s\n", message);
  exit(EXIT_FAILURE);
}
)";

// The code of the program, by function.
struct Bodies {
  std::string forward, outputs, backward;
  std::string all() const { return forward + outputs + backward; }
};

std::string format_of_documents(const VectorProgram& program) {
  if (!reads_documents(program)) {
    return "   The function takes neither tokens nor inputs: the first argument is not read.\n";
  }
  const char* line = !has_inputs(program)  ? "token ids, separated by blanks"
                     : has_tokens(program) ? "token ids, a |, then numbers, separated by blanks"
                                           : "a |, then numbers, separated by blanks";
  return cat({"   documents.txt has one document per line: ", line,
              ".\n   Each step trains on the next document, and on the first one again after the "
              "last.\n"});
}

std::string header(const VectorProgram& program, const Trained& trained) {
  std::string text = "/* A recorded function of " + std::to_string(program.parameters) +
                     " parameters, with its gradients and Adam.\n";
  text += usage;
  text += format_of_documents(program);
  if (has_tokens(program)) {
    text += "   A document has " + std::to_string(trained.last_slot.front() + 1) + " to " +
            std::to_string(program.slots) +
            " tokens and runs the n positions for which it has tokens, n <= " +
            std::to_string(program.positions) + ".\n";
  }
  text += names_of_arrays;
  return text + (program.numerics == Numerics::exact ? exact_numerics : fast_numerics);
}

std::string preamble(const VectorProgram& program) {
  return "#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n\nenum { POSITIONS = " +
         std::to_string(program.positions) + ", TOKENS = " + std::to_string(program.slots) +
         ", INPUTS = " + std::to_string(program.inputs) +
         ", PARAMETERS = " + std::to_string(program.parameters) + " };\n\n" +
         c::training_options() + power_function;
}

Bodies write_bodies(const VectorProgram& program, c::Writer& writer) {
  Bodies bodies;
  writer.list(program.forward);
  bodies.forward = writer.take();
  writer.outputs();
  bodies.outputs = writer.take();
  for (const Range& range : program.zeroed_first) {
    writer.line("for (int i = " + std::to_string(range.begin) + "; i < " +
                std::to_string(range.end) + "; ++i) dp[i] = 0;");
  }
  writer.list(program.backward);
  bodies.backward = writer.take();
  return bodies;
}

// Statements that mark the parameters of a function as used.
std::string unused(const VectorProgram& program, const std::string& body) {
  std::string text;
  const auto mark = [&](bool is_parameter, const char* name) {
    if (is_parameter && !c::names(body, name)) text += cat({"  (void)", name, ";\n"});
  };
  mark(has_tokens(program), "tokens");
  mark(has_inputs(program), "inputs");
  mark(true, "n");
  return text;
}

std::string functions(const VectorProgram& program, const Trained& trained, const Bodies& bodies) {
  const std::string document = cat({has_tokens(program) ? "const int *tokens, " : "",
                                    has_inputs(program) ? "const double *inputs, " : "", "int n"});
  std::string text =
      "\n/* The weight of each position in the loss. */\nstatic double scale(int n) { ";
  text += trained.mean ? "return 1.0 / n; }\n"
                       : cat({"return n > 0 ? ", c::literal(program.weight, false), " : 0.0; }\n"});
  text += "\n/* The loss of one document of n positions. */\nstatic double forward(" + document +
          ") {\n" + unused(program, bodies.forward + bodies.outputs + "scale(n)\n") +
          bodies.forward;
  text += std::signbit(program.start) ? "  double total = -0.0;\n" : "  double total = 0.0;\n";
  text += bodies.outputs + "  return scale(n) * total;\n}\n";
  return text + "\n/* The gradients of the loss of the last forward(). */\nstatic void backward(" +
         document + ") {\n" + unused(program, bodies.backward) + bodies.backward + "}\n";
}

}  // namespace

std::string to_c(const VectorProgram& program, const Trained& trained) {
  c::Writer writer(program, trained.single);
  const Bodies bodies = write_bodies(program, writer);
  std::string text = header(program, trained) + preamble(program) + c::parameter_arrays(trained) +
                     c::group_arrays(program, trained.single, bodies.all());
  if (writer.reads_constants()) text += c::constant_array(program, trained.single);
  text += writer.tables() + functions(program, trained, bodies) + c::optimizer(trained.single);
  text += fail_function;
  if (reads_documents(program)) text += c::reader(program, trained);
  return text + c::main_function(program);
}

}  // namespace nanochat::program

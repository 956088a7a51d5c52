// The optimizer and main() of the C file. See parts.hpp.
#include "scalar/program/c_text/parts.hpp"

namespace nanochat::program::c {
namespace {

std::string option(const char* name, const char* value) {
  return cat({"#ifndef ", name, "\n#define ", name, " ", value, "\n#endif\n"});
}

// An assignment that converts an expression of doubles to the type of the parameters.
std::string stored(const char* to, const std::string& value, bool single) {
  const bool is_name = value.find(' ') == std::string::npos;
  const std::string converted = is_name ? "(float)" + value : "(float)(" + value + ")";
  return cat({"    ", to, " = ", single ? converted : value, ";\n"});
}

constexpr const char* adamw_head = R"(
static void adamw(int step, double lr) {
  const double correction1 = 1.0 - power(BETA1, step);
  const double correction2 = 1.0 - power(BETA2, step);
  const double decay = 1.0 - lr * WEIGHT_DECAY;
  for (int i = 0; i < PARAMETERS; ++i) {
    const double g = dp[i];
    const double mean = BETA1 * m[i] + (1.0 - BETA1) * g;
    const double square = BETA2 * v[i] + (1.0 - BETA2) * power(g, 2.0);
    const double mean_hat = mean / correction1;
    const double square_hat = square / correction2;
    const double update = lr * mean_hat / (power(square_hat, 0.5) + EPS);
)";

constexpr const char* main_head = R"(
int main(int argc, char **argv) {
  if (argc != 3) fail("usage: program documents.txt steps");
  const int steps = atoi(argv[2]);
)";

constexpr const char* open_file = R"(  FILE *file = fopen(argv[1], "r");
  if (file == NULL) fail("the documents cannot be read");
)";

}  // namespace

std::string training_options() {
  return option("LEARNING_RATE", "0.01") + option("BETA1", "0.9") + option("BETA2", "0.999") +
         option("EPS", "1e-8") + option("WEIGHT_DECAY", "0.0");
}

std::string optimizer(bool single) {
  return adamw_head + stored("p[i]", "p[i] * decay - update", single) +
         stored("m[i]", "mean", single) + stored("v[i]", "square", single) + "  }\n}\n";
}

std::string main_function(const VectorProgram& program) {
  const bool tokens = has_tokens(program), inputs = has_inputs(program);
  const std::string arguments = cat({tokens ? "tokens, " : "", inputs ? "inputs, " : ""});
  const std::string arrays = arguments.substr(0, arguments.empty() ? 0 : arguments.size() - 2);
  std::string text = main_head;
  if (reads_documents(program)) text += open_file;
  if (tokens) text += "  static int tokens[TOKENS];\n";
  if (inputs) text += "  static double inputs[INPUTS];\n";
  text += "  for (int step = 1; step <= steps; ++step) {\n    const int n = ";
  text += reads_documents(program) ? cat({"read_document(file, ", arrays, ");\n"}) : "POSITIONS;\n";
  text += cat({"    const double loss = forward(", arguments, "n);\n"});
  text += cat({"    backward(", arguments, "n);\n"});
  text +=
      "    adamw(STEPS_BEFORE + step, LEARNING_RATE);\n"
      "    printf(\"step %d loss %.17g\\n\", step, loss);\n"
      "  }\n";
  if (reads_documents(program)) text += "  fclose(file);\n";
  return text + "  return 0;\n}\n";
}

}  // namespace nanochat::program::c

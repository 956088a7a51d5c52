// See to_c.hpp. The file's own functions: reading documents, Adam as ../optimizer.cpp computes it,
// and main(). What the program computes is written by c_text.cpp.
#include "scalar/program/c_text/to_c.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "scalar/program/c_text/writer.hpp"

namespace nanochat::program {
namespace {

using c::cat;
using c::literal;

class File {
 public:
  File(const VectorProgram& program, const Trained& trained)
      : program_(program), trained_(trained), real_(trained.single ? "float" : "double") {}

  std::string text() {
    c::Writer writer(program_, trained_.single);
    writer.list(program_.forward);
    const std::string forward = writer.take();
    writer.outputs();
    const std::string outputs = writer.take();
    for (const Range& range : program_.untouched) {
      writer.line("for (int i = " + std::to_string(range.begin) + "; i < " +
                  std::to_string(range.end) + "; ++i) dp[i] = 0;");
    }
    writer.list(program_.backward);
    const std::string backward = writer.take();
    const std::string bodies = forward + outputs + backward;
    header();
    preamble();
    parameters();
    groups(bodies);
    if (writer.reads_constants()) constants();
    out_ += writer.tables();
    functions(forward, outputs, backward);
    training();
    return std::move(out_);
  }

 private:
  void add(const std::string& text) { out_ += text; }
  bool exact() const { return program_.numerics == Numerics::exact; }
  bool reads() const { return program_.slots > 0 || program_.inputs > 0; }
  std::string document() const {  // the parameters of functions that need it
    return cat({program_.slots > 0 ? "const int *tokens, " : "",
                program_.inputs > 0 ? "const double *inputs, " : "", "int n"});
  }

  void header() {
    const std::string count = std::to_string(program_.stages);
    add("/* A recorded function of " + std::to_string(program_.parameters) +
        " parameters, with its gradients and Adam.\n"
        "\n"
        "   cc -std=c99 -O2 -ffp-contract=off program.c -o program -lm\n"
        "   ./program documents.txt steps\n"
        "\n");
    if (program_.slots > 0 && program_.inputs > 0) {
      add("   documents.txt has one document a line: token ids, a |, then numbers, with blanks "
          "between.\n");
    } else if (program_.slots > 0) {
      add("   documents.txt has one document a line: token ids with blanks between.\n");
    } else if (program_.inputs > 0) {
      add("   documents.txt has one document a line: a |, then numbers with blanks between.\n");
    } else {
      add("   The function takes neither tokens nor inputs: the first argument is not read.\n");
    }
    if (reads()) add("   Each step trains on the next one, from the first again after the last.\n");
    if (program_.slots > 0) {
      add("   A document has " + std::to_string(trained_.last_slot.front() + 1) + " to " +
          std::to_string(program_.slots) +
          " tokens and runs the n positions that it has tokens "
          "for, n <= " +
          count + ".\n");
    }
    add("\n"
        "   Numbers of the same make form a group: g7[t][f] is row f of group 7 at position t. A "
        "group of\n"
        "   one row has no [f], a group of one position, or one that all positions share, no [t]. "
        "p are the\n"
        "   parameters, dp their gradients, m and v Adam's moments.\n"
        "\n");
    add(exact()
            ? "   Numerics are exact: sums run in the recorded order from 0.0, each operation is "
              "rounded once,\n"
              "   powers are pow's. Losses are those of Program.step to the last bit when libm is "
              "the same. */\n"
            : "   Numerics are fast: Program.step fuses products with sums and has an exp and a "
              "log "
              "of its own,\n"
              "   so that losses differ from it by rounding. */\n");
  }

  void preamble() {
    add("#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n\n");
    add("enum { POSITIONS = " + std::to_string(program_.stages) + ", TOKENS = " +
        std::to_string(program_.slots) + ", INPUTS = " + std::to_string(program_.inputs) +
        ", PARAMETERS = " + std::to_string(program_.parameters) + " };\n\n");
    const auto knob = [&](const char* name, const char* value) {
      add(cat({"#ifndef ", name, "\n#define ", name, " ", value, "\n#endif\n"}));
    };
    knob("LEARNING_RATE", "0.01");
    knob("BETA1", "0.9");
    knob("BETA2", "0.999");
    knob("EPS", "1e-8");
    knob("WEIGHT_DECAY", "0.0");
    add("\n/* A pointer that compilers cannot see through: they would turn pow(x, 2.0) into x * x, "
        "which\n   rounds differently. */\n"
        "static double (*volatile const power)(double, double) = pow;\n\n");
  }

  void numbers(const std::string& name, const std::vector<double>& values) {
    add("static " + real_ + " " + name + "[PARAMETERS] = {\n");
    std::size_t at = 0;
    for (std::size_t b = 0; b < trained_.blocks.size(); ++b) {
      const Block& block = trained_.blocks[b];
      add("    /* " + std::to_string(at) + ": block " + std::to_string(b) + ", " +
          std::to_string(block.rows) + " x " + std::to_string(block.cols) + " */\n");
      std::string line = "   ";
      for (std::size_t i = 0; i < block.rows * block.cols; ++i, ++at) {
        const std::string cell = cat({" ", literal(values[at], trained_.single), ","});
        const bool row_begins = block.cols > 1 && i % block.cols == 0;
        if (line.size() > 3 && (row_begins || line.size() + cell.size() > 100)) {
          add(line + "\n");
          line = "   ";
        }
        line += cell;
      }
      add(line + "\n");
    }
    add("};\n");
  }

  void parameters() {
    numbers("p", trained_.values);
    add("static " + real_ + " dp[PARAMETERS];\n");
    if (trained_.steps == 0) {
      add("static " + real_ + " m[PARAMETERS], v[PARAMETERS];\n");
    } else {
      numbers("m", trained_.first_moments);
      numbers("v", trained_.second_moments);
    }
    add("enum { STEPS_BEFORE = " + std::to_string(trained_.steps) + " };\n\n");
  }

  // Does the text read or write the group?
  static bool names(const std::string& text, const std::string& name) {
    const auto inside = [](char each) {
      return (each >= '0' && each <= '9') || (each >= 'a' && each <= 'z') || each == '_';
    };
    bool comment = false;
    for (std::size_t i = 0; i + name.size() < text.size(); ++i) {
      if (text.compare(i, 2, "/*") == 0) comment = true;
      if (text.compare(i, 2, "*/") == 0) comment = false;
      if (!comment && text.compare(i, name.size(), name) == 0 && (i == 0 || !inside(text[i - 1])) &&
          !inside(text[i + name.size()])) {
        return true;
      }
    }
    return false;
  }

  void groups(const std::string& bodies) {
    for (std::size_t g = 0; g < program_.groups.size(); ++g) {
      const Group& group = program_.groups[g];
      const std::string name = cat({"g", std::to_string(g)});
      if (!names(bodies, name)) continue;  // summed straight into gradients
      std::string line = "static " + real_ + " " + name;
      const std::int32_t positions = group.end - group.begin;
      if (!group.is_shared() && positions > 1) line += cat({"[", std::to_string(positions), "]"});
      if (group.features > 1 || group.ragged())
        line += cat({"[", std::to_string(group.features), "]"});
      line += ';';
      line.resize(std::max<std::size_t>(line.size(), 30), ' ');
      line += std::string(" /* ") + name_of(group.kind);
      if (group.ragged()) line += ", as many rows as the position needs";
      if (group.is_shared()) line += ", shared";
      if (group.begin > 0) line += ", from position " + std::to_string(group.begin);
      add(line + " */\n");
    }
  }

  void constants() {
    add("static const " + real_ + " c[" + std::to_string(program_.constants.size()) + "] = {\n   ");
    std::size_t width = 3;
    for (const double value : program_.constants) {
      const std::string cell = cat({" ", literal(value, trained_.single), ","});
      if (width + cell.size() > 100) {
        add("\n   ");
        width = 3;
      }
      add(cell);
      width += cell.size();
    }
    add("\n};\n");
  }

  void functions(const std::string& forward, const std::string& outputs,
                 const std::string& backward) {
    add("\n/* What each position counts in the loss. */\nstatic double scale(int n) { ");
    add(trained_.mean ? "return 1.0 / n; }\n"
                      : cat({"return n > 0 ? ", literal(program_.weight, false), " : 0.0; }\n"}));
    const auto unused = [&](const std::string& body) {
      std::string text;
      for (const char* name : {"tokens", "inputs", "n"}) {
        const bool given = name[0] == 't'   ? program_.slots > 0
                           : name[0] == 'i' ? program_.inputs > 0
                                            : true;
        if (given && !names(body, name)) text += cat({"  (void)", name, ";\n"});
      }
      return text;
    };
    add("\n/* The loss of one document of n positions. */\nstatic double forward(" + document() +
        ") {\n" + unused(forward + outputs + "scale(n)\n") + forward +
        (std::signbit(program_.start) ? "  double total = -0.0;\n" : "  double total = 0.0;\n") +
        outputs + "  return scale(n) * total;\n}\n");
    add("\n/* The gradients of the last forward's loss. */\nstatic void backward(" + document() +
        ") {\n" + unused(backward) + backward + "}\n");
    add("\nstatic void adamw(int step, double lr) {\n"
        "  const double correction1 = 1.0 - power(BETA1, step);\n"
        "  const double correction2 = 1.0 - power(BETA2, step);\n"
        "  const double decay = 1.0 - lr * WEIGHT_DECAY;\n"
        "  for (int i = 0; i < PARAMETERS; ++i) {\n"
        "    const double g = dp[i];\n"
        "    const double mean = BETA1 * m[i] + (1.0 - BETA1) * g;\n"
        "    const double square = BETA2 * v[i] + (1.0 - BETA2) * power(g, 2.0);\n"
        "    const double mean_hat = mean / correction1;\n"
        "    const double square_hat = square / correction2;\n"
        "    const double update = lr * mean_hat / (power(square_hat, 0.5) + EPS);\n");
    const std::string cast = trained_.single ? "(float)" : "";
    const auto stored = [&](const char* to, const std::string& value) {
      const bool whole = value.find(' ') == std::string::npos;
      add(std::string("    ") + to + " = " +
          (cast.empty() || whole ? cast + value : cast + "(" + value + ")") + ";\n");
    };
    stored("p[i]", "p[i] * decay - update");
    stored("m[i]", "mean");
    stored("v[i]", "square");
    add("  }\n}\n");
  }

  void fail() {
    add("\nstatic void fail(const char *message) {\n"
        "  fprintf(stderr, \"%s\\n\", message);\n"
        "  exit(EXIT_FAILURE);\n}\n");
  }

  void reading() {
    std::string needs = "   ", limits = "   ";
    for (std::int32_t s = 0; s < program_.stages; ++s) {
      needs += cat({" ", std::to_string(trained_.last_slot[static_cast<std::size_t>(s)] + 1), ","});
    }
    for (std::int32_t i = 0; i < program_.slots; ++i) {
      limits += cat({" ", std::to_string(program_.limits[static_cast<std::size_t>(i)]), ","});
    }
    if (program_.slots > 0) {
      add("\n/* How many tokens each position needs; how many ids each token tells apart. */\n"
          "static const int needs[POSITIONS] = {\n" +
          needs +
          "\n};\n"
          "static const int limits[TOKENS] = {\n" +
          limits + "\n};\n");
    }
    const std::string to = cat({program_.slots > 0 ? "int *tokens" : "",
                                program_.slots > 0 && program_.inputs > 0 ? ", " : "",
                                program_.inputs > 0 ? "double *inputs" : ""});
    add("\n/* The first character of the next line that has any, the first line after the last. "
        "*/\n"
        "static int next_line(FILE *file) {\n"
        "  for (int ends = 0; ends < 2;) {\n"
        "    const int c = getc(file);\n"
        "    if (c == EOF) {\n"
        "      rewind(file);\n"
        "      ++ends;\n"
        "    } else if (c > ' ') {\n"
        "      return c;\n"
        "    }\n"
        "  }\n"
        "  fail(\"the file has no document\");\n"
        "  return EOF;\n"
        "}\n"
        "\n/* The next character that is no blank; a line's end is one. */\n"
        "static int next(FILE *file) {\n"
        "  int c = getc(file);\n"
        "  while (c == ' ' || c == '\\t' || c == '\\r') c = getc(file);\n"
        "  return c;\n"
        "}\n"
        "\n/* Reads one document and returns how many positions it has. */\n"
        "static int read_document(FILE *file, " +
        to +
        ") {\n"
        "  int c = next_line(file);\n");
    if (program_.slots > 0) {
      add("  int count = 0;\n"
          "  for (; c != '\\n' && c != EOF && c != '|'; c = next(file)) {\n"
          "    if (count == TOKENS) fail(\"a document has too many tokens\");\n"
          "    ungetc(c, file);\n"
          "    if (fscanf(file, \"%d\", &tokens[count]) != 1) fail(\"a token must be a number\");\n"
          "    if (tokens[count] < 0 || tokens[count] >= limits[count]) fail(\"a token is out of "
          "range\");\n"
          "    ++count;\n"
          "  }\n");
    } else if (program_.inputs > 0) {
      add("  while (c != '\\n' && c != EOF && c != '|') c = next(file);\n");
    }
    if (program_.inputs > 0) {
      add("  if (c != '|') fail(\"inputs must follow a |\");\n"
          "  for (int i = 0; i < INPUTS; ++i) {\n"
          "    if (fscanf(file, \"%lf\", &inputs[i]) != 1) fail(\"a document has too few "
          "inputs\");\n"
          "  }\n"
          "  c = next(file);\n");
    }
    add("  if (c != '\\n' && c != EOF) fail(\"a document has too many numbers\");\n");
    if (program_.slots > 0) {
      add("  int n = 0;\n"
          "  while (n < POSITIONS && needs[n] <= count) ++n;\n"
          "  if (n == 0) fail(\"a document has too few tokens\");\n"
          "  return n;\n}\n");
    } else {
      add("  return POSITIONS;\n}\n");
    }
  }

  void training() {
    fail();
    if (reads()) reading();
    const std::string given =
        cat({program_.slots > 0 ? "tokens, " : "", program_.inputs > 0 ? "inputs, " : ""});
    add("\nint main(int argc, char **argv) {\n"
        "  if (argc != 3) fail(\"usage: program documents.txt steps\");\n"
        "  const int steps = atoi(argv[2]);\n");
    if (reads()) {
      add("  FILE *file = fopen(argv[1], \"r\");\n"
          "  if (file == NULL) fail(\"the documents cannot be read\");\n");
    }
    if (program_.slots > 0) add("  static int tokens[TOKENS];\n");
    if (program_.inputs > 0) add("  static double inputs[INPUTS];\n");
    add("  for (int step = 1; step <= steps; ++step) {\n"
        "    const int n = " +
        (reads() ? "read_document(file, " + given.substr(0, given.size() - 2) + ");\n"
                 : std::string("POSITIONS;\n")) +
        "    const double loss = forward(" + given +
        "n);\n"
        "    backward(" +
        given +
        "n);\n"
        "    adamw(STEPS_BEFORE + step, LEARNING_RATE);\n"
        "    printf(\"step %d loss %.17g\\n\", step, loss);\n"
        "  }\n" +
        (reads() ? "  fclose(file);\n" : "") + "  return 0;\n}\n");
  }

  const VectorProgram& program_;
  const Trained& trained_;
  std::string real_;
  std::string out_;
};

}  // namespace

std::string to_c(const VectorProgram& program, const Trained& trained) {
  return File(program, trained).text();
}

}  // namespace nanochat::program

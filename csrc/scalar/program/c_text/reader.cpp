// The functions of the C file that read documents. See parts.hpp.
#include "scalar/program/c_text/parts.hpp"

namespace nanochat::program::c {
namespace {

std::string token_tables(const VectorProgram& program, const Trained& trained) {
  std::string needs = "   ", limits = "   ";
  for (const std::int32_t slot : trained.last_slot) {
    needs += cat({" ", std::to_string(slot + 1), ","});
  }
  for (const std::int32_t limit : program.limits) {
    limits += cat({" ", std::to_string(limit), ","});
  }
  return "\n/* The number of tokens that each position needs, and of ids that each token can have. "
         "*/\n"
         "static const int needs[POSITIONS] = {\n" +
         needs + "\n};\nstatic const int limits[TOKENS] = {\n" + limits + "\n};\n";
}

constexpr const char* next_characters = R"(
/* The first character of the next line that is not empty, starting again after the last line. */
static int next_line(FILE *file) {
  for (int ends = 0; ends < 2;) {
    const int c = getc(file);
    if (c == EOF) {
      rewind(file);
      ++ends;
    } else if (c > ' ') {
      return c;
    }
  }
  fail("the file has no document");
  return EOF;
}

/* The next character that is not a blank; the end of a line is a character. */
static int next(FILE *file) {
  int c = getc(file);
  while (c == ' ' || c == '\t' || c == '\r') c = getc(file);
  return c;
}
)";

constexpr const char* read_tokens = R"(  int count = 0;
  for (; c != '\n' && c != EOF && c != '|'; c = next(file)) {
    if (count == TOKENS) fail("a document has too many tokens");
    ungetc(c, file);
    if (fscanf(file, "%d", &tokens[count]) != 1) fail("a token must be a number");
    if (tokens[count] < 0 || tokens[count] >= limits[count]) fail("a token is out of range");
    ++count;
  }
)";

constexpr const char* skip_tokens = R"(  while (c != '\n' && c != EOF && c != '|') c = next(file);
)";

constexpr const char* read_inputs = R"(  if (c != '|') fail("inputs must follow a |");
  for (int i = 0; i < INPUTS; ++i) {
    if (fscanf(file, "%lf", &inputs[i]) != 1) fail("a document has too few inputs");
  }
  c = next(file);
)";

constexpr const char* count_positions = R"(  int n = 0;
  while (n < POSITIONS && needs[n] <= count) ++n;
  if (n == 0) fail("a document has too few tokens");
  return n;
}
)";

}  // namespace

std::string reader(const VectorProgram& program, const Trained& trained) {
  const bool tokens = has_tokens(program), inputs = has_inputs(program);
  std::string text = tokens ? token_tables(program, trained) : "";
  text += next_characters;
  text += "\n/* Reads one document and returns its number of positions. */\n";
  text += cat({"static int read_document(FILE *file, ", tokens ? "int *tokens" : "",
               tokens && inputs ? ", " : "", inputs ? "double *inputs" : "", ") {\n"});
  text += "  int c = next_line(file);\n";
  if (tokens) {
    text += read_tokens;
  } else if (inputs) {
    text += skip_tokens;
  }
  if (inputs) text += read_inputs;
  text += "  if (c != '\\n' && c != EOF) fail(\"a document has too many numbers\");\n";
  text += tokens ? count_positions : "  return POSITIONS;\n}\n";
  return text;
}

}  // namespace nanochat::program::c

// Runs every registered case. The first failure ends the process with status 1.
#include "testing.hpp"

int main() {
  for (const testing::Case& test : testing::cases()) {
    std::printf("%s\n", test.name);
    static_cast<void>(std::fflush(stdout));
    test.body();
  }
  std::printf("%zu cases passed\n", testing::cases().size());
  return 0;
}

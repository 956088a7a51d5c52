// Runs every registered case. The first failure ends the process with status 1; a case that checks
// nothing is a failure.
#include "testing.hpp"

int main() {
  for (const testing::Case& test : testing::cases()) {
    std::printf("%s\n", test.name);
    static_cast<void>(std::fflush(stdout));
    const std::uint64_t before = testing::checks;
    test.body();
    if (testing::checks == before) testing::fail(__FILE__, __LINE__, "a case checks something");
  }
  std::printf("%zu cases passed\n", testing::cases().size());
  return 0;
}

// Without libFuzzer: runs a target on each file of the folders that are named, then on random bytes
// from a fixed seed.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "input.hpp"

namespace {

void run(const std::vector<std::uint8_t>& bytes) {
  fuzz::Input input(bytes.data(), bytes.size());
  fuzz::fuzz(input);
}

}  // namespace

int main(int count, char** names) {
  std::size_t files = 0;
  for (int i = 1; i < count; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(names[i])) {
      std::ifstream file(entry.path(), std::ios::binary);
      run({std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
      ++files;
    }
  }
  CHECK(files > 0);
  std::mt19937 random(0);
  constexpr std::size_t inputs = 300;
  for (std::size_t i = 0; i < inputs; ++i) {
    std::vector<std::uint8_t> bytes(random() % 512);
    std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<std::uint8_t>(random()); });
    run(bytes);
  }
  std::printf("%zu files and %zu random inputs, %llu claims\n", files, inputs,
              static_cast<unsigned long long>(testing::checks.load()));
  return 0;
}

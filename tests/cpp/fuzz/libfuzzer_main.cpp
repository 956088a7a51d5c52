// The entry of libFuzzer, whose main() is in its library.
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  fuzz::fuzz(input);
  return 0;
}

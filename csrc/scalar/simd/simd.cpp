// Which instruction set's kernels run. Compiled for the baseline: it runs on every processor.
#include "scalar/simd/simd.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace nanochat::simd {

#if NCLAB_SIMD_X86
namespace avx512 {
extern const Tables kernel_tables;
}
namespace avx2 {
extern const Tables kernel_tables;
}
#endif
namespace portable {
extern const Tables kernel_tables;
}

namespace {

constexpr const char* names[] = {"avx512", "avx2", "portable"};  // best first

const Tables& chosen() {
  const char* name = std::getenv("NCLAB_SIMD");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  if (name != nullptr && *name != '\0') {
    if (const Tables* named = tables_named(name)) return *named;
    throw std::invalid_argument(std::string("NCLAB_SIMD must be avx512, avx2 or portable, and one "
                                            "that this processor runs; got '") +
                                name + "'");
  }
  for (const char* best : names) {
    if (const Tables* found = tables_named(best)) return *found;
  }
  return portable::kernel_tables;
}

}  // namespace

const Tables* tables_named(const char* name) noexcept {
#if NCLAB_SIMD_X86
  if (std::strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    return &avx512::kernel_tables;
  }
  if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return &avx2::kernel_tables;
  }
#endif
  return std::strcmp(name, "portable") == 0 ? &portable::kernel_tables : nullptr;
}

const Tables& tables() {
  static const Tables& best = chosen();
  return best;
}

}  // namespace nanochat::simd

// Compiled for the baseline, so it runs on every processor.
#include "simd/instruction_set.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if NCLAB_SIMD_X86
#include <cpuid.h>
#endif

namespace nanochat::simd {
namespace {

bool named(const char* name, const char* other) noexcept { return std::strcmp(name, other) == 0; }

#if NCLAB_SIMD_X86
// Clang 14's __builtin_cpu_supports does not know F16C.
bool has_f16c() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

}  // namespace

bool runs(const char* instruction_set) noexcept {
#if NCLAB_SIMD_AVX512
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
  if (named(instruction_set, "avx512bf16")) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (named(instruction_set, "avx512")) return avx512;
#endif
#if NCLAB_SIMD_X86
  if (named(instruction_set, "avx2")) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  }
#endif
  return named(instruction_set, "portable");
}

const char* chosen_instruction_set() {
  const char* name = std::getenv("NCLAB_SIMD");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  const bool any = name == nullptr || *name == '\0';
  for (const char* best : instruction_sets) {
    if ((any || named(name, best)) && runs(best)) return best;
  }
  throw std::invalid_argument(std::string("NCLAB_SIMD must be avx512bf16, avx512, avx2 or portable,"
                                          " and one that this processor runs; got '") +
                              name + "'");
}

}  // namespace nanochat::simd

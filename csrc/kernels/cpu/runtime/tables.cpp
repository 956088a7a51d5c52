#include "kernels/cpu/runtime/tables.hpp"

#include <cstring>
#include <exception>

#include "simd/instruction_set.hpp"

namespace nanochat::kernels {

#if NCLAB_SIMD_AVX512
namespace avx512bf16 {
extern const Tables kernel_tables;
}
namespace avx512 {
extern const Tables kernel_tables;
}
#endif
#if NCLAB_SIMD_X86
namespace avx2 {
extern const Tables kernel_tables;
}
#endif
namespace portable {
extern const Tables kernel_tables;
}

const Tables* tables_named(const char* name) noexcept {
  if (!simd::runs(name)) return nullptr;
#if NCLAB_SIMD_AVX512
  if (std::strcmp(name, "avx512bf16") == 0) return &avx512bf16::kernel_tables;
  if (std::strcmp(name, "avx512") == 0) return &avx512::kernel_tables;
#endif
#if NCLAB_SIMD_X86
  if (std::strcmp(name, "avx2") == 0) return &avx2::kernel_tables;
#endif
  return &portable::kernel_tables;
}

namespace {

// Chosen once: the reported set stays the one that runs if the environment changes later.
const char* chosen() {
  static const char* const name = simd::chosen_instruction_set();
  return name;
}

}  // namespace

const Tables& tables() {
  static const Tables& best = *tables_named(chosen());
  return best;
}

const char* tables_name() noexcept {
  try {
    return chosen();
  } catch (const std::exception&) {
    return "none";
  }
}

}  // namespace nanochat::kernels

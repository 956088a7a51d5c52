// Chooses the tables of an instruction set.
#include "scalar/simd/simd.hpp"

#include <cstring>

#include "simd/instruction_set.hpp"

namespace nanochat::simd {

#if NCLAB_SIMD_AVX512
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
  if (!runs(name)) return nullptr;
#if NCLAB_SIMD_AVX512
  if (std::strncmp(name, "avx512", 6) == 0) return &avx512::kernel_tables;
#endif
#if NCLAB_SIMD_X86
  if (std::strcmp(name, "avx2") == 0) return &avx2::kernel_tables;
#endif
  return &portable::kernel_tables;
}

const Tables& tables() {
  static const Tables& best = *tables_named(chosen_instruction_set());
  return best;
}

}  // namespace nanochat::simd

/* NEON's intrinsics: the compiler's own on ARM, SIMDe's elsewhere. */
#ifdef __aarch64__
#include_next <arm_neon.h>
#else
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>
#endif

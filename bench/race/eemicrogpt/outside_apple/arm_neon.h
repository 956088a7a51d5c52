/* NEON intrinsics: from the compiler on ARM, from SIMDe on other processors. */
#ifdef __aarch64__
#include_next <arm_neon.h>
#else
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/arm/neon.h>
#endif

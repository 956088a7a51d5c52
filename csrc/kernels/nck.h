/* abi.h for a compiler: abi.h itself holds only declarations, because cffi reads it too. */
#ifndef NANOCHAT_KERNELS_NCK_H_
#define NANOCHAT_KERNELS_NCK_H_

#include <stdint.h> /* NOLINT(modernize-deprecated-headers): a C header */

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#include "kernels/abi.h"

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif

#endif /* NANOCHAT_KERNELS_NCK_H_ */

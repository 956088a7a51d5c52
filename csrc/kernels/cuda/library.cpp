// What the CUDA library says of itself.
#include "kernels/nck.h"

extern "C" const char* nck_target(void) { return NCK_CUDA_TARGET; }

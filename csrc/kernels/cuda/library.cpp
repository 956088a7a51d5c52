// nck_target of the CUDA library.
#include "kernels/nck.h"

extern "C" const char* nck_target(void) { return NCK_CUDA_TARGET; }

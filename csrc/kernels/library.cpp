// The CPU library: all of nck_cpu, and nck_target.
#include "kernels/cpu/runtime/tables.hpp"
#include "kernels/nck.h"

extern "C" const char* nck_target(void) { return nanochat::kernels::tables_name(); }

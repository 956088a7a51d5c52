// The CPU library: everything of nck_cpu, and what it says of itself.
#include "kernels/cpu/runtime/tables.hpp"
#include "kernels/nck.h"

extern "C" const char* nck_target(void) { return nanochat::kernels::tables_name(); }

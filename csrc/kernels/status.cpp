#include "kernels/status.hpp"

#include <cstdarg>
#include <cstdio>

namespace nanochat::kernels {
namespace {

thread_local char last[512] = "";

}  // namespace

// NOLINTNEXTLINE(cert-dcl50-cpp): printf's own checks need its own arguments
Failure::Failure(std::int32_t status, const char* format, ...) noexcept : status_(status) {
  std::va_list values;
  va_start(values, format);
  static_cast<void>(std::vsnprintf(text_, sizeof text_, format, values));
  va_end(values);
}

void set_last_error(const char* text) noexcept {
  static_cast<void>(std::snprintf(last, sizeof last, "%s", text));
}

const char* last_error() noexcept { return last; }

}  // namespace nanochat::kernels

extern "C" {

std::int32_t nck_abi_version(void) { return NCK_ABI_VERSION; }

const char* nck_last_error(void) { return nanochat::kernels::last_error(); }

}  // extern "C"

// How a call of the C ABI fails: an exception inside, a status and a message outside.
#ifndef NANOCHAT_KERNELS_STATUS_HPP_
#define NANOCHAT_KERNELS_STATUS_HPP_

#include <cstdint>
#include <exception>
#include <new>

#include "kernels/nck.h"

namespace nanochat::kernels {

// What a call refuses or cannot do. Holds its words without memory of its own.
class Failure : public std::exception {
 public:
  // format and what follows as in printf; at most 255 characters are kept.
  [[gnu::format(printf, 3, 4)]] Failure(std::int32_t status, const char* format, ...) noexcept;
  const char* what() const noexcept override { return text_; }
  std::int32_t status() const noexcept { return status_; }

 private:
  std::int32_t status_;
  char text_[256];
};

// What nck_last_error() gives this thread from now on.
void set_last_error(const char* text) noexcept;
const char* last_error() noexcept;

// The one place where exceptions end: runs `body` and returns its status.
template <class Body>
std::int32_t guarded(const Body& body) noexcept {
  try {
    body();
    return NCK_OK;
  } catch (const Failure& failure) {
    set_last_error(failure.what());
    return failure.status();
  } catch (const std::bad_alloc&) {
    set_last_error("no memory for the working space of a kernel");
    return NCK_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return NCK_ARGUMENT;
  }
}

}  // namespace nanochat::kernels

#endif  // NANOCHAT_KERNELS_STATUS_HPP_

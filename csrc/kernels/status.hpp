// How a call of the C ABI fails: with an exception inside, and a status and a message outside.
#ifndef NANOCHAT_KERNELS_STATUS_HPP_
#define NANOCHAT_KERNELS_STATUS_HPP_

#include <cstdint>
#include <exception>
#include <new>

#include "kernels/nck.h"

namespace nanochat::kernels {

// An argument that a call refuses, or an operation that failed. Stores its message without
// allocation.
class Failure : public std::exception {
 public:
  // format and the other arguments are those of printf; at most 255 characters are kept.
  [[gnu::format(printf, 3, 4)]] Failure(std::int32_t status, const char* format, ...) noexcept;
  const char* what() const noexcept override { return text_; }
  std::int32_t status() const noexcept { return status_; }

 private:
  std::int32_t status_;
  char text_[256];
};

// Sets the message of nck_last_error() for this thread.
void set_last_error(const char* text) noexcept;
const char* last_error() noexcept;

// The only place where exceptions end: runs `body` and returns its status.
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

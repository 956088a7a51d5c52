// A store of memory for large results. Faulting in and clearing a fresh page costs more than a
// kernel needs to fill it, so returned buffers are kept for later calls. Large ones are marked as
// reclaimable: the system may take their pages when memory runs short.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "kernels/status.hpp"

namespace nanochat::kernels {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20U;
// Smaller kept buffers are not marked as reclaimable: the mark would cost more than a small kernel.
constexpr std::size_t small_bytes = 4 * huge_page;

#ifdef __linux__
// Maps whole, aligned huge pages.
void* map(std::size_t bytes) {
  const std::size_t room = bytes + huge_page;
  void* const mapped =
      mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
  const std::uintptr_t aligned = (begin + huge_page - 1) / huge_page * huge_page;
  char* const first = static_cast<char*>(mapped) + (aligned - begin);
  if (aligned > begin) munmap(mapped, aligned - begin);
  munmap(first + bytes, room - bytes - (aligned - begin));
  madvise(first, bytes, MADV_HUGEPAGE);  // an optimization: it may fail
  return first;
}
void unmap(void* memory, std::size_t bytes) noexcept { munmap(memory, bytes); }
void offer_to_system(void* memory, std::size_t bytes) noexcept {
#ifdef MADV_FREE
  madvise(memory, bytes, MADV_FREE);
#endif
}
#else
void* map(std::size_t bytes) { return ::operator new(bytes, std::align_val_t{64}); }
void unmap(void* memory, std::size_t) noexcept { ::operator delete(memory, std::align_val_t{64}); }
void offer_to_system(void*, std::size_t) noexcept {}
#endif

struct Buffer {
  void* memory;
  std::size_t bytes;
};

class Buffers {
 public:
  void* take(std::size_t bytes) {
    const std::size_t needed =
        (std::max<std::size_t>(bytes, 1) + huge_page - 1) / huge_page * huge_page;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto best = smallest_kept(needed);
    Buffer buffer{nullptr, needed};
    if (best != kept_.end()) {
      buffer = *best;
      kept_.erase(best);
    } else {
      buffer.memory = map(needed);
    }
    try {
      taken_.emplace(buffer.memory, buffer.bytes);
    } catch (...) {
      unmap(buffer.memory, buffer.bytes);
      throw;
    }
    return buffer.memory;
  }

  void give(void* memory) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = taken_.find(memory);
    if (found == taken_.end()) return;  // NULL, or already returned
    const Buffer buffer{memory, found->second};
    taken_.erase(found);
    if (buffer.bytes > small_bytes) offer_to_system(buffer.memory, buffer.bytes);
    if (kept_.size() == NCK_BUFFERS_KEPT) {
      unmap(kept_.front().memory, kept_.front().bytes);
      kept_.erase(kept_.begin());
    }
    kept_.push_back(buffer);
  }

  std::int64_t kept_bytes() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::size_t bytes = 0;
    for (const Buffer& buffer : kept_) bytes += buffer.bytes;
    return static_cast<std::int64_t>(bytes);
  }

  void drop() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Buffer& buffer : kept_) unmap(buffer.memory, buffer.bytes);
    kept_.clear();
  }

 private:
  // A buffer is reused only if the new result fills at least half of it.
  std::vector<Buffer>::iterator smallest_kept(std::size_t needed) {
    auto best = kept_.end();
    for (auto each = kept_.begin(); each != kept_.end(); ++each) {
      const bool fits = each->bytes >= needed && each->bytes / 2 <= needed;
      if (fits && (best == kept_.end() || each->bytes < best->bytes)) best = each;
    }
    return best;
  }

  std::mutex mutex_;
  std::vector<Buffer> kept_ = reserved();  // oldest first
  std::unordered_map<void*, std::size_t> taken_;

  static std::vector<Buffer> reserved() {
    std::vector<Buffer> buffers;
    buffers.reserve(NCK_BUFFERS_KEPT);
    return buffers;
  }
};

Buffers& buffers() {
  // Never destroyed: tensors may outlive the library's static objects.
  static auto* const all = new Buffers;
  return *all;
}

}  // namespace
}  // namespace nanochat::kernels

extern "C" {

std::int32_t nck_take_buffer(std::int64_t bytes, void** buffer) {
  using namespace nanochat::kernels;
  return guarded([&] {
    if (buffer == nullptr) throw Failure(NCK_ARGUMENT, "buffer must not be NULL");
    constexpr std::int64_t most = std::int64_t{1} << 47U;
    if (bytes < 0 || bytes > most) {
      throw Failure(NCK_ARGUMENT, "bytes must be in [0, 2^47], got %lld",
                    static_cast<long long>(bytes));
    }
    *buffer = buffers().take(static_cast<std::size_t>(bytes));
  });
}

void nck_give_buffer(void* buffer) { nanochat::kernels::buffers().give(buffer); }

std::int64_t nck_kept_bytes(void) { return nanochat::kernels::buffers().kept_bytes(); }

void nck_drop_buffers(void) { nanochat::kernels::buffers().drop(); }

}  // extern "C"

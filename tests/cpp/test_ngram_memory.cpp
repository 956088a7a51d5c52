// Counting that runs out of memory at any allocation returns a status, frees everything (which the
// address sanitizer checks), and writes no result.
#include <cstring>
#include <vector>

#include "failing_allocations.hpp"
#include "kernels/nck.h"
#include "testing.hpp"

namespace {

using testing::budget;

constexpr std::int32_t order = 6;
constexpr std::int64_t vocab = 4;

// Long enough for both ways to sort.
std::vector<std::int64_t> text() {
  std::vector<std::int64_t> tokens(2000);
  std::uint32_t state = 1;
  for (std::int64_t& token : tokens) {
    state = state * 1664525U + 1013904223U;
    token = 1 + state / 65536U % 3U;
  }
  return tokens;
}

// Calls count(&ngrams) with more and more memory until it succeeds.
template <class Count>
void check_every_allocation(const Count& count) {
  for (long allowed = 0;; ++allowed) {
    nck_ngrams* ngrams = nullptr;
    budget = allowed;
    const std::int32_t status = count(&ngrams);
    budget = -1;
    if (status == NCK_OK) {
      CHECK(allowed > 20);
      CHECK(nck_ngram_bytes(ngrams) > 0);
      nck_free_ngrams(ngrams);
      return;
    }
    CHECK(status == NCK_MEMORY);
    CHECK(ngrams == nullptr);
    CHECK(std::strlen(nck_last_error()) > 0);
  }
}

}  // namespace

TEST_CASE(counting_without_memory_is_a_status_at_every_allocation) {
  const std::vector<std::int64_t> tokens = text(), offsets{0, 1900, 1900, 2000};
  check_every_allocation([&](nck_ngrams** ngrams) {
    return nck_count_ngrams(tokens.data(), offsets.data(), 3, vocab, order, ngrams, 1);
  });
}

TEST_CASE(counting_a_long_text_without_memory_is_a_status_at_every_allocation) {
  std::vector<std::int64_t> stream = text();
  stream.front() = stream[1900] = stream.back() = 0;
  check_every_allocation([&](nck_ngrams** ngrams) {
    return nck_count_long_text(stream.data(), 8, 1999, vocab, order, 3, 2, 300, ngrams, 1);
  });
}

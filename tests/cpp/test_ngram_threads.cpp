// Counting and scoring on several threads, for ThreadSanitizer.
#include <vector>

#include "kernels/nck.h"
#include "testing.hpp"

namespace {

struct Text {
  std::vector<std::int64_t> tokens = std::vector<std::int64_t>(20000), offsets;

  Text() {
    std::uint32_t state = 1;
    for (std::int64_t& token : tokens) {
      state = state * 1664525U + 1013904223U;
      token = 1 + state / 65536U % 9U;
    }
    for (std::int64_t end = 0; end <= 20000; end += 500) offsets.push_back(end);
  }

  std::vector<double> losses(std::int32_t threads) const {
    constexpr std::int32_t order = 5;
    const auto documents = static_cast<std::int64_t>(offsets.size()) - 1;
    std::vector<double> result(order * (tokens.size() + offsets.size() - 1));
    nck_ngrams* ngrams = nullptr;
    CHECK(nck_count_ngrams(tokens.data(), offsets.data(), documents, 10, order, &ngrams, threads) ==
          NCK_OK);
    CHECK(nck_ngram_losses(ngrams, tokens.data(), offsets.data(), documents, 1, order,
                           result.data(), threads) == NCK_OK);
    nck_free_ngrams(ngrams);
    return result;
  }
};

}  // namespace

TEST_CASE(a_long_text_has_the_same_counts_for_any_number_of_threads) {
  const Text text;
  std::vector<std::int64_t> stream = text.tokens;
  stream.front() = stream.back() = 0;
  const auto targets = static_cast<std::int64_t>(stream.size()) - 1;
  const auto followers = [&](std::int32_t threads) {
    nck_ngrams* ngrams = nullptr;
    CHECK(nck_count_long_text(stream.data(), 8, targets, 10, 6, 3, 2, 1000, &ngrams, threads) ==
          NCK_OK);
    nck_ngram_arrays arrays;
    CHECK(nck_ngram_arrays_of(ngrams, &arrays) == NCK_OK);
    std::vector<std::uint32_t> result(arrays.followers,
                                      arrays.followers + 3 * arrays.followers_size);
    nck_free_ngrams(ngrams);
    return result;
  };
  const std::vector<std::uint32_t> expected = followers(1);
  CHECK(expected.size() > 1000);
  for (const std::int32_t threads : {2, 4}) CHECK(followers(threads) == expected);
}

TEST_CASE(losses_have_the_same_bits_for_any_number_of_threads) {
  const Text text;
  const std::vector<double> expected = text.losses(1);
  for (const std::int32_t threads : {2, 4}) CHECK(text.losses(threads) == expected);
}

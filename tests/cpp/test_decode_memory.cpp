// A call of nck_decode that fails, at any allocation or for an argument, changes nothing: the
// decoder continues with the numbers of one that never failed.
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "failing_allocations.hpp"
#include "small_gpt.hpp"

namespace {

using kernel_testing::index;
using testing::budget;
using Tokens = std::vector<std::int64_t>;

constexpr std::int64_t rows = 3;
const Tokens begin{1, 2, 3, 4, 5, 6, 7, 8, 9};           // (rows, 3)
const Tokens next{28, 0, 11};                            // (rows, 1)
const Tokens other{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2};  // (rows, 4)

// A decoder that has read `begin`.
class Reader {
 public:
  explicit Reader(const testing::SmallGpt& gpt) {
    CHECK(nck_open_decoder(&gpt.model, rows, &decoder_) == NCK_OK);
    (void)logits(begin, 0);
  }
  ~Reader() { nck_close_decoder(decoder_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  std::int32_t read(const Tokens& tokens, std::int64_t first, float* to,
                    std::int32_t threads = 1) const {
    return nck_decode(decoder_, tokens.data(), static_cast<std::int64_t>(tokens.size()) / rows,
                      first, to, threads);
  }
  nck_decoder* decoder() const { return decoder_; }
  // Of a call that must succeed.
  std::vector<float> logits(const Tokens& tokens, std::int64_t first) const {
    std::vector<float> found(index(rows * testing::SmallGpt::vocab));
    CHECK(read(tokens, first, found.data()) == NCK_OK);
    return found;
  }

 private:
  nck_decoder* decoder_ = nullptr;
};

// Fails at every allocation of reading the tokens, then continues. Returns how many failed.
int fail_at_every_allocation(const Tokens& tokens, std::int64_t first) {
  const testing::SmallGpt gpt;
  const std::vector<float> expected = Reader(gpt).logits(next, 3);
  const std::vector<float> expected_start = Reader(gpt).logits(other, 0);
  const std::vector<float> expected_here = Reader(gpt).logits(tokens, first);
  for (int allowed = 0;; ++allowed) {
    const Reader reader(gpt);
    std::vector<float> found(expected.size());
    std::int32_t status = NCK_OK;
    // A new thread has no working space yet.
    std::thread([&] {
      budget = allowed;
      status = reader.read(tokens, first, found.data());
      budget = -1;
    }).join();
    if (status == NCK_OK) {
      CHECK(found == expected_here);
      return allowed;
    }
    CHECK(status == NCK_MEMORY);
    CHECK(found == std::vector<float>(expected.size()));
    CHECK(reader.logits(next, 3) == expected);
    CHECK(reader.logits(other, 0) == expected_start);
  }
}

}  // namespace

TEST_CASE(rows_at_their_own_positions_without_memory_leave_the_decoder_as_it_was) {
  const testing::SmallGpt gpt;
  const std::vector<std::int64_t> chosen{0, 2}, tokens{5, 6};
  const auto read = [&](const Reader& reader, float* to) {
    return nck_decode_rows(reader.decoder(), chosen.data(), 2, tokens.data(), 1, nullptr, to, 1);
  };
  const std::vector<float> after_begin = Reader(gpt).logits(next, 3);
  std::vector<float> expected(index(rows * testing::SmallGpt::vocab));
  const Reader whole(gpt);
  CHECK(read(whole, expected.data()) == NCK_OK);
  for (int allowed = 0;; ++allowed) {
    const Reader reader(gpt);
    std::vector<float> found(expected.size());
    std::int32_t status = NCK_OK;
    std::thread([&] {
      budget = allowed;
      status = read(reader, found.data());
      budget = -1;
    }).join();
    if (status == NCK_OK) {
      CHECK(found == expected);
      CHECK(allowed >= 1);
      return;
    }
    CHECK(status == NCK_MEMORY);
    CHECK(found == std::vector<float>(expected.size()));
    CHECK(reader.logits(next, 3) == after_begin);
  }
}

TEST_CASE(a_new_start_without_memory_leaves_the_decoder_as_it_was) {
  CHECK(fail_at_every_allocation(other, 0) >= 3);
}

TEST_CASE(a_step_without_memory_leaves_the_decoder_as_it_was) {
  CHECK(fail_at_every_allocation({4, 4, 4, 4, 4, 4}, 3) == 1);
}

TEST_CASE(a_refused_start_leaves_the_decoder_as_it_was) {
  const testing::SmallGpt gpt;
  const std::vector<float> expected = Reader(gpt).logits(next, 3);
  const Reader reader(gpt);
  std::vector<float> found(expected.size());
  const auto refused = [&](const Tokens& tokens, std::int64_t first, std::int32_t threads,
                           const char* message) {
    CHECK(reader.read(tokens, first, found.data(), threads) == NCK_ARGUMENT);
    CHECK(std::string(nck_last_error()) == message);
    CHECK(found == std::vector<float>(expected.size()));
  };
  refused({1, 2, 29}, 0, 1, "token 0 of row 2 must be in [0, 29), got 29");
  refused({1, 2, 3, -1, 5, 6}, 0, 1, "token 1 of row 1 must be in [0, 29), got -1");
  refused({1, 2, 3}, 0, 0, "threads must be at least 1, got 0");
  refused({1, 2, 3}, 2, 1, "first must be 0 or the 3 tokens that were read, got 2");
  refused(Tokens(18), 0, 1, "length must be in [1, 5], got 6");
  refused(other, 3, 1, "first + length must be at most block_size 5, got 7");
  CHECK(reader.read({1, 2, 3}, 0, nullptr) == NCK_ARGUMENT);
  CHECK(std::string(nck_last_error()) == "logits must not be NULL");
  CHECK(reader.logits(next, 3) == expected);
}

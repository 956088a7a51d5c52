// Threads through the C ABI, for ThreadSanitizer: several callers at once, on the library's threads
// (no OpenMP runtime is loaded), and buffers that move between threads.
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/nck.h"
#include "testing.hpp"

namespace {

constexpr std::int64_t rows = 700, vocab = 65;

struct Batch {
  std::vector<float> logits = std::vector<float>(rows * vocab);
  std::vector<float> gradient = std::vector<float>(rows * vocab);
  std::vector<float> losses = std::vector<float>(rows), log_sums = losses, correct = losses;
  std::vector<std::int64_t> targets = std::vector<std::int64_t>(rows);

  Batch() {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = static_cast<float>(i * 2654435761U % 1000) / 100.0F;
    }
    for (std::size_t i = 0; i < targets.size(); ++i) {
      targets[i] = static_cast<std::int64_t>(i) % vocab;
    }
  }

  std::int32_t run(int threads, bool in_place) {
    const nck_loss loss{-100, 0, 0, 0, NCK_NONE};
    float* const to = in_place ? logits.data() : gradient.data();
    return nck_cross_entropy(logits.data(), rows, vocab, vocab, NCK_FLOAT32, targets.data(),
                             nullptr, nullptr, &loss, nullptr, 0, to, vocab, losses.data(),
                             log_sums.data(), correct.data(), threads);
  }
};

template <class Body>
void at_once(int callers, const Body& body) {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&body, caller] { body(caller); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE(concurrent_callers_get_the_results_of_one_alone) {
  Batch alone;
  CHECK(alone.run(1, false) == NCK_OK);
  at_once(2, [&](int caller) {
    for (int turn = 0; turn < 40; ++turn) {
      Batch own;
      const bool in_place = turn % 2 == 1;
      // Sizes differ, so the threads are started anew between two runs.
      CHECK(own.run(2 + (turn / 10 + caller) % 3, in_place) == NCK_OK);
      CHECK(own.losses == alone.losses);
      CHECK((in_place ? own.logits : own.gradient) == alone.gradient);
    }
  });
}

TEST_CASE(decoders_run_concurrently) {
  constexpr std::int64_t texts = 100, width = 8;
  std::vector<float> weights((12 * width + vocab) * width);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<float>(i * 2654435761U % 1000) / 1000.0F - 0.5F;
  }
  const float* const at = weights.data();
  const nck_gpt_layer layer{at, at + 3 * width * width, at + 4 * width * width,
                            at + 8 * width * width};
  const float* const head = at + 12 * width * width;
  const nck_gpt model{.vocab = vocab,
                      .n_embd = width,
                      .n_layer = 1,
                      .n_head = 2,
                      .block_size = 16,
                      .prev_token_tables = 0,
                      .hash_embed_rows = 0,
                      .hash_embed_longest = 0,
                      .dtype = NCK_FLOAT32,
                      .activation = NCK_RELU,
                      .input_norm = 1,
                      .qk_norm = 1,
                      .output_norm = 0,
                      .eps = 1e-5,
                      .rope_base = 10000,
                      .softcap = 0,
                      .wte = head,
                      .wpe = nullptr,
                      .lm_head = head,
                      .layers = &layer};
  const auto read = [&](int threads) {
    nck_decoder* decoder = nullptr;
    CHECK(nck_open_decoder(&model, texts, &decoder) == NCK_OK);
    std::vector<float> logits(texts * vocab);
    std::vector<std::int64_t> tokens(texts);
    for (std::int64_t step = 0; step < 20; ++step) {
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = (static_cast<std::int64_t>(i) + step) % vocab;
      }
      CHECK(nck_decode(decoder, tokens.data(), 1, step, logits.data(), threads) == NCK_OK);
    }
    nck_close_decoder(decoder);
    return logits;
  };
  const std::vector<float> alone = read(1);
  at_once(2, [&](int caller) { CHECK(read(2 + caller) == alone); });
}

TEST_CASE(rows_are_scaled_by_a_team) {
  at_once(2, [](int) {
    std::vector<float> matrix(4000 * vocab, 2.0F), factors(4000);
    for (std::size_t i = 0; i < factors.size(); ++i) factors[i] = static_cast<float>(i);
    CHECK(nck_scale_rows(matrix.data(), 4000, vocab, vocab, NCK_FLOAT32, factors.data(), 1,
                         matrix.data(), vocab, 4) == NCK_OK);
    for (std::size_t i = 0; i < matrix.size(); ++i) {
      CHECK(matrix[i] == 2.0F * static_cast<float>(i / vocab));
    }
  });
}

TEST_CASE(a_table_and_its_gradient_are_shared_by_a_team) {
  constexpr std::int64_t width = 130, tokens = 900, vocabulary = 40;
  const nck_embeddings sizes{vocabulary, width, 1, 0, 0, NCK_FLOAT32};
  const std::vector<float> table(2 * vocabulary * width, 1.0F);
  std::vector<std::int64_t> text(tokens);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::int64_t>(i * i % 40);
  at_once(2, [&](int) {
    std::vector<float> sums(tokens * width), gradient(table.size());
    CHECK(nck_embed(&sizes, table.data(), text.data(), 3, tokens / 3, nullptr, sums.data(), 3) ==
          NCK_OK);
    CHECK(nck_embed_backward(&sizes, text.data(), 3, tokens / 3, nullptr, sums.data(),
                             gradient.data(), 4) == NCK_OK);
    double total = 0, expected = 0;
    for (const float x : gradient) total += static_cast<double>(x);
    for (const float x : sums) expected += static_cast<double>(x) * static_cast<double>(x);
    CHECK(total == expected);  // integers: each sum is added to as many rows as it has terms
  });
}

TEST_CASE(a_failed_call_sets_the_message_of_its_thread_only) {
  at_once(3, [](int caller) {
    for (int turn = 0; turn < 50; ++turn) {
      Batch own;
      own.targets[static_cast<std::size_t>(caller)] = vocab;
      CHECK(own.run(2, false) == NCK_TARGET);
      const char wanted[] = "target of row ";
      CHECK(std::strncmp(nck_last_error(), wanted, sizeof wanted - 1) == 0);
      CHECK(nck_last_error()[sizeof wanted - 1] == static_cast<char>('0' + caller));
    }
  });
}

TEST_CASE(buffers_move_between_threads) {
  at_once(4, [](int caller) {
    for (int turn = 0; turn < 100; ++turn) {
      void* buffer = nullptr;
      CHECK(nck_take_buffer((1 + (turn + caller) % 3) * (std::int64_t{2} << 20U), &buffer) ==
            NCK_OK);
      auto* const bytes = static_cast<unsigned char*>(buffer);
      std::memset(bytes, caller, 4096);
      for (int i = 0; i < 4096; ++i) CHECK(bytes[i] == caller);
      CHECK(nck_kept_bytes() >= 0);
      nck_give_buffer(buffer);
      if (turn % 25 == caller) nck_drop_buffers();
    }
  });
}

}  // namespace

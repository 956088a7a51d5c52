// Counted n-grams: counting, opening counts that may be damaged, lookups, counts that grow with a
// text, and texts that a network and counts continue together.
#include <algorithm>

#include "input.hpp"

namespace {

using fuzz::Buffer;
using fuzz::check_call;
using fuzz::infinity;
using fuzz::Input;
using fuzz::nan;

constexpr double close = 1e-9;

struct FreeCounts {
  void operator()(nck_ngrams* counts) const { nck_free_ngrams(counts); }
  void operator()(nck_adaptive* counts) const { nck_free_adaptive(counts); }
};
using Counts = std::unique_ptr<nck_ngrams, FreeCounts>;
using Adaptive = std::unique_ptr<nck_adaptive, FreeCounts>;

// Documents end to end. The offsets have a separate end for each.
struct Text {
  Buffer tokens, offsets;
  std::int64_t documents, size;

  Text(Input& input, std::int64_t vocab, std::int64_t least, std::int64_t most)
      : tokens(0), offsets(0), documents(input.between(0, 4)), size(0) {
    size = documents == 0 ? 0 : input.between(0, most);
    if (vocab <= least) size = 0;
    tokens = input.between_all(size, least, std::max(least, vocab - 1));
    offsets = Buffer((documents + 1) * 8);
    auto* const at = offsets.as<std::int64_t>();
    for (std::int64_t d = 1; d < documents; ++d) at[d] = input.between(at[d - 1], size);
    at[documents] = size;
  }
  std::int64_t targets() const { return size + documents; }
};

// Now and then a text that every call must refuse.
void damage(Input& input, Text& text, std::int64_t vocab) {
  if (input.refused || text.size == 0 || !input.chance(12)) return;
  input.refused = true;
  if (input.chance(2)) {
    text.tokens.as<std::int64_t>()[input.between(0, text.size - 1)] =
        input.one_of<std::int64_t>({-1, vocab, fuzz::largest, fuzz::smallest});
  } else {
    text.offsets.as<std::int64_t>()[0] = input.one_of<std::int64_t>({-1, 1, fuzz::smallest});
  }
}

Counts count(Input& input, std::int64_t vocab, std::int32_t order, Text& text) {
  input.begin_call();
  nck_ngrams* counts = nullptr;
  const auto given_order = input.argument<std::int32_t>(order, {0, 17, -1});
  const auto given_vocab = input.argument<std::int64_t>(vocab, {0, -1, (1 << 20) + 1});
  const auto given_documents = input.argument<std::int64_t>(text.documents, {-1, fuzz::largest});
  const auto* const tokens = input.pointer(text.tokens.as<std::int64_t>(), text.size > 0);
  const auto* const offsets = input.pointer(text.offsets.as<std::int64_t>());
  nck_ngrams** const to = input.pointer(&counts);
  const std::int32_t threads = input.threads();
  damage(input, text, vocab);
  const std::int32_t status =
      nck_count_ngrams(tokens, offsets, given_documents, given_vocab, given_order, to, threads);
  CHECK(status == (input.refused ? NCK_ARGUMENT : NCK_OK));
  CHECK((counts != nullptr) == (status == NCK_OK));
  return Counts(counts);
}

template <class Token>
Buffer stream_of(Text& text, bool& is_wrong, Input& input) {
  Buffer stream((text.targets() + 1) * static_cast<std::int64_t>(sizeof(Token)));
  Token* to = stream.as<Token>() + 1;
  const auto* const offsets = text.offsets.as<std::int64_t>();
  for (std::int64_t d = 0; d < text.documents; ++d) {
    for (std::int64_t i = offsets[d]; i < offsets[d + 1]; ++i) {
      *to++ = static_cast<Token>(text.tokens.as<std::int64_t>()[i]);
    }
    ++to;
  }
  if (!is_wrong && input.chance(12)) {
    stream.as<Token>()[input.between(0, text.targets())] = static_cast<Token>(-1);
    is_wrong = true;
  }
  return stream;
}

Counts count_long(Input& input, std::int64_t vocab, std::int32_t order, Text& text) {
  input.begin_call();
  nck_ngrams* counts = nullptr;
  const std::int64_t targets = text.targets();
  const auto given_order = input.argument<std::int32_t>(order, {0, 17, -1});
  const auto given_vocab = input.argument<std::int64_t>(vocab, {0, -1, (1 << 20) + 1});
  const auto given_targets =
      input.argument<std::int64_t>(targets, {-1, (std::int64_t{1} << 31) + 1});
  const auto cut_length =
      input.argument(static_cast<std::int32_t>(input.between(2, 17)), {0, 1, 18});
  const auto cut_count = input.argument<std::int64_t>(input.between(2, 4), {0, 1, fuzz::largest});
  const auto chunk = input.argument<std::int64_t>(
      input.one_of<std::int64_t>({1, 7, 100, std::int64_t{1} << 31}), {0, -1, fuzz::largest});
  const auto bytes =
      input.argument(vocab > 255 ? 2 : input.one_of<std::int32_t>({1, 2, 4, 8}), {0, 3, -1, 16});
  nck_ngrams** const to = input.pointer(&counts);
  const bool is_null = input.argument(false, {true});
  const std::int32_t threads = input.threads();
  const Buffer stream = bytes == 1   ? stream_of<std::uint8_t>(text, input.refused, input)
                        : bytes == 2 ? stream_of<std::uint16_t>(text, input.refused, input)
                        : bytes == 4 ? stream_of<std::uint32_t>(text, input.refused, input)
                                     : stream_of<std::uint64_t>(text, input.refused, input);
  const std::int32_t status = nck_count_long_text(
      is_null ? nullptr : const_cast<Buffer&>(stream).as<void>(), bytes, given_targets, given_vocab,
      given_order, cut_length, cut_count, chunk, to, threads);
  CHECK(status == (input.refused ? NCK_ARGUMENT : NCK_OK));
  return Counts(counts);
}

// Arrays of exactly the size that the counts claim, so that a lookup beyond them is seen.
struct Arrays {
  nck_ngram_arrays arrays{};
  std::vector<Buffer> kept;

  template <class T>
  void copy(const T*& array, std::int64_t count) {
    if (array == nullptr) return;
    kept.emplace_back(count * static_cast<std::int64_t>(sizeof(T)));
    if (count > 0) std::memcpy(kept.back().as<T>(), array, kept.back().size);
    array = kept.back().as<T>();
  }

  explicit Arrays(const nck_ngrams* counts) {
    CHECK(nck_ngram_arrays_of(counts, &arrays) == NCK_OK);
    copy(arrays.stream, arrays.stream_size);
    copy(arrays.nodes, 2 * arrays.nodes_size);
    copy(arrays.children, 2 * arrays.children_size);
    copy(arrays.followers, 3 * arrays.followers_size);
    copy(arrays.dropped, 2 * arrays.dropped_size);
    copy(arrays.discounts, 6 * arrays.order);
    copy(arrays.counts_of_counts, 8 * arrays.order);
  }

  void damage(Input& input) {
    for (std::int64_t changes = input.between(1, 6); changes > 0; --changes) {
      Buffer& buffer = kept[static_cast<std::size_t>(
          input.between(0, static_cast<std::int64_t>(kept.size()) - 1))];
      const auto words = static_cast<std::int64_t>(buffer.size / 4);
      if (words == 0) continue;
      std::uint32_t& word =
          buffer.as<std::uint32_t>()[input.between(0, std::min<std::int64_t>(words - 1, 65000))];
      word = input.one_of<std::uint32_t>({word + 1, word - 1, word ^ 0x80000000U, 0, 0xFFFFFFFFU,
                                          input.byte(), word ^ (1U << (input.byte() % 32U))});
    }
    if (input.chance(4)) arrays.vocab = input.between(1, 40);
    if (input.chance(4)) arrays.order = input.between(1, arrays.order);
    if (input.chance(4)) arrays.nodes_size = input.between(0, arrays.nodes_size);
    if (input.chance(4)) arrays.children_size = input.between(0, arrays.children_size);
    if (input.chance(4)) arrays.followers_size = input.between(0, arrays.followers_size);
    if (input.chance(4)) arrays.dropped_size = input.between(0, arrays.dropped_size);
    if (input.chance(4)) arrays.stream_size = input.between(0, arrays.stream_size);
    if (input.chance(4))
      arrays.targets = input.one_of<std::int64_t>({0, 1, 1 << 30, -1, 1LL << 40});
    if (input.chance(16)) arrays.counts_of_counts = nullptr;
    if (input.chance(16)) arrays.stream = nullptr;
    if (input.chance(16)) arrays.nodes = nullptr;
    if (input.chance(16)) arrays.dropped = nullptr;
  }
};

// Whether the numbers are claimed too: counts that were damaged promise only that no lookup leaves
// the arrays.
void look_up(Input& input, const nck_ngrams* counts, std::int64_t vocab, std::int32_t order,
             bool is_whole) {
  Text text(input, vocab, 1, 60);
  const std::int32_t least = static_cast<std::int32_t>(input.between(1, order)),
                     most = static_cast<std::int32_t>(input.between(least, order));
  Buffer losses((most - least + 1) * text.targets() * 8);
  input.begin_call();
  const auto most_order = input.argument<std::int32_t>(most, {order + 1, 0, -1});
  const auto least_order = input.argument<std::int32_t>(least, {0, most + 1, -1});
  const auto documents = input.argument<std::int64_t>(text.documents, {-1, fuzz::largest});
  const auto* const tokens = input.pointer(text.tokens.as<std::int64_t>(), text.size > 0);
  const auto* const offsets = input.pointer(text.offsets.as<std::int64_t>());
  auto* const to = input.pointer(losses.as<double>(), text.targets() > 0);
  const nck_ngrams* const from = input.pointer(const_cast<nck_ngrams*>(counts));
  damage(input, text, vocab);
  const std::int32_t status = check_call(input, {&losses}, [&](std::int32_t threads) {
    return nck_ngram_losses(from, tokens, offsets, documents, least_order, most_order, to, threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK);

  // The contexts of a document's targets, as one context each, by the model of the least order.
  const auto* const at = text.offsets.as<std::int64_t>();
  if (text.documents == 0) return;
  const std::int64_t begin = at[0], end = at[1], contexts = end - begin + 1;
  std::vector<std::int64_t> stream, starts{0};
  for (std::int64_t c = 0; c < contexts; ++c) {
    stream.push_back(0);
    for (std::int64_t i = begin; i < begin + c; ++i) stream.push_back(tokens[i]);
    starts.push_back(static_cast<std::int64_t>(stream.size()));
  }
  Buffer probabilities(contexts * vocab * 8);
  CHECK(nck_ngram_distributions(counts, stream.data(), starts.data(), contexts, least,
                                probabilities.as<double>(), 2) == NCK_OK);
  for (std::int64_t c = 0; is_whole && c < contexts; ++c) {
    const double* const row = probabilities.as<double>() + c * vocab;
    double sum = 0;
    for (std::int64_t w = 0; w < vocab; ++w) {
      CHECK(row[w] > 0);
      sum += row[w];
    }
    CHECK(std::fabs(sum - 1) < close);
    const std::int64_t target = c == contexts - 1 ? 0 : tokens[begin + c];
    CHECK(std::fabs(losses.as<double>()[c] + std::log(row[target])) < close);
  }
}

void read_on(Input& input, const nck_ngrams* counts, std::int64_t vocab, std::int32_t order,
             bool is_whole) {
  nck_adaptive* opened = nullptr;
  input.begin_call();
  const auto given_order =
      input.argument(static_cast<std::int32_t>(input.between(1, order)), {0, -1, order + 1});
  const auto read_order = input.argument(static_cast<std::int32_t>(input.between(0, 16)), {-1, 17});
  const double rate = input.argument(input.one_of({0.0, 0.1, 10.0}), {-0.1, 11.0, nan});
  const double gate_rate = input.argument(input.one_of({0.0, 0.1, 10.0}), {-0.1, infinity, nan});
  nck_adaptive** const to = input.pointer(&opened);
  const std::int32_t status =
      nck_open_adaptive(counts, given_order, read_order, input.one_of({0, 1}), rate, gate_rate, to);
  CHECK(status == (input.refused ? NCK_ARGUMENT : NCK_OK));
  Adaptive adaptive(opened), other;
  if (adaptive == nullptr) return;
  for (std::int64_t calls = input.between(1, 4); calls > 0; --calls) {
    const std::int64_t count = input.between(0, 80);
    const bool with_network = input.chance(3);
    Buffer tokens = input.between_all(count, 0, vocab - 1), losses(count * 8), counted(count * 8);
    Buffer network(2 * count * 8), shares((vocab + 1) * 8), probabilities(vocab * 8);
    for (std::int64_t i = 0; i < 2 * count; ++i) {
      network.as<double>()[i] = static_cast<double>(input.between(0, 100)) / 100;
    }
    for (std::int64_t w = 0; w <= vocab; ++w) {
      shares.as<double>()[w] = 1 / static_cast<double>(vocab + 1);
    }
    if (input.chance(4)) {
      CHECK(nck_copy_adaptive(adaptive.get(), &opened) == NCK_OK);
      other.reset(opened);
    }
    input.begin_call();
    const auto given = input.argument<std::int64_t>(count, {-1, fuzz::largest});
    if (with_network && count > 0) {
      network.as<double>()[0] = input.argument(network.as<double>()[0], {-0.1, 1.1, nan});
    }
    if (count > 0) {
      auto& token = tokens.as<std::int64_t>()[count - 1];
      token = input.argument<std::int64_t>(token, {-1, vocab, fuzz::largest});
    }
    const auto* const from = input.pointer(tokens.as<std::int64_t>(), count > 0);
    double* const result = input.pointer(losses.as<double>(), count > 0);
    const std::int32_t read = nck_adaptive_read(
        adaptive.get(), from, given, with_network ? network.as<double>() : nullptr, result,
        input.chance(2) ? counted.as<double>() : nullptr);
    CHECK(read == (input.refused ? NCK_ARGUMENT : NCK_OK));
    CHECK(nck_adaptive_distribution(adaptive.get(), with_network ? shares.as<double>() : nullptr,
                                    probabilities.as<double>()) == NCK_OK);
    double sum = 0;
    for (std::int64_t w = 0; w < vocab; ++w) sum += probabilities.as<double>()[w];
    if (is_whole) CHECK(std::fabs(sum - 1) < close);
    CHECK(nck_adaptive_bytes(adaptive.get()) > 0);
    if (other != nullptr && !input.refused && !with_network) {  // the copy goes on alike
      Buffer again(count * 8);
      CHECK(nck_adaptive_read(other.get(), from, count, nullptr, again.as<double>(), nullptr) ==
            NCK_OK);
      CHECK(again.copy() == losses.copy());
    }
    other.reset();
  }
}

void mix(Input& input, const nck_ngrams* counts, std::int64_t vocab, bool is_whole) {
  nck_mixture mixture{};
  mixture.ngrams = counts;
  mixture.rows = input.between(0, 5);
  mixture.context_length = input.between(0, 9);
  mixture.context_stride = mixture.context_length + input.between(0, 3);
  mixture.row_stride = vocab + 1 + input.between(0, 3);
  mixture.dtype = input.one_of<std::int32_t>({NCK_FLOAT32, NCK_FLOAT64});
  mixture.share_scale = input.one_of({1.0, 0.0, 1e300});
  mixture.share_offset = input.one_of({0.0, -3.0, 1e300});
  const std::int64_t rows = mixture.rows;
  const auto spread = [&](std::int64_t width, std::int64_t stride) {
    return rows == 0 || width == 0 ? 0 : (rows - 1) * stride + width;
  };
  Buffer contexts =
      input.between_all(spread(mixture.context_length, mixture.context_stride), 0, vocab - 1);
  Buffer logits = input.numbers(spread(vocab + 1, mixture.row_stride), mixture.dtype);
  const bool chooses = input.chance(2);
  const std::int64_t count = rows == 0 ? 0 : input.between(0, chooses ? 12 : rows);
  Buffer chosen = input.between_all(chooses ? count : 0, 0, std::max<std::int64_t>(rows - 1, 0));
  Buffer random = input.bytes(8 * count), tokens(8 * count), results(rows * vocab * 8);
  input.begin_call();
  mixture.ngrams = input.pointer(const_cast<nck_ngrams*>(counts));
  mixture.rows = input.argument<std::int64_t>(rows, {-1, fuzz::smallest});
  mixture.context_length =
      input.argument<std::int64_t>(mixture.context_length, {-1, fuzz::largest});
  mixture.context_stride = input.argument<std::int64_t>(
      mixture.context_stride, {mixture.context_length - 1, -1, fuzz::largest});
  if (rows > 1) {
    mixture.row_stride =
        input.argument<std::int64_t>(mixture.row_stride, {vocab, -1, fuzz::largest});
  }
  mixture.dtype = input.argument<std::int32_t>(mixture.dtype, {NCK_BFLOAT16, NCK_FLOAT16, -1, 4});
  mixture.share_scale = input.argument(mixture.share_scale, {nan, infinity});
  mixture.share_offset = input.argument(mixture.share_offset, {nan, -infinity});
  mixture.contexts = input.pointer(contexts.as<std::int64_t>(), contexts.size > 0);
  mixture.logits = input.pointer(logits.as<void>(), rows > 0);
  const nck_mixture* const given = input.pointer(&mixture);
  const bool samples = input.chance(2);
  const std::int32_t status = check_call(input, {&results, &tokens}, [&](std::int32_t threads) {
    return samples ? nck_sample_mixture(given, chooses ? chosen.as<std::int64_t>() : nullptr, count,
                                        random.as<std::uint64_t>(), 1.0, 0, 1.0,
                                        tokens.as<std::int64_t>(), threads)
                   : nck_mixed_logits(given, results.as<double>(), threads);
  });
  if (input.refused) return;
  CHECK(status == NCK_OK || (samples && status == NCK_LOGITS));
  if (!samples || !is_whole) return;
  // nck_sample draws the same from the rows of nck_mixed_logits.
  CHECK(nck_mixed_logits(given, results.as<double>(), 1) == NCK_OK);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t row = chooses ? chosen.as<std::int64_t>()[i] : i;
    std::int64_t token = 0;
    static_cast<void>(nck_sample(results.as<double>() + row * vocab, 1, vocab, vocab, NCK_FLOAT64,
                                 random.as<std::uint64_t>() + i, nullptr, nullptr, 1.0, 0, 1.0,
                                 &token, 1));
    CHECK(token == tokens.as<std::int64_t>()[i]);
  }
}

void use(Input& input, const nck_ngrams* counts, bool is_whole) {
  nck_ngram_arrays arrays;
  CHECK(nck_ngram_arrays_of(counts, &arrays) == NCK_OK);
  CHECK(nck_ngram_bytes(counts) > 0);
  const auto order = static_cast<std::int32_t>(arrays.order);
  do {
    switch (input.between(0, 2)) {
      case 0:
        look_up(input, counts, arrays.vocab, order, is_whole);
        break;
      case 1:
        read_on(input, counts, arrays.vocab, order, is_whole);
        break;
      default:
        mix(input, counts, arrays.vocab, is_whole);
    }
  } while (!input.empty());
}

}  // namespace

void fuzz::fuzz(Input& input) {
  const std::int64_t vocab = input.chance(4) ? input.between(1, 300) : input.between(1, 12);
  const auto order = static_cast<std::int32_t>(input.between(1, input.chance(4) ? 16 : 5));
  Text text(input, vocab, 1, 400);
  const Counts counts =
      input.chance(2) ? count_long(input, vocab, order, text) : count(input, vocab, order, text);
  if (counts == nullptr) return;
  if (input.chance(3)) return use(input, counts.get(), true);
  Arrays arrays(counts.get());
  const bool is_whole = input.chance(4);
  if (!is_whole) arrays.damage(input);
  nck_ngrams* opened = nullptr;
  const std::int32_t status = nck_open_ngrams(&arrays.arrays, &opened);
  CHECK(status == NCK_OK || (status == NCK_ARGUMENT && !is_whole));
  const Counts owner(opened);
  if (status == NCK_OK) use(input, opened, is_whole);
}

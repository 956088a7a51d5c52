// The n-gram functions of the C ABI: check the arguments and share targets among threads.
#include <algorithm>
#include <array>
#include <memory>

#include "kernels/checks.hpp"
#include "kernels/cpu/ngram/handle.hpp"
#include "kernels/cpu/ngram/lookup.hpp"
#include "kernels/cpu/ngram/table.hpp"
#include "kernels/cpu/runtime/parallel.hpp"

namespace nanochat::kernels::ngram {
namespace {

// The fewest lookups for which a thread is worth its start.
constexpr std::int64_t chunk_targets = 4096;

void check_offsets(const char* name, const std::int64_t* offsets, std::int64_t count) {
  check_pointer(offsets, name);
  if (offsets[0] != 0) {
    throw Failure(NCK_ARGUMENT, "%s must begin with 0, got %lld", name,
                  static_cast<long long>(offsets[0]));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    if (offsets[i + 1] < offsets[i]) {
      throw Failure(NCK_ARGUMENT, "%s must not fall, got %lld after %lld at %lld", name,
                    static_cast<long long>(offsets[i + 1]), static_cast<long long>(offsets[i]),
                    static_cast<long long>(i + 1));
    }
  }
}

// Checks documents and returns their number of targets, the ends of documents included.
std::int64_t check_documents(const std::int64_t* tokens, const std::int64_t* offsets,
                             std::int64_t documents, std::int64_t vocab) {
  check_range("documents", documents, 0, max_targets);
  check_offsets("offsets", offsets, documents);
  const std::int64_t count = offsets[documents];
  if (count > max_targets - documents) {
    throw Failure(NCK_ARGUMENT,
                  "tokens and documents together must be at most 2^27, got %lld tokens in %lld"
                  " documents",
                  static_cast<long long>(count), static_cast<long long>(documents));
  }
  check_tokens(tokens, count, 1, vocab);
  return count + documents;
}

std::vector<std::uint32_t> stream_of(const std::int64_t* tokens, const std::int64_t* offsets,
                                     std::int64_t documents) {
  std::vector<std::uint32_t> stream;
  stream.reserve(static_cast<std::size_t>(offsets[documents] + documents + 1));
  stream.push_back(bos);
  for (std::int64_t d = 0; d < documents; ++d) {
    for (std::int64_t i = offsets[d]; i < offsets[d + 1]; ++i) {
      stream.push_back(static_cast<std::uint32_t>(tokens[i]));
    }
    stream.push_back(bos);
  }
  return stream;
}

// Checks a token stream: BOS first and last, and tokens of the vocabulary.
template <class Token>
void check_stream(const Token* stream, std::int64_t targets, std::int64_t vocab) {
  for (std::int64_t i = 0; i <= targets; ++i) {
    const std::uint64_t token = stream[i];
    if (token >= static_cast<std::uint64_t>(vocab)) {
      throw Failure(NCK_ARGUMENT, "token %lld must be in [0, %lld), got %llu",
                    static_cast<long long>(i), static_cast<long long>(vocab),
                    static_cast<unsigned long long>(token));
    }
  }
  if (stream[0] != bos || stream[targets] != bos) {
    throw Failure(NCK_ARGUMENT, "the stream must begin and end with BOS");
  }
}

void check_whole(bool holds, const char* what) {
  if (!holds) throw Failure(NCK_ARGUMENT, "the counts are damaged: %s", what);
}

// Checks that no lookup can leave the arrays, and returns them as a view.
View opened(const nck_ngram_arrays& arrays) {
  check_range("order", arrays.order, 1, max_order);
  check_range("vocab", arrays.vocab, 1, max_vocab);
  check_range("stream_size", arrays.stream_size, 1, max_targets + 1);
  constexpr std::int64_t most = std::int64_t{1} << 31U;
  check_range("nodes_size", arrays.nodes_size, 2, most);
  check_range("children_size", arrays.children_size, 0, most);
  check_range("followers_size", arrays.followers_size, 0, most);
  const bool is_cut = arrays.counts_of_counts != nullptr;
  check_range("targets", arrays.targets, 0, is_cut ? max_cut_targets : max_targets);
  check_range("dropped_size", arrays.dropped_size, 0, is_cut ? arrays.nodes_size - 1 : 0);
  View view;
  view.order = static_cast<int>(arrays.order);
  view.vocab = static_cast<std::uint32_t>(arrays.vocab);
  view.targets = static_cast<std::uint32_t>(arrays.targets);
  view.last_position = static_cast<std::uint32_t>(arrays.stream_size - 1);
  view.node_count = static_cast<std::size_t>(arrays.nodes_size);
  view.child_count = static_cast<std::size_t>(arrays.children_size);
  view.follower_count = static_cast<std::size_t>(arrays.followers_size);
  check_pointer(arrays.stream, "stream");
  check_pointer(arrays.nodes, "nodes");
  if (view.child_count > 0) check_pointer(arrays.children, "children");
  if (view.follower_count > 0) check_pointer(arrays.followers, "followers");
  check_pointer(arrays.discounts, "discounts");
  view.stream = arrays.stream;
  view.nodes = reinterpret_cast<const Node*>(arrays.nodes);
  view.children = reinterpret_cast<const Child*>(arrays.children);
  view.followers = reinterpret_cast<const Follower*>(arrays.followers);
  view.dropped_count = static_cast<std::size_t>(arrays.dropped_size);
  view.first_cut = view.node_count - 1 - view.dropped_count;
  if (view.dropped_count > 0) check_pointer(arrays.dropped, "dropped");
  view.dropped = reinterpret_cast<const Dropped*>(arrays.dropped);
  view.counts_of_counts = arrays.counts_of_counts;
  const double* discount = arrays.discounts;
  for (int depth = 0; depth < view.order; ++depth) {
    for (Discounts& discounts : view.discounts[depth]) {
      for (std::size_t i = 0; i < discounts.size(); ++i, ++discount) {
        check_whole(*discount > 0 && *discount <= static_cast<double>(i) + 1, "a discount");
        discounts[i] = *discount;
      }
    }
  }
  check_whole(is_cut || view.targets == view.last_position, "the number of targets");
  for (std::size_t i = 0; is_cut && i < static_cast<std::size_t>(view.order) * 8; ++i) {
    check_whole(view.counts_of_counts[i] >= 0, "a count of counts");
  }
  for (std::uint32_t i = 0; i <= view.last_position; ++i) {
    check_whole(view.stream[i] < view.vocab, "a token of the text");
  }
  check_whole(view.stream[0] == bos && view.stream[view.last_position] == bos,
              "an end of the text");
  const std::size_t last = view.node_count - 1;
  // Counts that grow rely on it: the contexts of a path have followers, or none of them has.
  const std::uint32_t fewest = view.targets > 0 ? 1 : 0;
  check_whole(view.nodes[last].first_child == view.child_count &&
                  view.nodes[last].first_follower == view.follower_count,
              "the last node");
  for (std::size_t i = 0; i < last; ++i) {
    const Node &node = view.nodes[i], &next = view.nodes[i + 1];
    check_whole(node.first_child <= next.first_child && next.first_child <= view.child_count &&
                    node.first_follower <= next.first_follower &&
                    next.first_follower - node.first_follower >= fewest &&
                    next.first_follower <= view.follower_count,
                "a node");
    std::size_t follower = node.first_follower;
    if (next.first_follower - follower > short_list) follower += 2;
    for (; follower < next.first_follower; ++follower) {
      const Follower& each = view.followers[follower];
      check_whole(each.token < view.vocab && each.count[adjusted] > 0 && each.count[raw] > 0,
                  "a follower");
    }
  }
  for (std::size_t i = 0; i < view.child_count; ++i) {
    const std::uint32_t link = view.children[i].link, target = link & ~leaf_bit;
    check_whole((link & leaf_bit) == 0 ? link < last : target >= 1 && target <= view.last_position,
                "a child");
  }
  return view;
}

// Scores targets first … last − 1 of the documents.
void score(const View& table, const std::int64_t* tokens, const std::int64_t* offsets,
           std::int64_t documents, int least_order, int most_order, double* result,
           std::int64_t first, std::int64_t last) noexcept {
  const std::int64_t stride = offsets[documents] + documents;
  // The document of the first target: the last one that begins at or before it.
  std::int64_t document = 0;
  for (std::int64_t count = documents; count > 1;) {
    const std::int64_t half = count / 2;
    if (offsets[document + half] + document + half <= first) document += half;
    count -= half;
  }
  std::array<Lookup, most_lookups> lookups;
  int waiting = 0;
  for (std::int64_t i = first; i < last; ++i) {
    while (i >= offsets[document + 1] + document + 1) ++document;
    const std::int64_t begin = offsets[document], length = i - begin - document;
    const bool is_end = begin + length == offsets[document + 1];
    const auto target = is_end ? bos : static_cast<std::uint32_t>(tokens[begin + length]);
    lookups[static_cast<std::size_t>(waiting++)] = {
        {tokens + begin, length, true}, target, result + i};
    if (waiting == most_lookups || i + 1 == last) {
      losses(table, lookups.data(), waiting, least_order, most_order, stride);
      waiting = 0;
    }
  }
}

}  // namespace
}  // namespace nanochat::kernels::ngram

extern "C" {

std::int32_t nck_count_ngrams(const std::int64_t* tokens, const std::int64_t* offsets,
                              std::int64_t documents, std::int64_t vocab, std::int32_t order,
                              nck_ngrams** ngrams, std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_range("order", order, 1, ngram::max_order);
    check_range("vocab", vocab, 1, ngram::max_vocab);
    check_threads(threads);
    check_pointer(static_cast<const void*>(ngrams), "ngrams");
    ngram::check_documents(tokens, offsets, documents, vocab);
    auto counted = std::make_unique<nck_ngrams>();
    counted->table.order = order;
    counted->table.vocab = static_cast<std::uint32_t>(vocab);
    counted->table.stream = ngram::stream_of(tokens, offsets, documents);
    ngram::build(counted->table, threads);
    counted->view = ngram::view_of(counted->table);
    *ngrams = counted.release();
  });
}

std::int32_t nck_count_long_text(const void* stream, std::int32_t token_bytes, std::int64_t targets,
                                 std::int64_t vocab, std::int32_t order, std::int32_t cut_length,
                                 std::int64_t cut_count, std::int64_t chunk, nck_ngrams** ngrams,
                                 std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_range("order", order, 1, ngram::max_order);
    check_range("vocab", vocab, 1, ngram::max_vocab);
    check_range("targets", targets, 0, ngram::max_cut_targets);
    check_range("cut_length", cut_length, 2, ngram::max_order + 1);
    check_range("cut_count", cut_count, 2, ngram::max_cut_targets);
    check_range("chunk", chunk, 1, ngram::max_cut_targets);
    check_threads(threads);
    check_pointer(stream, "stream");
    check_pointer(static_cast<const void*>(ngrams), "ngrams");
    auto counted = std::make_unique<nck_ngrams>();
    counted->table.order = order;
    counted->table.vocab = static_cast<std::uint32_t>(vocab);
    const auto count = [&](const auto* tokens) {
      ngram::check_stream(tokens, targets, vocab);
      ngram::build_long(counted->table, tokens, targets,
                        {cut_length, static_cast<std::uint32_t>(cut_count)}, chunk, threads);
    };
    switch (token_bytes) {
      case 1:
        count(static_cast<const std::uint8_t*>(stream));
        break;
      case 2:
        count(static_cast<const std::uint16_t*>(stream));
        break;
      case 4:
        count(static_cast<const std::uint32_t*>(stream));
        break;
      case 8:
        count(static_cast<const std::uint64_t*>(stream));
        break;
      default:
        throw Failure(NCK_ARGUMENT, "token_bytes must be 1, 2, 4 or 8, got %d", token_bytes);
    }
    counted->view = ngram::view_of(counted->table);
    *ngrams = counted.release();
  });
}

// NOLINTNEXTLINE(misc-const-correctness): abi.h declares it without const
void nck_free_ngrams(nck_ngrams* ngrams) { delete ngrams; }

std::int64_t nck_ngram_bytes(const nck_ngrams* ngrams) {
  if (ngrams == nullptr) return 0;
  using namespace nanochat::kernels::ngram;
  const View& view = ngrams->view;
  return static_cast<std::int64_t>(
      sizeof(*ngrams) + (std::size_t{view.last_position} + 1) * sizeof(std::uint32_t) +
      view.node_count * sizeof(Node) + view.child_count * sizeof(Child) +
      view.follower_count * sizeof(Follower) + view.dropped_count * sizeof(Dropped));
}

std::int32_t nck_ngram_arrays_of(const nck_ngrams* ngrams, nck_ngram_arrays* arrays) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(ngrams, "ngrams");
    check_pointer(arrays, "arrays");
    const ngram::View& view = ngrams->view;
    // The elements of each struct are 32-bit integers, side by side.
    const auto integers = [](const auto* elements) {
      return reinterpret_cast<const std::uint32_t*>(elements);
    };
    *arrays = {view.order,
               view.vocab,
               std::int64_t{view.targets},
               std::int64_t{view.last_position} + 1,
               static_cast<std::int64_t>(view.node_count),
               static_cast<std::int64_t>(view.child_count),
               static_cast<std::int64_t>(view.follower_count),
               static_cast<std::int64_t>(view.dropped_count),
               view.stream,
               integers(view.nodes),
               integers(view.children),
               integers(view.followers),
               integers(view.dropped),
               view.discounts[0][0].data(),
               view.counts_of_counts};
  });
}

std::int32_t nck_open_ngrams(const nck_ngram_arrays* arrays, nck_ngrams** ngrams) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(arrays, "arrays");
    check_pointer(static_cast<const void*>(ngrams), "ngrams");
    auto opened = std::make_unique<nck_ngrams>();
    opened->view = ngram::opened(*arrays);
    *ngrams = opened.release();
  });
}

std::int32_t nck_ngram_losses(const nck_ngrams* ngrams, const std::int64_t* tokens,
                              const std::int64_t* offsets, std::int64_t documents,
                              std::int32_t least_order, std::int32_t most_order, double* losses,
                              std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(ngrams, "ngrams");
    const ngram::View& table = ngrams->view;
    check_range("most_order", most_order, 1, table.order);
    check_range("least_order", least_order, 1, most_order);
    check_threads(threads);
    const std::int64_t targets = ngram::check_documents(tokens, offsets, documents, table.vocab);
    if (targets == 0) return;
    check_pointer(losses, "losses");
    parallel_for(targets, ngram::chunk_targets, threads,
                 [&](std::int64_t first, std::int64_t last) {
                   ngram::score(table, tokens, offsets, documents, least_order, most_order, losses,
                                first, last);
                 });
  });
}

std::int32_t nck_ngram_distributions(const nck_ngrams* ngrams, const std::int64_t* tokens,
                                     const std::int64_t* offsets, std::int64_t contexts,
                                     std::int32_t order, double* probabilities,
                                     std::int32_t threads) {
  using namespace nanochat::kernels;
  return guarded([&] {
    check_pointer(ngrams, "ngrams");
    const ngram::View& table = ngrams->view;
    check_range("order", order, 1, table.order);
    check_range("contexts", contexts, 0, ngram::max_targets);
    check_threads(threads);
    ngram::check_offsets("offsets", offsets, contexts);
    ngram::check_tokens(tokens, offsets[contexts], 0, table.vocab);
    if (contexts == 0) return;
    check_pointer(probabilities, "probabilities");
    const std::int64_t chunk = std::max<std::int64_t>(ngram::chunk_targets / table.vocab, 16);
    parallel_for(contexts, chunk, threads, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const ngram::Context context =
            ngram::context_of(tokens + offsets[i], offsets[i + 1] - offsets[i], order - 1);
        ngram::distribution(table, context, order, probabilities + i * table.vocab);
      }
    });
  });
}

}  // extern "C"

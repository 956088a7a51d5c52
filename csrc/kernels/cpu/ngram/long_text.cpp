// Sorts the contexts of a long text in chunks. A chunk holds the contexts that begin with certain
// tokens; one scan of the text finds them. What begins with a token that is too frequent is split
// by the token before it, and so on. The builder gets all contexts in the order of sort_contexts,
// however they are divided.
#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <new>
#include <vector>

#include "kernels/cpu/ngram/context_sorter.hpp"
#include "kernels/cpu/ngram/cut_builder.hpp"
#include "kernels/cpu/runtime/parallel.hpp"

namespace nanochat::kernels::ngram {
namespace {

constexpr std::int64_t scanned = std::int64_t{1} << 22U;  // targets that a thread scans at a time

template <class Token>
class LongText {
 public:
  LongText(const Token* stream, std::int64_t targets, std::uint32_t vocab, int longest,
           std::int64_t chunk, int threads, CutBuilder& builder)
      : stream_(stream),
        targets_(targets),
        vocab_(vocab),
        longest_(longest),
        chunk_(chunk),
        threads_(threads),
        builder_(builder) {}

  // Adds the contexts that begin with the tokens of the prefix, all at first.
  void add_all() {
    if (longest_ == 0) return add_equal();
    const std::vector<std::int64_t> with = counts_of_next();
    std::int64_t waiting = 0;
    std::uint32_t first = 0;  // token of the chunk
    for (std::uint32_t token = 0; token < vocab_; ++token) {
      if (waiting + with[token] > chunk_) {
        add_chunk(first, token, with, waiting);
        first = token;
        waiting = 0;
      }
      if (with[token] <= chunk_) {
        waiting += with[token];
        continue;
      }
      prefix_.push_back(token);
      if (token == bos || depth() == longest_) {
        add_equal();
      } else {
        add_all();
      }
      prefix_.pop_back();
      first = token + 1;
    }
    add_chunk(first, vocab_, with, waiting);
  }

 private:
  int depth() const noexcept { return static_cast<int>(prefix_.size()); }

  // Calls visit(position, token before the prefix) for the targets first … last − 1, from 0, whose
  // context begins with the prefix. The prefix has no BOS, with which the text begins.
  template <class Visit>
  void scan(std::int64_t first, std::int64_t last, const Visit& visit) const {
    const std::size_t size = prefix_.size();
    const std::uint32_t* const prefix = prefix_.data();
    for (std::int64_t i = first; i < last; ++i) {
      const Token* token = stream_ + i;
      std::size_t same = 0;
      for (; same < size && *token == prefix[same]; ++same) --token;
      if (same == size)
        visit(static_cast<std::uint32_t>(i + 1), static_cast<std::uint32_t>(*token));
    }
  }

  // Calls body(piece, first, last) for pieces of the text.
  template <class Body>
  void for_pieces(const Body& body) const {
    std::atomic<bool> out_of_memory{false};
    parallel_for(targets_, scanned, threads_, [&](std::int64_t first, std::int64_t last) {
      try {
        body(static_cast<std::size_t>(first / scanned), first, last);
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
    });
    if (out_of_memory) throw std::bad_alloc();
  }

  // How many of the contexts that begin with the prefix have each token next.
  std::vector<std::int64_t> counts_of_next() const {
    std::vector<std::int64_t> all(vocab_);
    std::mutex adding;
    for_pieces([&](std::size_t, std::int64_t first, std::int64_t last) {
      std::vector<std::int64_t> own(vocab_);
      scan(first, last, [&](std::uint32_t, std::uint32_t token) { ++own[token]; });
      const std::lock_guard lock(adding);
      std::transform(own.begin(), own.end(), all.begin(), all.begin(), std::plus<>());
    });
    return all;
  }

  // Adds contexts that are all equal: the prefix is as long as they are.
  void add_equal() {
    int shared = CutBuilder::unknown;
    const std::uint32_t last_token = prefix_.empty() ? bos : prefix_.back();
    const bool has_bos = !prefix_.empty() && last_token == bos;
    if (has_bos) prefix_.pop_back();
    scan(0, targets_, [&](std::uint32_t position, std::uint32_t token) {
      if (has_bos && token != bos) return;
      builder_.add(stream_ + position, shared);
      shared = equal;
    });
    if (has_bos) prefix_.push_back(last_token);
  }

  // Adds the contexts that have one of the tokens begin … end − 1 after the prefix.
  void add_chunk(std::uint32_t begin, std::uint32_t end, const std::vector<std::int64_t>& with,
                 std::int64_t count) {
    if (count == 0) return;
    std::vector<std::uint32_t> order(static_cast<std::size_t>(count));
    std::vector<std::uint8_t> shared(static_cast<std::size_t>(count), equal);
    std::vector<std::uint32_t> ends(end - begin + std::size_t{1});
    for (std::uint32_t token = begin; token < end; ++token) {
      const std::uint32_t first = ends[token - begin];
      ends[token - begin + 1] = first + static_cast<std::uint32_t>(with[token]);
      if (with[token] > 0) shared[first] = static_cast<std::uint8_t>(depth());
    }
    collect(begin, end, ends, order);
    // ends[i] is now the end of bucket i, which begins at the end of the one before.
    std::atomic<bool> out_of_memory{false};
    parallel_for(end - begin, 1, threads_, [&](std::int64_t bucket, std::int64_t) {
      const auto i = static_cast<std::size_t>(bucket);
      const std::uint32_t first = i == 0 ? 0 : ends[i - 1], last = ends[i];
      if (last - first < 2 || begin + i == bos) return;
      try {
        ContextSorter<Token>(stream_, vocab_, longest_, order.data(), shared.data())
            .sort(first, last, depth() + 1);
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
    });
    if (out_of_memory) throw std::bad_alloc();
    constexpr std::size_t ahead = 16;  // the text is read in the order of the contexts
    for (std::size_t i = 0; i < order.size(); ++i) {
      __builtin_prefetch(stream_ + order[std::min(i + ahead, order.size() - 1)] - 1);
      builder_.add(stream_ + order[i], i == 0 ? CutBuilder::unknown : shared[i]);
    }
  }

  // Writes the positions of each bucket in ascending order, and moves next[bucket] to its end.
  void collect(std::uint32_t begin, std::uint32_t end, std::vector<std::uint32_t>& next,
               std::vector<std::uint32_t>& order) const {
    struct Found {
      std::uint32_t position, token;
    };
    std::vector<std::vector<Found>> pieces(
        static_cast<std::size_t>((targets_ + scanned - 1) / scanned));
    for_pieces([&](std::size_t piece, std::int64_t first, std::int64_t last) {
      scan(first, last, [&](std::uint32_t position, std::uint32_t token) {
        if (token >= begin && token < end) pieces[piece].push_back({position, token});
      });
    });
    for (std::vector<Found>& piece : pieces) {
      for (const Found& each : piece) order[next[each.token - begin]++] = each.position;
      std::vector<Found>().swap(piece);
    }
  }

  const Token* stream_;
  std::int64_t targets_;
  std::uint32_t vocab_;
  int longest_;
  std::int64_t chunk_;
  int threads_;
  CutBuilder& builder_;
  std::vector<std::uint32_t> prefix_;  // the newest token first
};

}  // namespace

template <class Token>
void build_long(Table& table, const Token* stream, std::int64_t targets, const Cutoff& cutoff,
                std::int64_t chunk, int threads) {
  CutBuilder builder(table.order, table.vocab, cutoff);
  LongText<Token>(stream, targets, table.vocab, table.order - 1, chunk, threads, builder).add_all();
  builder.finish(table);
}

template void build_long(Table&, const std::uint8_t*, std::int64_t, const Cutoff&, std::int64_t,
                         int);
template void build_long(Table&, const std::uint16_t*, std::int64_t, const Cutoff&, std::int64_t,
                         int);
template void build_long(Table&, const std::uint32_t*, std::int64_t, const Cutoff&, std::int64_t,
                         int);
template void build_long(Table&, const std::uint64_t*, std::int64_t, const Cutoff&, std::int64_t,
                         int);

}  // namespace nanochat::kernels::ngram

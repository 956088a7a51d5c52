// Walks from the root to the longest context that the table has. With c the counts after a context
// h, D(c) the discount of a count, and h' the context h without its oldest token:
//
//   p(w | h) = (c(w) − D(c(w)) + Σ_v D(c(v)) · p(w | h')) / Σ_v c(v)
//
// with adjusted counts below the highest order, p(w | h') uniform for the empty context, and
// p(w | h) = p(w | h') for a context that the table does not have. A dropped n-gram has the count 0
// as c(w); in the sums, its c and D are the count that was dropped.
#include "kernels/cpu/ngram/lookup.hpp"

#include <algorithm>
#include <cmath>

namespace nanochat::kernels::ngram {
namespace {

// The counts of one context of the walk. header: where the totals are stored, or null.
struct Counts {
  const Follower* first;
  std::size_t count;
  const Follower* header;
  Dropped dropped;

  Totals totals(Kind kind) const noexcept {
    if (header == nullptr) return totals_of(first, first + count, kind);
    return {header[kind].token, header[kind].count[0], header[kind].count[1]};
  }
};

// Returns the first element that is not below the token.
template <class Element>
const Element* lower_bound(const Element* first, std::size_t count, std::uint32_t token) noexcept {
  while (count > 1) {
    const std::size_t half = count / 2;
    first += first[half - 1].token < token ? half : 0;
    count -= half;
  }
  return first + (count == 1 && first->token < token ? 1 : 0);
}

// Calls visit(depth, counts) for each context that the table has, the empty one first, up to
// `longest` tokens. The counts of a leaf refer to `only`.
template <class Visit>
void walk(const View& table, const Context& context, int longest, Follower& only,
          const Visit& visit) noexcept {
  if (table.targets == 0) return;
  std::int64_t left = context.length;
  const auto next_token = [&](std::uint32_t& token) noexcept {
    if (left > 0) {
      token = static_cast<std::uint32_t>(context.text[--left]);
      return true;
    }
    token = bos;
    return left-- == 0 && context.begins;
  };
  const auto visit_node = [&](int depth, const Node* node) noexcept {
    const Follower* const first = table.followers + node[0].first_follower;
    const std::size_t size = node[1].first_follower - node[0].first_follower;
    const Dropped dropped = table.dropped_of(static_cast<std::size_t>(node - table.nodes));
    visit(depth, size <= short_list ? Counts{first, size, nullptr, dropped}
                                    : Counts{first + 2, size - 2, first, dropped});
  };
  const Node* node = table.nodes;
  visit_node(0, node);
  for (int depth = 1; depth <= longest; ++depth) {
    std::uint32_t token = bos;
    if (!next_token(token)) return;
    const Child* const first = table.children + node[0].first_child;
    const std::size_t count = node[1].first_child - node[0].first_child;
    const Child* const child = lower_bound(first, count, token);
    if (child == first + count || child->token != token) return;
    if ((child->link & leaf_bit) == 0) {
      node = table.nodes + child->link;
      visit_node(depth, node);
      continue;
    }
    const std::uint32_t target = child->link & ~leaf_bit;
    only = {table.stream[target], {1, 1}};
    for (;;) {
      visit(depth, Counts{&only, 1, nullptr, {}});
      if (token == bos || depth == longest || !next_token(token)) return;
      ++depth;
      if (static_cast<std::uint32_t>(depth) > target) return;  // only if the counts are damaged
      if (table.stream[target - static_cast<std::uint32_t>(depth)] != token) return;
    }
  }
}

// sum: Σ_v c(v). left: Σ_v D(c(v)), which the next shorter context distributes. Both include what a
// cut-off dropped.
struct Weights {
  double sum, left;
};

Weights weights(const Counts& counts, Kind kind, const Discounts& discounts) noexcept {
  const Totals totals = counts.totals(kind);
  const auto more = static_cast<double>(counts.count - totals.ones - totals.twos);
  const double left = discounts[0] * totals.ones + discounts[1] * totals.twos + discounts[2] * more;
  const double dropped = counts.dropped.sum[kind];
  return {totals.sum + dropped, left + dropped};
}

// c − D(c) of a count of at least 1.
double kept(std::uint32_t count, const Discounts& discounts) noexcept {
  return count - discounts[std::min(count, 3U) - 1];
}

}  // namespace

void losses(const View& table, const Context& context, std::uint32_t target, int least_order,
            int most_order, double* result, std::int64_t stride) noexcept {
  double lower = 1.0 / table.vocab;  // adjusted counts up to the depth before
  int next_order = least_order;
  const auto write = [&](int order, double probability) noexcept {
    result[(order - least_order) * stride] = -std::log(probability);
  };
  Follower only{};
  walk(table, context, most_order - 1, only, [&](int depth, const Counts& counts) noexcept {
    const Follower* const found = lower_bound(counts.first, counts.count, target);
    const bool seen = found != counts.first + counts.count && found->token == target;
    const auto interpolated = [&](Kind kind) noexcept {
      const Discounts& discounts = table.discounts[depth][kind];
      const double own = seen ? kept(found->count[kind], discounts) : 0.0;
      const Weights weight = weights(counts, kind, discounts);
      return (own + weight.left * lower) / weight.sum;
    };
    if (depth + 1 >= least_order) {
      write(depth + 1, interpolated(raw));
      next_order = depth + 2;
    }
    if (depth + 1 < most_order) lower = interpolated(adjusted);
  });
  for (int order = next_order; order <= most_order; ++order) write(order, lower);
}

void distribution(const View& table, const Context& context, int order, double* result) noexcept {
  Follower only{};
  ByDepth<Counts, max_order> found;
  int depths = 0;
  walk(table, context, order - 1, only, [&](int depth, const Counts& counts) noexcept {
    found[depth] = counts;
    depths = depth + 1;
  });
  // The share of each depth in the result, from the longest context down.
  ByDepth<double, max_order> shares;
  double share = 1.0;
  for (int depth = depths - 1; depth >= 0; --depth) {
    const Kind kind = depth == order - 1 ? raw : adjusted;
    const Weights weight = weights(found[depth], kind, table.discounts[depth][kind]);
    shares[depth] = share / weight.sum;
    share = shares[depth] * weight.left;
  }
  std::fill(result, result + table.vocab, share / table.vocab);
  for (int depth = 0; depth < depths; ++depth) {
    const Kind kind = depth == order - 1 ? raw : adjusted;
    const Discounts& discounts = table.discounts[depth][kind];
    for (std::size_t i = 0; i < found[depth].count; ++i) {
      const Follower& each = found[depth].first[i];
      result[each.token] += shares[depth] * kept(each.count[kind], discounts);
    }
  }
}

}  // namespace nanochat::kernels::ngram

#include "kernels/cpu/ngram/adaptive.hpp"

#include <algorithm>
#include <cmath>

namespace nanochat::kernels::ngram {
namespace {

// Returns the element of a token in a sorted list, or null.
template <class Element>
const Element* find_token(const Element* first, std::size_t count, std::uint32_t token) noexcept {
  const Element* const last = first + count;
  first = std::lower_bound(first, last, token,
                           [](const Element& each, std::uint32_t t) { return each.token < t; });
  return first != last && first->token == token ? first : nullptr;
}

struct Followers {
  const Follower* first;
  std::size_t count;
};

// The followers of a node without the totals that a long list begins with.
Followers followers_of(const View& table, std::uint32_t node) noexcept {
  const std::uint32_t first = table.nodes[node].first_follower;
  const std::size_t size = table.nodes[node + 1].first_follower - first;
  if (size <= short_list) return {table.followers + first, size};
  return {table.followers + first + 2, size - 2};
}

double kept(std::uint32_t count, const Discounts& discounts) noexcept {
  return count == 0 ? 0.0 : count - discounts[std::min(count, 3U) - 1];
}

}  // namespace

std::uint32_t DiscountShifts::kind_of(std::uint32_t types, std::uint32_t sum) noexcept {
  const std::uint32_t by_types = types <= 1    ? 0
                                 : types <= 2  ? 1
                                 : types <= 4  ? 2
                                 : types <= 8  ? 3
                                 : types <= 16 ? 4
                                               : 5;
  const std::uint64_t each = types;
  const std::uint32_t by_sum = sum <= each       ? 0
                               : sum < 2 * each  ? 1
                               : sum < 4 * each  ? 2
                               : sum < 16 * each ? 3
                                                 : 4;
  return by_types * 5 + by_sum;
}

namespace {

constexpr double least_share = 0.02;  // keeps the logit of a share finite

}  // namespace

double DiscountShifts::shifted(int depth, std::uint32_t kind, std::size_t i,
                               double discount) const noexcept {
  const double count = static_cast<double>(i) + 1;
  const double share = std::clamp(discount / count, least_share, 1 - least_share);
  const double raised = share * shifts_[depth][kind][i].factor;
  return count * raised / (1 - share + raised);
}

void DiscountShifts::learn(int depth, std::uint32_t kind, std::size_t i, double discount,
                           double slope, double rate) noexcept {
  const double share = discount / (static_cast<double>(i) + 1);
  slope *= discount * (1 - share);
  Shift& shift = shifts_[depth][kind][i];
  shift.squares += slope * slope;
  shift.value = std::clamp(shift.value + rate * slope / std::sqrt(shift.squares), -20.0, 20.0);
  shift.factor = std::exp(shift.value);
}

Adaptive::Adaptive(const View& table, int order, bool begins, double rate)
    : table_(table), order_(order), rate_(rate) {
  count_frozen();
  add_context(none, none, none);
  if (table_.targets > 0) {
    contexts_[0].frozen = 0;
    set_totals(contexts_[0], 0);
  }
  if (begins) stream_.push_back(bos);
  context_size_ = begins && order_ > 1 ? 1 : 0;
  find_path();
}

// Counts the n-grams of each length by their count: nodes lie by depth, the root first.
void Adaptive::count_frozen() {
  if (table_.counts_of_counts != nullptr) {
    for (int depth = 0; depth < order_; ++depth) {
      std::copy_n(table_.counts_of_counts + (2 * depth + kind_at(depth)) * 4, 4,
                  counts_of_counts_[depth].begin());
      estimates_[depth] = estimate_discounts(counts_of_counts_[depth]);
    }
    return;
  }
  ByDepth<std::int64_t, max_order + 1> leaves_from;  // leaves that begin less those that end
  std::size_t begin = 0, end = table_.targets > 0 ? 1 : 0;
  for (int depth = 0; depth < order_ && begin < end; ++depth) {
    std::size_t nodes_below = 0;
    for (std::size_t node = begin; node < end; ++node) {
      const Followers found = followers_of(table_, static_cast<std::uint32_t>(node));
      for (std::size_t i = 0; i < found.count; ++i) {
        const std::uint32_t count = found.first[i].count[kind_at(depth)];
        if (count <= 4) ++counts_of_counts_[depth][count - 1];
      }
      if (depth == order_ - 1) continue;
      for (std::size_t c = table_.nodes[node].first_child; c < table_.nodes[node + 1].first_child;
           ++c) {
        const std::uint32_t link = table_.children[c].link;
        if ((link & leaf_bit) == 0) {
          ++nodes_below;
          continue;
        }
        // A leaf represents all contexts from its depth on that lie in its document.
        const std::uint32_t target = link & ~leaf_bit;
        int last = depth + 1;
        while (last < order_ - 1 && static_cast<std::uint32_t>(last) < target &&
               table_.stream[target - static_cast<std::uint32_t>(last)] != bos) {
          ++last;
        }
        ++leaves_from[depth + 1];
        --leaves_from[last + 1];
      }
    }
    begin = end;
    end = std::min(end + nodes_below, table_.node_count - 1);
  }
  std::int64_t leaves = 0;
  for (int depth = 0; depth < order_; ++depth) {
    leaves += leaves_from[depth];
    counts_of_counts_[depth][0] += leaves;
    estimates_[depth] = estimate_discounts(counts_of_counts_[depth]);
  }
}

void Adaptive::set_totals(Context& context, int depth) const noexcept {
  if ((context.frozen & leaf_bit) != 0) {
    context.types = 1;
    context.totals = {1, 1, 0};
    return;
  }
  const std::uint32_t begin = table_.nodes[context.frozen].first_follower;
  const Followers found = followers_of(table_, context.frozen);
  context.types = static_cast<std::uint32_t>(found.count);
  const Kind kind = kind_at(depth);
  context.dropped = table_.dropped_of(context.frozen).sum[kind];
  if (found.count + 2 > short_list && found.first != table_.followers + begin) {
    const Follower& header = table_.followers[begin + kind];
    context.totals = {header.token, header.count[0], header.count[1]};
  } else {
    context.totals = totals_of(found.first, found.first + found.count, kind);
  }
}

// Returns what the frozen table has for a child of a context: a link, or none.
std::uint32_t Adaptive::frozen_child(const Context& parent, std::uint32_t token,
                                     int depth) const noexcept {
  if (parent.frozen == none) return none;
  if ((parent.frozen & leaf_bit) != 0) {
    const std::uint32_t target = parent.frozen & ~leaf_bit,
                        back = static_cast<std::uint32_t>(depth);
    return back <= target && table_.stream[target - back] == token ? parent.frozen : none;
  }
  const std::uint32_t first = table_.nodes[parent.frozen].first_child;
  const Child* const child = find_token(table_.children + first,
                                        table_.nodes[parent.frozen + 1].first_child - first, token);
  return child == nullptr ? none : child->link;
}

std::uint32_t Adaptive::frozen_count(const Context& context, std::uint32_t token,
                                     int depth) const noexcept {
  if (context.frozen == none) return 0;
  if ((context.frozen & leaf_bit) != 0) {
    return table_.stream[context.frozen & ~leaf_bit] == token ? 1 : 0;
  }
  const Followers found = followers_of(table_, context.frozen);
  const Follower* const follower = find_token(found.first, found.count, token);
  return follower == nullptr ? 0 : follower->count[kind_at(depth)];
}

std::uint32_t Adaptive::add_context(std::uint32_t parent, std::uint32_t token, std::uint32_t leaf) {
  contexts_.push_back({parent, token, none, leaf, 0, {0, 0, 0}, 0, none});
  context_index_.enter_last(contexts_);
  return static_cast<std::uint32_t>(contexts_.size() - 1);
}

Adaptive::Gram& Adaptive::add_gram(std::uint32_t context, std::uint32_t token,
                                   std::uint32_t frozen) {
  grams_.push_back({context, token, frozen, frozen, contexts_[context].newest});
  gram_index_.enter_last(grams_);
  contexts_[context].newest = static_cast<std::uint32_t>(grams_.size() - 1);
  return grams_.back();
}

// Finds the contexts of the next target. Those that the frozen table has get an element.
void Adaptive::find_path() {
  path_[0] = 0;
  real_ = 1;
  leaf_ = none;
  used_ = contexts_[0].types > 0 ? 1 : 0;
  for (int depth = 1; depth <= context_size_; ++depth) {
    const std::uint32_t token = token_before(stream_.size(), depth);
    if (leaf_ != none) {
      if (token_before(leaf_, depth) != token) break;
      ++used_;
      continue;
    }
    const std::uint32_t parent = path_[depth - 1];
    std::uint32_t child = context_index_.find(contexts_, parent, token);
    if (child == none) {
      const std::uint32_t frozen = frozen_child(contexts_[parent], token, depth);
      if (frozen == none) break;
      child = add_context(parent, token, none);
      contexts_[child].frozen = frozen;
      set_totals(contexts_[child], depth);
    }
    ++used_;
    if (contexts_[child].leaf != none) {
      leaf_ = contexts_[child].leaf;
      leaf_context_ = child;
    } else {
      path_[depth] = child;
      ++real_;
    }
  }
  for (int depth = 0; depth < used_; ++depth) weigh(depth);
}

void Adaptive::weigh(int depth) {
  if (is_outdated_[depth]) {
    estimates_[depth] = estimate_discounts(counts_of_counts_[depth]);
    is_outdated_[depth] = false;
  }
  Totals totals{1, 1, 0};
  std::uint32_t types = 1, dropped = 0;
  if (!is_virtual(depth)) {
    const Context& context = contexts_[path_[depth]];
    totals = context.totals;
    dropped = context.dropped;
    types = context.types;
  }
  Level& level = levels_[depth];
  level.types = types;
  level.kind = DiscountShifts::kind_of(types, totals.sum);
  level.with = {static_cast<double>(totals.ones), static_cast<double>(totals.twos),
                static_cast<double>(types - totals.ones - totals.twos)};
  level.discounts = estimates_[depth];
  level.sum = totals.sum + static_cast<double>(dropped);
  level.left = dropped;
  for (std::size_t i = 0; i < level.with.size(); ++i) {
    if (rate_ > 0 && level.with[i] > 0) {
      level.discounts[i] = shifts_.shifted(depth, level.kind, i, level.discounts[i]);
    }
    level.left += level.with[i] * level.discounts[i];
  }
}

double Adaptive::score(std::uint32_t target) noexcept {
  probabilities_[0] = 1.0 / table_.vocab;
  counts_[0] = 0;
  found_[0] = none;
  for (int depth = 0; depth < used_; ++depth) {
    std::uint32_t count = 0, gram = none;
    if (is_virtual(depth)) {
      count = stream_[leaf_] == target ? 1 : 0;
    } else {
      gram = gram_index_.find(grams_, path_[depth], target);
      count =
          gram == none ? frozen_count(contexts_[path_[depth]], target, depth) : grams_[gram].count;
    }
    const Level& level = levels_[depth];
    counts_[depth] = count;
    found_[depth] = gram;
    probabilities_[depth + 1] =
        (kept(count, level.discounts) + level.left * probabilities_[depth]) / level.sum;
  }
  return probabilities_[used_];
}

void Adaptive::distribution(double* result) const noexcept {
  ByDepth<double, max_order> shares;
  double share = 1.0;
  for (int depth = used_ - 1; depth >= 0; --depth) {
    shares[depth] = share / levels_[depth].sum;
    share = shares[depth] * levels_[depth].left;
  }
  std::fill(result, result + table_.vocab, share / table_.vocab);
  for (int depth = 0; depth < used_; ++depth) {
    const Discounts& discounts = levels_[depth].discounts;
    if (is_virtual(depth)) {
      result[stream_[leaf_]] += shares[depth] * kept(1, discounts);
      continue;
    }
    const Context& context = contexts_[path_[depth]];
    if (context.frozen != none && (context.frozen & leaf_bit) != 0) {
      result[table_.stream[context.frozen & ~leaf_bit]] += shares[depth] * kept(1, discounts);
    } else if (context.frozen != none) {
      const Followers found = followers_of(table_, context.frozen);
      for (std::size_t i = 0; i < found.count; ++i) {
        const Follower& each = found.first[i];
        result[each.token] += shares[depth] * kept(each.count[kind_at(depth)], discounts);
      }
    }
    for (std::uint32_t i = context.newest; i != none; i = grams_[i].next) {
      const Gram& gram = grams_[i];
      result[gram.second] +=
          shares[depth] * (kept(gram.count, discounts) - kept(gram.frozen, discounts));
    }
  }
}

// Changes the shifts by the slopes of log p(target) at the discounts.
void Adaptive::learn() noexcept {
  double slope = 1.0 / probabilities_[used_];  // by the probability of the depth
  for (int depth = used_ - 1; depth >= 0; --depth) {
    const Level& level = levels_[depth];
    for (std::size_t i = 0; i < level.with.size(); ++i) {
      if (level.with[i] == 0) continue;
      const bool is_own = counts_[depth] > 0 && std::min(counts_[depth], 3U) - 1 == i;
      const double by_discount = level.with[i] * probabilities_[depth] - (is_own ? 1.0 : 0.0);
      shifts_.learn(depth, level.kind, i, level.discounts[i], slope * by_discount / level.sum,
                    rate_);
    }
    slope *= level.left / level.sum;
  }
}

// Gives an element to the contexts that the leaf represents and that are those of the next target.
void Adaptive::make_real() {
  std::uint32_t index = leaf_context_;
  for (; real_ < used_; ++real_) {
    contexts_[index].leaf = none;
    contexts_[index].types = 1;
    contexts_[index].totals = {1, 1, 0};
    add_gram(index, stream_[leaf_], 0).count = 1;
    if (counts_[real_] > 0) found_[real_] = static_cast<std::uint32_t>(grams_.size() - 1);
    path_[real_] = index;
    if (real_ == order_ - 1 || token_before(leaf_, real_) == bos) continue;
    index = add_context(index, token_before(leaf_, real_ + 1), leaf_);
  }
  leaf_ = none;
}

// Adds one to the count of a target after the context of a depth. Returns whether it was 0.
bool Adaptive::add_one(int depth, std::uint32_t target) {
  const std::uint32_t index = path_[depth];
  Gram& gram =
      found_[depth] == none ? add_gram(index, target, counts_[depth]) : grams_[found_[depth]];
  const std::uint32_t before = gram.count++;
  CountsOfCounts& with = counts_of_counts_[depth];
  if (before >= 1 && before <= with.size()) --with[before - 1];
  if (before < with.size()) ++with[before];
  is_outdated_[depth] = true;
  Context& context = contexts_[index];
  ++context.totals.sum;
  if (before == 0) {
    ++context.types;
    ++context.totals.ones;
  } else if (before == 1) {
    --context.totals.ones;
    ++context.totals.twos;
  } else if (before == 2) {
    --context.totals.twos;
  }
  return before == 0;
}

void Adaptive::read(std::uint32_t target) {
  if (rate_ > 0) learn();
  const bool begins = context_size_ > 0 && token_before(stream_.size(), context_size_) == bos;
  // Where the beginning of the document is unknown, so are the tokens before a short n-gram.
  if (context_size_ == order_ - 1 || begins) {
    make_real();
    if (real_ <= context_size_) {
      add_context(path_[real_ - 1], token_before(stream_.size(), real_),
                  static_cast<std::uint32_t>(stream_.size()));
      for (int depth = real_; depth <= context_size_; ++depth) {
        ++counts_of_counts_[depth][0];
        is_outdated_[depth] = true;
      }
    }
    for (int depth = real_ - 1; depth >= 0 && add_one(depth, target); --depth) {
    }
  }
  stream_.push_back(target);
  context_size_ = std::min(target == bos ? 1 : context_size_ + 1, order_ - 1);
  find_path();
}

std::size_t Adaptive::bytes() const noexcept {
  return sizeof(*this) + stream_.capacity() * sizeof(std::uint32_t) +
         contexts_.capacity() * sizeof(Context) + grams_.capacity() * sizeof(Gram) +
         context_index_.bytes() + gram_index_.bytes();
}

}  // namespace nanochat::kernels::ngram

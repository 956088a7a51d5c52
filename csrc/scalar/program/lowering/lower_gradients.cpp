// Sums over lanes: numbers that all stages share, gradients of parameters, and what tokens send
// onto the rows of matrices.
//
// Needs: all other groups lowered, for gradients of parameters; their products, stages absolute.
// Makes lists of reductions (lower_reductions.cpp finds their matrices), the outer products that
// may write first, the gradients that start from zero, and one scatter. Right because a parameter
// is written first only where no earlier outer product reaches it and each batch has documents, and
// an order of additions that is not microgpt.py's is reported.
#include <algorithm>
#include <utility>

#include "scalar/program/lowering/lowering.hpp"

namespace nanochat::program {
namespace {

// A row stands second, so that the first may be any number.
void add_pair(Reduction& reduction, Place a, Place b) {
  if (b.space != Space::rows) std::swap(a, b);
  reduction.pairs.push_back({a, b});
}

}  // namespace

// Numbers that all stages share: from each other as any sum, from rows as a sum over lanes.
void Lowering::lower_shared_sum(const Lists& lists) {
  bool staged = false;
  for (const Pair& pair : lists.pairs) {
    staged = staged || pair[0].space == Space::rows || pair[1].space == Space::rows;
  }
  if (!staged) {
    for (const Nest& nest : find_nests(lists)) emit_sum(own, nest);
    return;
  }
  std::vector<Reduction> reductions;
  for (std::int32_t f = 0; f < lists.features(); ++f) {
    const auto at = static_cast<std::size_t>(f);
    reductions.push_back(
        {group_,
         f,
         {lists.pairs.begin() + lists.start[at], lists.pairs.begin() + lists.start[at + 1]}});
  }
  reduce(reductions);
}

void Lowering::reduce(const std::vector<Reduction>& reductions) {
  Instruction outer{};
  outer.op = Op::outer;
  outer.group = group_;
  outer.row = static_cast<std::int32_t>(program_.outers.size());
  outer.slot = static_cast<std::int32_t>(program_.odds.size());
  program_.ordered =
      lower_reductions(reductions, program_.groups, exact_, program_) && program_.ordered;
  outer.features = static_cast<std::int32_t>(program_.outers.size()) - outer.row;
  outer.outer = static_cast<std::int32_t>(program_.odds.size()) - outer.slot;
  program_.backward.push_back(std::move(outer));
}

void Lowering::lower_parameter_gradients() {
  std::vector<Reduction> reductions;
  for (std::size_t i = 0; i < graph_.parameter_gradients.size(); ++i) {
    const Id id = graph_.parameter_gradients[i];
    if (id == none) continue;
    Reduction reduction{-1, static_cast<std::int32_t>(i), {}};
    if (is_parameter_gradient_[id]) {
      const Node& each = node(id);
      for (std::uint32_t j = 0; j < each.count; ++j) {
        const Product& product = graph_.products[each.first + j];
        add_pair(reduction, place(product.a), place(product.b));
      }
    } else {
      add_pair(reduction, place(id), Place{});
    }
    reductions.push_back(std::move(reduction));
  }
  group_ = -1;
  const std::size_t first = program_.outers.size();
  reduce(reductions);
  find_first_writes(first);
}

// An outer product may write where nothing has been written; the rest starts from zero.
void Lowering::find_first_writes(std::size_t first) {
  std::vector<char> covered(program_.parameters, 0);
  for (std::size_t i = first; i < program_.outers.size(); ++i) {
    Outer& outer = program_.outers[i];
    if (is_row_of_stage(outer, program_.groups[static_cast<std::size_t>(outer.b.group)])) {
      continue;  // a batch may have no document at this stage
    }
    bool fresh = true;
    const auto cells = [&](auto&& visit) {
      for (std::int32_t m = 0; m < outer.m; ++m) {
        for (std::int32_t n = 0; n < outer.n; ++n) {
          visit(covered[static_cast<std::size_t>(outer.index + m * outer.m_step + n)]);
        }
      }
    };
    cells([&](char& cell) { fresh = fresh && !cell; });
    outer.accumulate = !fresh;
    if (fresh) cells([](char& cell) { cell = 1; });
  }
  for (std::size_t i = 0; i < covered.size(); ++i) {
    if (covered[i]) continue;
    const auto at = static_cast<std::int32_t>(i);
    if (!program_.untouched.empty() && program_.untouched.back().end == at) {
      ++program_.untouched.back().end;
    } else {
      program_.untouched.push_back({at, at + 1});
    }
  }
}

// microgpt.py adds to a row whenever a user of it is walked. A replay adds leaf by leaf, from the
// last stage to the first: the same when each leaf has one user (which differentiate() saw to),
// stages fall in the order of the walk, and nothing but tokens reaches the matrix.
void Lowering::check_scatter_order(const std::vector<Product>& pairs) {
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Node& leaf = node(pairs[i].a);
    const bool rises = i > 0 && leaf.stage > node(pairs[i - 1].a).stage;
    bool direct = false;
    const std::int32_t row = leaf.stride;
    for (std::int32_t at = leaf.index; at < leaf.index + row * leaf.rows; at += row) {
      direct = direct || graph_.parameter_gradients[static_cast<std::size_t>(at)] != none;
    }
    if (rises || direct) program_.ordered = false;
  }
}

void Lowering::lower_scatter() {
  if (graph_.gather_gradients.empty()) return;
  Instruction scatter{};
  scatter.op = Op::scatter;
  std::vector<Product> pairs = graph_.gather_gradients;
  check_scatter_order(pairs);
  // Stage by stage in the order found, features of a stage side by side.
  std::stable_sort(pairs.begin(), pairs.end(), [&](const Product& x, const Product& y) {
    if (node(x.a).stage != node(y.a).stage) return node(x.a).stage > node(y.a).stage;
    return node(x.a).index < node(y.a).index;
  });
  for (const Product& pair : pairs) {
    const Node& leaf = node(pair.a);
    const Place from = place(pair.b);
    append(scatter.moves,
           {from.stage, leaf.slot, leaf.index, leaf.stride, from.index, 1, from.group, false});
  }
  program_.backward.push_back(std::move(scatter));
}

}  // namespace nanochat::program

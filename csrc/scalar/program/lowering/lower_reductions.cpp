// Gradients of parameters become outer products that are summed over lanes.
//
// Needs: per destination its products, with absolute positions. Makes: a pair of factors that
// occurs once at every position of its group is one product of two full rows, summed over all
// lanes; consecutive destinations whose rows are consecutive form a matrix of such products
// (OuterProduct); neighbors that read a row at one position only form one row of such a matrix.
// All other products remain single (SingleProduct). Correct because each product is in exactly one
// outer product or single product. microgpt.py adds from the last position to the first. A pair
// whose positions decrease keeps that order at replay. A destination with several pairs is summed
// pair by pair, which is a different order and is reported.
#include <algorithm>
#include <map>
#include <tuple>

#include "scalar/program/lowering/lower.hpp"

namespace nanochat::program {
namespace {

// A row at one position needs at least this many neighbors to become an outer product.
constexpr std::int32_t least_row_length = 4;

// A pair of factors without its positions.
using Key =
    std::tuple<AddressSpace, std::int32_t, std::int32_t, AddressSpace, std::int32_t, std::int32_t>;

Key key_of(const AddressPair& pair) {
  return {pair[0].space, pair[0].group, pair[0].index, pair[1].space, pair[1].group, pair[1].index};
}

// The product of two rows at every position of their group.
struct FullRowProduct {
  std::int32_t group, index;  // destination
  Address a, b;
  bool descending;
};

std::int32_t position_of(const AddressPair& pair) {
  const std::int32_t a = pair[0].space == AddressSpace::rows ? pair[0].position : shared;
  const std::int32_t b = pair[1].space == AddressSpace::rows ? pair[1].position : shared;
  return std::max(a, b);
}

Ref absolute_ref(const Address& address) {
  Ref ref = ref_to(address);
  if (address.space != AddressSpace::rows) ref.position = own;
  return ref;
}

// Distributes the products of reductions.
class Splitter {
 public:
  explicit Splitter(VectorProgram& program) : program_(program) {}

  // By occurrence: the first full product of each destination, then the second ones, and so on.
  std::vector<std::vector<FullRowProduct>> full;
  std::vector<SingleProduct> alone;  // the only products of their destinations
  bool ordered = true;

  void split(const Reduction& reduction) {
    std::map<Key, std::vector<std::int32_t>> positions;  // per pair, in the order of the products
    for (const AddressPair& pair : reduction.pairs) {
      positions[key_of(pair)].push_back(position_of(pair));
    }
    std::map<Key, bool> is_full;
    for (const auto& [key, found] : positions) {
      is_full[key] = is_once_everywhere(key, found);
      ordered = ordered && (!is_full[key] || positions.size() == 1);
    }
    std::size_t occurrence = 0;
    for (const AddressPair& pair : reduction.pairs) {
      const Key key = key_of(pair);
      const auto found = positions.find(key);
      if (found == positions.end()) continue;  // part of a full product that was added before
      if (!is_full[key]) {
        add_single(reduction, pair);
        continue;
      }
      if (occurrence == full.size()) full.emplace_back();
      full[occurrence++].push_back(full_product(reduction, pair, found->second));
      positions.erase(found);
    }
  }

 private:
  void add_single(const Reduction& reduction, const AddressPair& pair) {
    (reduction.pairs.size() == 1 ? alone : program_.single_products)
        .push_back({reduction.group, reduction.index, absolute_ref(pair[0]), absolute_ref(pair[1]),
                    position_of(pair)});
  }

  FullRowProduct full_product(const Reduction& reduction, const AddressPair& pair,
                              const std::vector<std::int32_t>& positions) {
    const bool descending = positions.size() > 1 && positions.front() > positions.back();
    ordered = ordered && (descending ? std::is_sorted(positions.rbegin(), positions.rend())
                                     : std::is_sorted(positions.begin(), positions.end()));
    return {reduction.group, reduction.index, full_row(pair[0]), full_row(pair[1]), descending};
  }

  // The row at all positions; for a group with one position, the row at that position.
  Address full_row(Address address) const {
    if (address.space != AddressSpace::rows) return address;
    const Group& group = program_.group(address.group);
    address.position = group.has_one_position() ? group.begin : own;
    return address;
  }

  // Does the pair occur once at each position of the rows' group, with both factors at the same
  // position? Or do the two groups have one position each, which may differ: the sum is then over
  // the documents that reach the later position.
  bool is_once_everywhere(const Key& key, std::vector<std::int32_t> positions) const {
    const auto& [a_space, a_group, a_index, b_space, b_group, b_index] = key;
    if (b_space != AddressSpace::rows) return false;
    const Group& b = program_.group(b_group);
    if (b.ragged() || positions.size() != static_cast<std::size_t>(b.end - b.begin)) return false;
    if (a_space == AddressSpace::rows) {
      const Group& a = program_.group(a_group);
      const bool single = a.has_one_position() && b.has_one_position();
      if (a.ragged() || (!single && (a.begin != b.begin || a.end != b.end))) return false;
      if (single) return true;
    }
    std::sort(positions.begin(), positions.end());
    for (std::size_t i = 0; i < positions.size(); ++i) {
      if (positions[i] != b.begin + static_cast<std::int32_t>(i)) return false;
    }
    return true;
  }

  VectorProgram& program_;
};

bool same_array(const Address& x, const Address& y) {
  return x.space == y.space && x.group == y.group;
}

// One row of a matrix of gradients: neighbors of which only b moves. The factors are swapped if a
// is the one that moves.
OuterProduct matrix_row_at(const std::vector<FullRowProduct>& list, std::size_t at) {
  const FullRowProduct& first = list[at];
  OuterProduct row{first.group,     first.index,      0,   1, 1, ref_to(first.a),
                   ref_to(first.b), first.descending, true};
  bool swapped = false;
  for (std::size_t i = at + 1; i < list.size(); ++i) {
    const FullRowProduct& next = list[i];
    if (next.group != first.group || next.index != first.index + row.n ||
        next.descending != first.descending || !same_array(next.a, first.a) ||
        !same_array(next.b, first.b)) {
      break;
    }
    const bool b_moves = next.a.index == first.a.index && next.b.index == first.b.index + row.n;
    const bool a_moves = next.b.index == first.b.index && next.a.index == first.a.index + row.n &&
                         first.a.space == AddressSpace::rows;
    if (row.n == 1) swapped = a_moves && !b_moves;
    if (swapped ? !a_moves : !b_moves) break;
    ++row.n;
  }
  if (swapped) std::swap(row.a, row.b);
  return row;
}

// Is `row` the next row of the matrix?
bool continues(const OuterProduct& matrix, const OuterProduct& row) {
  Ref expected = matrix.a;
  expected.index += matrix.m * matrix.a.f_step;
  expected.f_step = 0;
  return row.n == matrix.n && row.group == matrix.group && row.b == matrix.b && row.a == expected &&
         row.index == matrix.index + matrix.m * matrix.m_step &&
         row.descending == matrix.descending;
}

void find_matrices(const std::vector<FullRowProduct>& list, VectorProgram& program) {
  for (std::size_t at = 0; at < list.size();) {
    OuterProduct matrix = matrix_row_at(list, at);
    at += static_cast<std::size_t>(matrix.n);
    while (at < list.size()) {
      const OuterProduct next = matrix_row_at(list, at);
      if (matrix.m == 1) {  // the second row sets the steps
        matrix.m_step = next.index - matrix.index;
        matrix.a.f_step = next.a.index - matrix.a.index;
      }
      if (!continues(matrix, next)) break;
      at += static_cast<std::size_t>(next.n);
      ++matrix.m;
    }
    if (matrix.m == 1) matrix.m_step = matrix.a.f_step = 0;
    program.outer_products.push_back(matrix);
  }
}

// Neighbors that each are one product of a row at the same position with the same other factor form
// a row of gradients, summed over the documents of that position.
void find_rows_of_positions(const std::vector<SingleProduct>& alone, VectorProgram& program) {
  for (std::size_t at = 0; at < alone.size();) {
    const SingleProduct& first = alone[at];
    std::int32_t n = 1;
    const auto follows = [&](const SingleProduct& next) {
      Ref expected = first.b;
      expected.index += n;
      return next.group == first.group && next.index == first.index + n && next.a == first.a &&
             next.b == expected && next.position == first.position;
    };
    while (at + static_cast<std::size_t>(n) < alone.size() &&
           follows(alone[at + static_cast<std::size_t>(n)])) {
      ++n;
    }
    const bool ragged = first.position == shared || program.group(first.b.group).ragged();
    if (n >= least_row_length && first.b.space == AddressSpace::rows &&
        first.a.space != AddressSpace::rows && !ragged) {
      program.outer_products.push_back(
          {first.group, first.index, 0, 1, n, first.a, first.b, false, true});
    } else {
      const auto begin = alone.begin() + static_cast<std::ptrdiff_t>(at);
      program.single_products.insert(program.single_products.end(), begin, begin + n);
    }
    at += static_cast<std::size_t>(n);
  }
}

}  // namespace

bool lower_reductions(const std::vector<Reduction>& reductions, VectorProgram& program) {
  Splitter splitter(program);
  for (const Reduction& reduction : reductions) splitter.split(reduction);
  for (const std::vector<FullRowProduct>& list : splitter.full) find_matrices(list, program);
  find_rows_of_positions(splitter.alone, program);
  return program.numerics != Numerics::exact || splitter.ordered;
}

}  // namespace nanochat::program

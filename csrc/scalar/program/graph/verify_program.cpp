// See verify.hpp. This file: vector programs. The checker runs the instructions in order on a copy
// of the arrays that holds the state of each number instead of the number.
#include <algorithm>
#include <utility>

#include "scalar/program/graph/verify.hpp"

namespace nanochat::program {
namespace {

// Of a row of a group at a position, or of a gradient.
enum class State : std::uint8_t {
  undefined,
  defined,  // set once, and added to since
  read,     // and so complete
};
using States = std::vector<State>;

class ProgramChecker {
 public:
  explicit ProgramChecker(const VectorProgram& program)
      : program_(program), gradients_(program.parameters, State::undefined) {
    for (const Group& group : program.groups) {
      std::vector<States>& rows = rows_.emplace_back();
      const std::int32_t positions = group.is_shared() ? 1 : group.end - group.begin;
      for (std::int32_t p = 0; p < positions; ++p) {
        const std::int32_t features =
            group.is_shared() ? group.features : group.features_at(group.begin + p);
        rows.emplace_back(static_cast<std::size_t>(features), State::undefined);
      }
    }
  }

  std::string first_violation() {
    run(program_.forward, "forward");
    for (const Ref& ref : program_.outputs) read(ref, shared, 1, 1, 1);
    for (const Ref& ref : program_.observed) read(ref, shared, 1, 1, 1);
    zero_gradients();
    is_forward_ = false;
    run(program_.backward, "backward");
    return violation_;
  }

 private:
  void run(const std::vector<Instruction>& instructions, const char* list) {
    for (std::size_t i = 0; i < instructions.size() && violation_.empty(); ++i) {
      std::visit([this](const auto& each) { check(each); }, instructions[i]);
      if (!violation_.empty()) {
        violation_ = std::string(list) + " instruction " + std::to_string(i) + ": " + violation_;
      }
    }
  }

  bool require(bool holds, const char* rule) {
    if (!holds && violation_.empty()) violation_ = rule;
    return violation_.empty();
  }

  // --- Numbers of groups ---

  // The states of a group's rows at a position; null, with a violation, if it has none.
  States* rows_at(std::int32_t g, std::int32_t position) {
    const bool exists = g >= 0 && static_cast<std::size_t>(g) < program_.groups.size();
    if (!require(exists, "a group must be one of the program's")) return nullptr;
    const Group& group = program_.group(g);
    const std::int32_t at = group.is_shared() ? 0 : position - group.begin;
    const bool inside = group.is_shared() || (position >= group.begin && position < group.end);
    if (!require(inside, "a position must be one of its group's")) return nullptr;
    return &rows_[static_cast<std::size_t>(g)][static_cast<std::size_t>(at)];
  }

  // The state of a row; null, with a violation, if it does not exist.
  State* state_of(std::int32_t g, std::int32_t position, std::int32_t row) {
    States* rows = rows_at(g, position);
    if (rows == nullptr || !require(is_inside(row, rows->size()), "a row must be in its group")) {
      return nullptr;
    }
    return &(*rows)[static_cast<std::size_t>(row)];
  }

  void read_row(std::int32_t g, std::int32_t position, std::int32_t row) {
    State* state = state_of(g, position, row);
    if (state == nullptr) return;
    require(*state != State::undefined, "a row must be written before it is read");
    *state = State::read;
  }

  void write_row(std::int32_t g, std::int32_t position, std::int32_t row, bool continues) {
    State* state = state_of(g, position, row);
    if (state == nullptr) return;
    if (continues) {
      require(*state != State::undefined, "a row must be written before it is added to or mapped");
      require(*state != State::read, "a row must be complete before it is read");
    } else {
      require(*state == State::undefined, "a row must have one definition");
    }
    *state = State::defined;
  }

  void write_rows(std::int32_t g, std::int32_t position, std::int32_t row, std::int32_t count) {
    for (std::int32_t i = 0; i < count; ++i) write_row(g, position, row + i, false);
  }

  static bool is_inside(std::int32_t index, std::size_t size) {
    return index >= 0 && static_cast<std::size_t>(index) < size;
  }
  bool are_parameters(std::int32_t first, std::int32_t count) const {
    return first >= 0 && static_cast<std::size_t>(first + count) <= program_.parameters;
  }

  // --- Operands of loop nests ---

  // Every number that the operand takes for a destination at `position`.
  void read(const Ref& ref, std::int32_t position, std::int32_t blocks, std::int32_t features,
            std::int32_t count) {
    if (ref.o_step == 0) blocks = 1;
    if (ref.f_step == 0) features = 1;
    if (ref.k_step == 0) count = 1;
    for (std::int32_t o = 0; o < blocks && violation_.empty(); ++o) {
      for (std::int32_t f = 0; f < features; ++f) {
        for (std::int32_t k = 0; k < count; ++k) {
          read_number(ref, position, ref.index + o * ref.o_step + f * ref.f_step + k * ref.k_step);
        }
      }
    }
  }

  void read_number(const Ref& ref, std::int32_t position, std::int32_t index) {
    switch (ref.space) {
      case AddressSpace::unit:
        break;
      case AddressSpace::parameter:
        require(are_parameters(index, 1), "a parameter must be one of the program's");
        break;
      case AddressSpace::constant:
        require(is_inside(index, program_.constants.size()),
                "a constant must be one of the program's");
        break;
      case AddressSpace::shared_number:
        read_row(ref.group, shared, index);
        break;
      case AddressSpace::rows:
        read_row(ref.group, ref.position == own ? position : ref.position, index);
        break;
    }
  }

  // Calls visit(position, rows) for each position of a destination.
  template <class Visit>
  void for_positions(const Destination& to, Visit&& visit) {
    const bool exists = is_inside(to.group, program_.groups.size());
    if (!require(exists, "a destination must be a group of the program")) return;
    const Group& group = program_.group(to.group);
    const bool one = group.is_shared() || to.position != own;
    const std::int32_t begin = group.is_shared() ? shared : one ? to.position : group.begin;
    const std::int32_t end = one ? begin + 1 : group.end;
    for (std::int32_t p = begin; p < end && violation_.empty(); ++p) {
      visit(p, to.whole ? group.features_at(p) : to.features);
    }
  }

  void read_products(const Destination& to, const std::vector<ProductRun>& products) {
    for_positions(to, [&](std::int32_t position, std::int32_t features) {
      for (const ProductRun& run : products) {
        require(run.count > 0, "a run must have products");
        read(along(run.a, to), position, to.blocks, features, run.count);
        read(along(run.b, to), position, to.blocks, features, run.count);
      }
    });
  }

  // In an instruction for a whole group, row f of an operand belongs to row f of the group.
  static Ref along(Ref ref, const Destination& to) {
    if (to.whole && ref.space == AddressSpace::rows) ref.f_step = 1;
    return ref;
  }

  void write(const Destination& to, bool continues) {
    for_positions(to, [&](std::int32_t position, std::int32_t features) {
      for (std::int32_t i = 0; i < features * to.blocks; ++i) {
        write_row(to.group, position, to.row + i, continues);
      }
    });
  }

  // --- Instructions ---

  bool is_slot(std::int32_t slot) {
    return require(slot >= 0 && slot < program_.slots, "a slot must be one of the program's");
  }

  // `count` parameters from `index` on, in every matrix row that a token can select.
  void check_matrix(std::int32_t slot, std::int32_t index, std::int32_t stride,
                    std::int32_t count) {
    if (!is_slot(slot)) return;
    const std::int32_t tokens = program_.limits[static_cast<std::size_t>(slot)];
    require(are_parameters(index, count) && are_parameters(index + (tokens - 1) * stride, count),
            "a matrix row must consist of parameters");
  }

  void check(const GatherRows& gather) {
    for (const GatherMove& move : gather.moves) {
      check_matrix(move.slot, move.index, move.stride, move.count);
      write_rows(gather.group, move.position, move.row, move.count);
    }
  }

  void check(const FillRows& fill) {
    for (const FillMove& move : fill.moves) {
      const std::size_t size = move.constant ? program_.constants.size() : program_.parameters;
      require(move.index >= 0 && static_cast<std::size_t>(move.index + move.count) <= size,
              "a filled number must be a parameter or a constant of the program");
      write_rows(fill.group, move.position, move.row, move.count);
    }
  }

  void check(const InputRows& input) {
    for (const InputMove& move : input.moves) {
      require(move.index >= 0 && move.index + move.count <= program_.inputs,
              "an input must be one of the program's");
      write_rows(input.group, move.position, move.row, move.count);
    }
  }

  void check(const SeedRows& seed) {
    require(!is_forward_, "a forward instruction must not read a gradient");
    for (const SeedMove& move : seed.moves) {
      require(move.index >= 0 && move.index + move.count <= program_.positions,
              "a seed must belong to an output");
      write_rows(seed.group, move.position, move.row, move.count);
    }
  }

  void check(const OneHotRows& one_hot) {
    for (const OneHotMove& move : one_hot.moves) {
      is_slot(move.slot);
      write_rows(one_hot.group, move.position, move.row, move.count);
    }
  }

  void check(const SelectRows& select) {
    for (const SelectMove& move : select.moves) {
      if (!is_slot(move.slot)) return;
      require(program_.limits[static_cast<std::size_t>(move.slot)] <= move.candidates,
              "there must be a candidate per token");
      for (std::int32_t i = 0; i < move.candidates; ++i) {
        read_row(move.candidate_group, move.position, move.first_candidate + i);
      }
      write_rows(select.group, move.position, move.row, 1);
    }
  }

  void check(const ScatterRows& scatter) {
    require(!is_forward_, "a forward instruction must not set a gradient");
    for (const ScatterMove& move : scatter.moves) {
      check_matrix(move.slot, move.index, move.stride, move.count);
      for (std::int32_t i = 0; i < move.count; ++i) {
        read_row(move.group, move.position, move.row + i);
        if (violation_.empty()) add_to_gradient(move.index + i);
      }
    }
  }

  void check(const MapRows& map) {
    // In place: the rows hold the operands, which nothing else has read, until they are mapped.
    const bool in_place = map.to.whole && map.operand.space == AddressSpace::rows &&
                          map.operand.group == map.to.group;
    if (in_place) return write(map.to, true);
    for_positions(map.to, [&](std::int32_t position, std::int32_t features) {
      read(along(map.operand, map.to), position, map.to.blocks, features, 1);
    });
    write(map.to, false);
  }

  void check(const LargestRow& largest) {
    require(largest.count > 0, "a maximum must have operands");
    for_positions(largest.to, [&](std::int32_t position, std::int32_t features) {
      read(largest.operand, position, largest.to.blocks, features, largest.count);
    });
    write(largest.to, false);
  }

  void check(const SumRows& sum) {
    read_products(sum.to, sum.products);
    write(sum.to, sum.accumulate);
  }

  void check(const MatrixProduct& product) {
    for (const ProductRun& run : product.products) {
      require(is_number(run.a.space) && run.b.space == AddressSpace::rows,
              "a matrix product must multiply numbers and rows");
      require(product.to.features == 1 || run.b.f_step == 0,
              "all features of a matrix product must share the rows");
    }
    require(!product.products.empty(), "a matrix product must have products");
    require(product.to.blocks == 1 && !product.to.whole, "a matrix product must be one block");
    read_products(product.to, product.products);
    write(product.to, product.accumulate);
  }

  void check(const CrossSum& cross) {
    if (!require(is_inside(cross.group, program_.groups.size()),
                 "a destination must be a group of the program")) {
      return;
    }
    const Group& group = program_.group(cross.group);
    for (const CrossPart& part : cross.parts) {
      const bool complete =
          part.begin.size() == static_cast<std::size_t>(group.end - group.begin) + 1 &&
          std::is_sorted(part.begin.begin(), part.begin.end()) &&
          part.begin.back() == part.runs.size();
      if (!require(complete, "a part must have runs for each position of its group")) return;
      for (std::int32_t p = group.begin; p < group.end; ++p) {
        const auto at = static_cast<std::size_t>(p - group.begin);
        for (std::uint32_t i = part.begin[at]; i < part.begin[at + 1] && violation_.empty(); ++i) {
          for (const CrossRun& run : separate(part.runs[i])) check_run(cross, part, run, p);
        }
      }
    }
  }

  void check_run(const CrossSum& cross, const CrossPart& part, const CrossRun& run,
                 std::int32_t position) {
    for (const auto& [group, operand] :
         {std::pair(part.a_group, run.a), std::pair(part.b_group, run.b)}) {
      for (std::int32_t k = 0; k < run.products && group != no_group; ++k) {
        read_row(group, operand.position + k * operand.position_step,
                 operand.row + k * operand.row_step);
      }
    }
    write_row(cross.group, position, run.row, part.accumulate);
  }

  void check(const ReduceLanes& reduce) {
    const auto inside = [](const Range& range, std::size_t size) {
      return range.begin >= 0 && range.begin <= range.end &&
             static_cast<std::size_t>(range.end) <= size;
    };
    if (!require(inside(reduce.outer_products, program_.outer_products.size()) &&
                     inside(reduce.single_products, program_.single_products.size()),
                 "products must be the program's")) {
      return;
    }
    require(!is_forward_, "a forward instruction must not set a gradient");
    if (reduce.group != no_group) {
      if (rows_at(reduce.group, shared) == nullptr) return;
      const Group& group = program_.group(reduce.group);
      if (!require(group.is_shared(), "a sum over lanes must be shared")) return;
      write_rows(reduce.group, shared, 0, group.features);
    }
    for (std::int32_t i = reduce.outer_products.begin; i < reduce.outer_products.end; ++i) {
      check_outer(reduce, program_.outer_products[static_cast<std::size_t>(i)]);
    }
    for (std::int32_t i = reduce.single_products.begin; i < reduce.single_products.end; ++i) {
      check_single(reduce, program_.single_products[static_cast<std::size_t>(i)]);
    }
  }

  void check_outer(const ReduceLanes& reduce, const OuterProduct& outer) {
    require(outer.group == reduce.group, "an outer product must belong to its instruction");
    require(outer.b.space == AddressSpace::rows, "an outer product must have rows");
    if (!require(is_inside(outer.b.group, program_.groups.size()),
                 "an outer product must have rows of a group of the program")) {
      return;
    }
    const Group& group = program_.group(outer.b.group);
    const bool one = outer.b.position != own;
    const std::int32_t begin = one ? outer.b.position : group.begin;
    const std::int32_t end = one ? begin + 1 : group.end;
    Ref b = outer.b;
    b.f_step = 1;
    for (std::int32_t p = begin; p < end && violation_.empty(); ++p) {
      read(outer.a, p, 1, outer.m, 1);
      read(b, p, 1, outer.n, 1);
    }
    for (std::int32_t m = 0; m < outer.m && violation_.empty(); ++m) {
      for (std::int32_t n = 0; n < outer.n; ++n) {
        write_reduced(outer.group, outer.index + m * outer.m_step + n, outer.accumulate);
      }
    }
  }

  void check_single(const ReduceLanes& reduce, const SingleProduct& single) {
    require(single.group == reduce.group, "a single product must belong to its instruction");
    read(single.a, single.position, 1, 1, 1);
    read(single.b, single.position, 1, 1, 1);
    write_reduced(single.group, single.index, true);
  }

  // --- Gradients ---

  void write_reduced(std::int32_t group, std::int32_t index, bool accumulate) {
    if (group != no_group) return write_row(group, shared, index, accumulate);
    if (accumulate) return add_to_gradient(index);
    define_gradient(index);
  }

  void define_gradient(std::int32_t index) {
    if (!require(are_parameters(index, 1), "a gradient must be that of a parameter")) return;
    State& state = gradients_[static_cast<std::size_t>(index)];
    require(state == State::undefined, "a gradient must have one definition");
    state = State::defined;
  }

  void add_to_gradient(std::int32_t index) {
    if (!require(are_parameters(index, 1), "a gradient must be that of a parameter")) return;
    require(gradients_[static_cast<std::size_t>(index)] != State::undefined,
            "a gradient must be written or zeroed before something is added to it");
  }

  void zero_gradients() {
    for (const Range& range : program_.zeroed_first) {
      if (!require(are_parameters(range.begin, range.size()),
                   "a zeroed gradient must be that of a parameter")) {
        return;
      }
      for (std::int32_t i = range.begin; i < range.end; ++i) define_gradient(i);
    }
  }

  const VectorProgram& program_;
  std::vector<std::vector<States>> rows_;  // per group and position
  States gradients_;
  bool is_forward_ = true;
  std::string violation_;
};

}  // namespace

std::string violation_in(const VectorProgram& program) {
  return ProgramChecker(program).first_violation();
}

}  // namespace nanochat::program

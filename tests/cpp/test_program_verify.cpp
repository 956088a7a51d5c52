// verify.hpp: valid graphs and programs pass, and each kind of damage is reported.
#include <functional>
#include <utility>

#include "program_model.hpp"
#include "scalar/program/graph/verify.hpp"
#include "testing.hpp"

using namespace nanochat::program;
using testing::holds;
using testing::Model;
using testing::Trace;

namespace {

// Calls check(graph) after every pass over a model with attention.
void after_each_pass(Numerics numerics, const std::function<void(const Graph&)>& check) {
  Model model(4, 3);
  Graph graph = model.trace.graph(model.losses(nullptr, testing::longest));
  optimise(graph, numerics, true, [&](const char*, const Graph& after) { check(after); });
}

Graph small_graph() {
  Trace t;
  const auto p = t.parameters(1, 2);
  const auto chosen = t.select(0, {t.tape.tanh(p), t.tape.exp(p + 1)});
  Graph graph = t.graph({t.tape.mul(chosen, p), t.tape.mul(chosen, t.input(0))});
  assign_positions(graph);
  return graph;
}

Node& first_of(Graph& graph, Kind kind) {
  for (Node& node : graph.nodes) {
    if (node.kind == kind) return node;
  }
  CHECK(false);
  return graph.nodes.front();
}

// The violation after `damage` of a valid graph.
std::string damaged(const std::function<void(Graph&)>& damage) {
  Graph graph = small_graph();
  CHECK(violation_in(graph).empty());
  damage(graph);
  return violation_in(graph);
}

// The first instruction of a type in a list of instructions.
template <class T>
T& first_of(std::vector<Instruction>& instructions) {
  for (Instruction& instruction : instructions) {
    if (T* found = std::get_if<T>(&instruction)) return *found;
  }
  CHECK(false);
  return std::get<T>(instructions.front());
}

// Every position attends to itself and all earlier positions; no position depends on the attention
// of another one, so all positions are one cross sum.
VectorProgram attention_program() {
  constexpr std::int32_t length = 4;
  constexpr std::size_t width = 3;
  Trace t;
  t.parameters(5, width);
  std::vector<std::vector<testing::NodeId>> rows;
  std::vector<testing::NodeId> losses;
  for (std::int32_t position = 0; position < length; ++position) {
    rows.emplace_back();
    for (std::size_t i = 0; i < width; ++i) rows.back().push_back(t.gather(position, 0, i));
    std::vector<testing::NodeId> terms;
    for (const auto& row : rows) {
      std::vector<testing::NodeId> products;
      for (std::size_t i = 0; i < width; ++i) {
        products.push_back(t.tape.mul(rows.back()[i], row[i]));
      }
      terms.push_back(t.tape.mul(t.tape.tanh(t.sum(products)), row[0]));
    }
    losses.push_back(t.sum(terms));
  }
  Graph graph = t.graph(losses);
  (void)optimise(graph, Numerics::fast, false, {});
  return lower(graph, Numerics::fast);
}

std::string damaged_program(const std::function<void(VectorProgram&)>& damage) {
  VectorProgram program = Model(5, 8).compile(Numerics::fast);
  CHECK(violation_in(program).empty());
  damage(program);
  return violation_in(program);
}

}  // namespace

TEST_CASE(every_pass_leaves_a_valid_graph) {
  int passes = 0;
  for (const Numerics numerics : {Numerics::exact, Numerics::fast}) {
    after_each_pass(numerics, [&](const Graph& graph) {
      CHECK(violation_in(graph).empty());
      ++passes;
    });
  }
  CHECK(passes >= 16);
}

TEST_CASE(lowering_leaves_a_valid_program) {
  for (const Numerics numerics : {Numerics::exact, Numerics::fast}) {
    for (const std::int32_t width : {1, 3, 8}) {
      CHECK(violation_in(Model(5, width).compile(numerics)).empty());
    }
  }
}

TEST_CASE(an_operand_after_its_user_is_a_violation) {
  CHECK(holds(damaged([](Graph& graph) {
                Node& node = first_of(graph, Kind::tanh);
                node.first = static_cast<Id>(graph.nodes.size() - 1);
              }),
              "an operand must come before its user"));
  CHECK(holds(
      damaged([](Graph& graph) { graph.products[first_of(graph, Kind::sum).first].a = none; }),
      "an operand must come before its user"));
}

TEST_CASE(products_and_operands_outside_their_pools_are_violations) {
  CHECK(holds(damaged([](Graph& graph) {
                first_of(graph, Kind::sum).first =
                    static_cast<std::uint32_t>(graph.products.size());
              }),
              "the products must be in the pool"));
  CHECK(holds(damaged([](Graph& graph) { first_of(graph, Kind::select).count = 1000; }),
              "the operands must be in the pool"));
}

TEST_CASE(a_sum_or_selection_without_operands_is_a_violation) {
  CHECK(holds(damaged([](Graph& graph) { first_of(graph, Kind::sum).count = 0; }),
              "a sum must have a product"));
  CHECK(holds(damaged([](Graph& graph) { first_of(graph, Kind::select).count = 0; }),
              "there must be an operand"));
}

TEST_CASE(a_factor_one_in_front_is_a_violation) {
  CHECK(
      holds(damaged([](Graph& graph) { graph.products[first_of(graph, Kind::sum).first].a = one; }),
            "the factor 1 must be the second one"));
}

TEST_CASE(a_position_that_decreases_or_does_not_exist_is_a_violation) {
  CHECK(holds(damaged([](Graph& graph) { graph.nodes[graph.outputs[1]].position = shared; }),
              "an operand must not have a later position"));
  CHECK(holds(damaged([](Graph& graph) { graph.nodes[graph.outputs[1]].position = 2; }),
              "the position must be"));
}

TEST_CASE(a_parameter_slot_or_root_out_of_range_is_a_violation) {
  CHECK(holds(damaged([](Graph& graph) { first_of(graph, Kind::parameter).index = 2; }),
              "the index must be that of a parameter"));
  CHECK(holds(damaged([](Graph& graph) { first_of(graph, Kind::input).slot = -1; }),
              "the slot must not be negative"));
  CHECK(holds(damaged([](Graph& graph) { graph.outputs[0] = static_cast<Id>(graph.nodes.size()); }),
              "an output is not a node"));
  CHECK(holds(damaged([](Graph& graph) { graph.parameter_gradients.assign(1, none); }),
              "one gradient per parameter"));
}

TEST_CASE(a_row_that_is_read_before_it_is_written_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                std::erase_if(program.forward, [](const Instruction& each) {
                  return std::holds_alternative<GatherRows>(each);
                });
              }),
              "a row must be written before it is read"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                program.outputs[0].group = first_of<SeedRows>(program.backward).group;
              }),
              "a row must be written before it is read"));
}

TEST_CASE(a_sum_that_adds_to_rows_without_a_start_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                first_of<MatrixProduct>(program.forward).accumulate = true;
              }),
              "a row must be written before something is added to it"));
}

TEST_CASE(rows_positions_and_groups_out_of_range_are_violations) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                Destination& to = first_of<MatrixProduct>(program.forward).to;
                to.row = program.group(to.group).features;
              }),
              "a row must be in its group"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                first_of<GatherRows>(program.forward).moves.front().position = testing::longest;
              }),
              "a position must be one of its group's"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                first_of<MatrixProduct>(program.forward).to.group =
                    static_cast<std::int32_t>(program.groups.size());
              }),
              "a destination must be a group"));
}

TEST_CASE(a_run_of_attention_out_of_range_is_a_violation) {
  VectorProgram program = attention_program();
  CHECK(violation_in(program).empty());
  CrossPart& part = first_of<CrossSum>(program.forward).parts.front();
  const CrossRun run = part.runs.front();
  part.runs.front().a.row = 1000;
  CHECK(holds(violation_in(program), "a row must be in its group"));
  part.runs.front() = run;
  part.runs.front().b.position = 4;
  CHECK(holds(violation_in(program), "a position must be one of its group's"));
  part.runs.front() = run;
  part.begin.pop_back();
  CHECK(holds(violation_in(program), "a part must have runs for each position"));
}

TEST_CASE(parameters_and_slots_out_of_range_are_violations) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                first_of<MatrixProduct>(program.forward).products.front().a.index =
                    static_cast<std::int32_t>(program.parameters);
              }),
              "a parameter must be one of the program's"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                first_of<GatherRows>(program.forward).moves.front().slot = program.slots;
              }),
              "a slot must be one of the program's"));
}

TEST_CASE(a_gradient_that_is_added_to_before_it_is_set_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) { program.zeroed_first.clear(); }),
              "a gradient must be written or zeroed"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                for (OuterProduct& outer : program.outer_products) outer.accumulate = true;
              }),
              "a gradient must be written or zeroed"));
}

TEST_CASE(a_matrix_product_of_rows_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                ProductRun& run = first_of<MatrixProduct>(program.forward).products.front();
                std::swap(run.a, run.b);
              }),
              "a matrix product must multiply numbers and rows"));
}

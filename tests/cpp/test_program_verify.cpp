// verify.hpp: valid graphs and programs pass, and each kind of damage is reported with the pass
// that it follows.
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
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

Graph recorded_graph() {
  Trace t;
  const auto p = t.parameters(1, 2);
  const auto chosen = t.select(0, {t.tape.tanh(p), t.tape.exp(p + 1)});
  return t.graph({t.tape.mul(chosen, p), t.tape.mul(chosen, t.input(0))});
}

Graph small_graph() {
  Graph graph = recorded_graph();
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

// What compile() throws if the graph is damaged after a pass.
std::string thrown_after(const char* pass, Numerics numerics) {
  // Debug builds verify in any case.
  CHECK(setenv("NCLAB_VERIFY", "1", 1) == 0);
  Graph graph = recorded_graph();
  try {
    (void)optimise(graph, numerics, true, [&](const char* name, const Graph&) {
      if (std::string(name) == pass) first_of(graph, Kind::input).slot = -1;
    });
    (void)lower(graph, numerics);
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing";
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
              "a row must be written before it is added to or mapped"));
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

TEST_CASE(an_output_that_depends_on_a_gradient_is_a_violation) {
  CHECK(holds(damaged([](Graph& graph) {
                differentiate(graph, Numerics::fast);
                CHECK(violation_in(graph).empty());
                graph.outputs[0] = graph.seeds[1];
              }),
              "an output or an observed value depends on a gradient"));
  CHECK(holds(damaged([](Graph& graph) {
                differentiate(graph, Numerics::fast);
                graph.observed.push_back(graph.parameter_gradients[0]);
              }),
              "an output or an observed value depends on a gradient"));
}

TEST_CASE(a_row_that_is_defined_twice_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                const GatherRows gather = first_of<GatherRows>(program.forward);
                program.forward.insert(program.forward.begin(), gather);
              }),
              "a row must have one definition"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                program.forward.emplace_back(first_of<MapRows>(program.forward));
              }),
              "a row must have one definition"));
  VectorProgram program = attention_program();
  CrossRun& run = first_of<CrossSum>(program.forward).parts.front().runs.front();
  run.repeats = 2;
  run.next = {};
  CHECK(holds(violation_in(program), "a row must have one definition"));
}

TEST_CASE(a_sum_that_adds_to_rows_which_were_read_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                MatrixProduct late = first_of<MatrixProduct>(program.forward);
                late.accumulate = true;
                program.forward.emplace_back(late);
              }),
              "a row must be complete before it is read"));
}

TEST_CASE(a_map_in_place_of_rows_without_operands_or_after_they_were_read_is_a_violation) {
  const auto exponential = [] {
    Trace t;
    const auto p = t.parameters(1, 1);
    Graph graph = t.graph({t.tape.exp(p)});
    (void)optimise(graph, Numerics::fast, true, {});
    return lower(graph, Numerics::fast);
  };
  VectorProgram program = exponential();
  CHECK(violation_in(program).empty());
  CHECK(std::holds_alternative<SumRows>(program.forward[0]));
  program.forward.erase(program.forward.begin());
  CHECK(holds(violation_in(program), "a row must be written before it is added to or mapped"));
  program = exponential();
  const std::int32_t group = first_of<MapRows>(program.forward).to.group;
  const Ref row{.space = AddressSpace::rows, .group = group, .position = 0};
  program.groups.push_back({Kind::tanh, 0, 1, 1, {}});
  const Destination to{.group = static_cast<std::int32_t>(program.groups.size()) - 1};
  program.forward.insert(program.forward.begin() + 1, MapRows{to, Kind::tanh, 0, row});
  CHECK(holds(violation_in(program), "a row must be complete before it is read"));
}

TEST_CASE(a_gradient_that_is_defined_twice_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                for (OuterProduct& outer : program.outer_products) outer.accumulate = false;
                program.zeroed_first = {{0, static_cast<std::int32_t>(program.parameters)}};
              }),
              "a gradient must have one definition"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                program.zeroed_first.push_back(program.zeroed_first.front());
              }),
              "a gradient must have one definition"));
}

TEST_CASE(a_forward_instruction_that_needs_a_gradient_is_a_violation) {
  CHECK(holds(damaged_program([](VectorProgram& program) {
                program.forward.emplace_back(first_of<SeedRows>(program.backward));
              }),
              "a forward instruction must not read a gradient"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                program.forward.emplace_back(first_of<ReduceLanes>(program.backward));
              }),
              "a forward instruction must not set a gradient"));
  CHECK(holds(damaged_program([](VectorProgram& program) {
                program.forward.emplace_back(first_of<ScatterRows>(program.backward));
              }),
              "a forward instruction must not set a gradient"));
}

TEST_CASE(damage_is_found_after_the_pass_that_follows_it) {
  const auto follows = [&](const char* next, const char* pass, Numerics numerics) {
    const std::string text = thrown_after(pass, numerics);
    return holds(text, (std::string("the program is broken after ") + next + ": node %").c_str()) &&
           holds(text, " (input): the slot must not be negative");
  };
  for (const Numerics numerics : {Numerics::exact, Numerics::fast}) {
    CHECK(follows("split_outputs", "recorded", numerics));
    CHECK(follows("fold_constants", "assign_positions", numerics));
    CHECK(follows("remove_dead", "collect_sums", numerics));
    CHECK(follows("group_nodes", "remove_dead", numerics));
  }
  CHECK(follows("collect_dots", "fold_constants", Numerics::exact));
  CHECK(follows("differentiate", "collect_dots", Numerics::exact));
  CHECK(follows("merge_equal", "differentiate", Numerics::exact));
  CHECK(follows("forget_signs_of_zero", "fold_constants", Numerics::fast));
  CHECK(follows("collect_dots", "merge_equal", Numerics::fast));
  CHECK(follows("hoist_selections", "collect_dots", Numerics::fast));
  CHECK(follows("split_logs", "hoist_selections", Numerics::fast));
  CHECK(follows("differentiate", "split_logs", Numerics::fast));
  CHECK(follows("remove_dead", "differentiate", Numerics::fast));
  CHECK(thrown_after("no pass", Numerics::fast) == "nothing");
}

TEST_CASE(a_broken_program_is_not_returned) {
  CHECK(setenv("NCLAB_VERIFY", "1", 1) == 0);
  VectorProgram program = Model(5, 8).compile(Numerics::fast);
  program.outputs.front().index = 1000;
  std::string message;
  try {
    verify(program, "lower");
  } catch (const std::logic_error& error) {
    message = error.what();
  }
  CHECK(message == "the program is broken after lower: a row must be in its group");
}

// Each pass alone, on graphs of a few nodes: the graph after it as text, and what it must keep.
#include "program_testing.hpp"
#include "scalar/program/lowering/groups.hpp"
#include "scalar/program/lowering/lower.hpp"
#include "testing.hpp"

using namespace nanochat::program;
using testing::holds;
using testing::NodeId;
using testing::text;
using testing::Trace;

namespace {

Kind kind(const Graph& graph, Id id) { return graph.nodes[id].kind; }

}  // namespace

TEST_CASE(a_recording_keeps_every_operation_in_its_order) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId product = t.tape.mul(p, p + 1);
  const NodeId started = t.tape.add_const(product, 0.0), minus = t.tape.neg(t.input(0));
  Graph graph = t.graph({t.tape.add(started, minus)});
  CHECK(text(graph) ==
        "%0 = parameter 0\n"
        "%1 = parameter 1\n"
        "%2 = sum %0*%1\n"
        "%3 = sum %2\n"
        "%4 = input slot 0\n"
        "%5 = constant -1\n"
        "%6 = sum %4*%5\n"
        "%7 = sum %3 %6\n");
  CHECK(graph.outputs == std::vector<Id>{7} && graph.parameters == 2);
  CHECK(summary(graph) == "8 nodes: constant 1 parameter 2 input 1 sum 4 (5 products)");
}

TEST_CASE(a_sum_of_terms_becomes_one_output_per_term) {
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const std::vector<NodeId> terms{t.tape.exp(p), t.tape.log(p + 1), t.tape.tanh(p + 2)};
  Graph graph = t.graph({t.tape.mul_const(t.sum(terms), 0.25)});
  const Loss loss = split_outputs(graph);
  CHECK(loss.weight == 0.25 && testing::same_bits(loss.start, 0.0));
  CHECK(graph.outputs.size() == 3);
  CHECK(kind(graph, graph.outputs[0]) == Kind::exp && kind(graph, graph.outputs[1]) == Kind::log &&
        kind(graph, graph.outputs[2]) == Kind::tanh);
}

TEST_CASE(a_loss_records_whether_its_sum_starts_from_zero) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  Graph plain = t.graph({t.tape.add(p, p + 1)}), zero = t.graph({t.tape.add_const(p, 0.0)});
  Graph lone = t.graph({t.tape.exp(p)});
  CHECK(testing::same_bits(split_outputs(plain).start, -0.0) && plain.outputs.size() == 2);
  CHECK(testing::same_bits(split_outputs(zero).start, 0.0) &&
        kind(zero, zero.outputs[0]) == Kind::sum);
  CHECK(testing::same_bits(split_outputs(lone).start, -0.0));
}

TEST_CASE(outputs_that_are_not_sums_are_kept) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  Graph lone = t.graph({t.tape.exp(p)});
  CHECK(split_outputs(lone).weight == 1.0 && lone.outputs.size() == 1);
  Graph several = t.graph({t.tape.add(p, p + 1), t.tape.exp(p)});
  CHECK(split_outputs(several).weight == 1.0 && several.outputs.size() == 2);
  Graph scaled = t.graph({t.tape.mul_const(t.tape.exp(p), 0.25)});
  CHECK(split_outputs(scaled).weight == 1.0 && scaled.outputs.size() == 1);
}

TEST_CASE(a_number_belongs_to_the_first_output_that_needs_it) {
  Trace t;
  const NodeId p = t.parameters(1, 1);
  const NodeId early = t.tape.exp(t.input(0));
  const NodeId late = t.tape.mul(early, t.tape.exp(t.input(1)));
  const NodeId common = t.tape.tanh(p);
  const NodeId lone = t.tape.log(p);
  Graph graph = t.graph({t.tape.mul(early, common), t.tape.mul(late, t.tape.mul(common, lone))});
  assign_positions(graph);
  for (const Node& node : graph.nodes) {
    if (node.kind == Kind::input) CHECK(node.position == node.slot);
    if (node.kind == Kind::exp) CHECK(node.position == graph.nodes[node.first].position);
    if (node.kind == Kind::parameter || node.kind == Kind::tanh) CHECK(node.position == shared);
    if (node.kind == Kind::log) CHECK(node.position == 1);
  }
  CHECK(graph.nodes[graph.outputs[0]].position == 0 && graph.nodes[graph.outputs[1]].position == 1);
}

TEST_CASE(an_observed_value_is_not_before_its_operands) {
  // The logarithm depends on parameters only and belongs to the second output.
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId late = t.tape.log(p + 1);
  Graph graph = t.graph({t.tape.exp(p), t.tape.tanh(late)}, {t.tape.exp(late)});
  assign_positions(graph);
  CHECK(graph.nodes[graph.observed[0]].position == 1);
}

TEST_CASE(a_selection_belongs_to_a_position_even_among_parameters) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId chosen = t.select(0, {p, p + 1});
  Graph graph = t.graph({t.tape.exp(chosen), t.tape.tanh(chosen)});
  assign_positions(graph);
  for (const Node& node : graph.nodes) {
    if (node.kind == Kind::select) CHECK(node.position == 0);
  }
}

TEST_CASE(folded_constants_are_bit_identical_to_the_tape) {
  Trace t;
  const NodeId p = t.parameters(1, 1);
  const NodeId two = t.tape.leaf(2.0);
  const NodeId folded = t.tape.exp(t.tape.add_const(t.tape.mul(two, two), -1.0));
  Graph graph = t.graph({t.tape.mul(p, folded)});
  fold_constants(graph);
  const Node& output = graph.nodes[graph.outputs[0]];
  const Product product = graph.products[output.first];
  CHECK(graph.nodes[product.b].kind == Kind::constant);
  CHECK(testing::same_bits(graph.nodes[product.b].value, t.tape.value(folded)));
}

TEST_CASE(equal_nodes_merge_and_different_ones_do_not) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId a = t.tape.pow_const(p, -1.0), b = t.tape.pow_const(p, -1.0);
  const NodeId other = t.tape.pow_const(p, -0.5), elsewhere = t.tape.pow_const(p + 1, -1.0);
  Graph graph = t.graph({t.tape.mul(t.tape.add(a, b), t.tape.add(other, elsewhere))});
  merge_equal(graph);
  remove_dead(graph);
  int powers = 0;
  for (const Node& node : graph.nodes) powers += node.kind == Kind::power;
  CHECK(powers == 3);
  const Product top = graph.products[graph.nodes[graph.outputs[0]].first];
  const Node& twins = graph.nodes[top.a];
  CHECK(graph.products[twins.first].a == graph.products[twins.first + 1].a);
}

TEST_CASE(zeros_of_either_sign_are_not_equal) {
  Trace t;
  const NodeId p = t.parameters(1, 1);
  Graph graph =
      t.graph({t.tape.add(t.tape.mul(p, t.tape.leaf(0.0)), t.tape.mul(p, t.tape.leaf(-0.0)))});
  merge_equal(graph);
  remove_dead(graph);
  int constants = 0;
  for (const Node& node : graph.nodes) constants += node.kind == Kind::constant;
  CHECK(constants == 2);
}

TEST_CASE(a_factor_of_every_candidate_is_multiplied_after_the_selection) {
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const NodeId x = t.tape.exp(p), y = t.tape.exp(p + 1), z = t.tape.exp(p + 2);
  Graph graph = t.graph({t.select(0, {t.tape.mul(x, z), t.tape.mul(z, y)})});
  assign_positions(graph);
  hoist_selections(graph);
  remove_dead(graph);
  CHECK(text(graph) ==
        "%0 = parameter 0\n"
        "%1 = parameter 1\n"
        "%2 = parameter 2\n"
        "%3 = exp %0  (position 0)\n"
        "%4 = exp %1  (position 0)\n"
        "%5 = exp %2  (position 0)\n"
        "%6 = select %3 %4 slot 0  (position 0)\n"
        "%7 = sum %6*%5  (position 0)\n");
}

TEST_CASE(candidates_without_a_common_factor_are_kept) {
  Trace t;
  const NodeId p = t.parameters(1, 4);
  Graph graph = t.graph({t.select(0, {t.tape.mul(p, p + 1), t.tape.mul(p + 2, p + 3)})});
  const std::size_t before = graph.nodes.size();
  hoist_selections(graph);
  CHECK(graph.nodes.size() == before && kind(graph, graph.outputs[0]) == Kind::select);
}

TEST_CASE(the_log_of_a_softmax_has_no_probability) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId x = t.tape.exp(p), y = t.tape.exp(p + 1);
  const NodeId inverse = t.tape.pow_const(t.tape.add(x, y), -1.0);
  const NodeId chance = t.select(0, {t.tape.mul(x, inverse), t.tape.mul(y, inverse)});
  Graph graph = t.graph({t.tape.log(chance)});
  assign_positions(graph);
  hoist_selections(graph);
  split_logs(graph);
  remove_dead(graph);
  CHECK(text(graph) ==
        "%0 = parameter 0\n"
        "%1 = parameter 1\n"
        "%2 = exp %0  (position 0)\n"
        "%3 = exp %1  (position 0)\n"
        "%4 = sum %2 %3  (position 0)\n"
        "%5 = select %0 %1 slot 0  (position 0)\n"
        "%6 = log %4  (position 0)\n"
        "%7 = constant -1\n"
        "%8 = sum %5 %6*%7  (position 0)\n");
}

TEST_CASE(a_log_is_kept_if_a_sign_is_unknown_or_no_exp_would_disappear) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId x = t.tape.exp(p), y = t.tape.exp(p + 1);
  const NodeId sum = t.tape.add(x, y);
  for (const NodeId of : {t.tape.mul(x, p + 1), t.tape.add(x, p), t.tape.mul(sum, sum),
                          t.select(0, {x, p}), t.tape.pow_const(p, 2.0)}) {
    Graph graph = t.graph({t.tape.log(of)});
    split_logs(graph);
    CHECK(kind(graph, graph.outputs[0]) == Kind::log);
  }
}

TEST_CASE(a_log_of_a_power_of_exp_is_a_multiple) {
  Trace t;
  const NodeId p = t.parameters(1, 1);
  Graph graph = t.graph({t.tape.log(t.tape.pow_const(t.tape.exp(p), 3.0))});
  split_logs(graph);
  remove_dead(graph);
  CHECK(text(graph) ==
        "%0 = parameter 0\n"
        "%1 = constant 3\n"
        "%2 = sum %0*%1\n");
}

TEST_CASE(adding_minus_zero_keeps_minus_zero) {
  Trace t;
  const NodeId p = t.parameters(1, 1);
  Graph graph = t.graph({t.tape.add_const(p, -0.0)});
  CHECK(kind(graph, graph.outputs[0]) == Kind::add_constant);
}

TEST_CASE(gradients_are_nodes_and_nothing_flows_into_a_maximum) {
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const NodeId top = t.largest({p + 1, p + 2});
  Graph graph = t.graph({t.tape.mul(t.tape.mul(p, p + 1), top)});
  assign_positions(graph);
  differentiate(graph, Numerics::fast);
  CHECK(graph.seeds.size() == 1 && kind(graph, graph.seeds[0]) == Kind::seed);
  CHECK(graph.parameter_gradients.size() == 3);
  CHECK(graph.parameter_gradients[0] != none && graph.parameter_gradients[1] != none);
  CHECK(graph.parameter_gradients[2] == none);
  const Product first = graph.products[graph.nodes[graph.parameter_gradients[0]].first];
  CHECK(first.a == 1);  // p1 · upstream
}

TEST_CASE(a_gathered_number_is_paired_with_its_gradient) {
  Trace t;
  t.parameters(3, 2);
  Graph graph = t.graph({t.tape.mul(t.gather(0, 0, 1), t.input(0))});
  assign_positions(graph);
  differentiate(graph, Numerics::fast);
  CHECK(graph.gather_gradients.size() == 1);
  CHECK(kind(graph, graph.gather_gradients[0].a) == Kind::gather);
  CHECK(graph.nodes[graph.gather_gradients[0].a].index == 1);
  CHECK(graph.nodes[graph.gather_gradients[0].a].stride == 2);
}

TEST_CASE(a_dot_product_is_one_node_before_gradients) {
  Trace t;
  const NodeId p = t.parameters(1, 4);
  const NodeId started = t.sum({t.tape.mul(p, p + 1), t.tape.mul(p + 2, p + 3), t.tape.neg(p)});
  const NodeId plain = t.tape.add(t.tape.mul(p, p + 1), t.tape.mul(p + 2, p + 3));
  Graph graph = t.graph({t.tape.exp(started), t.tape.exp(plain)});
  collect_dots(graph, std::vector<char>(graph.nodes.size(), 0));
  remove_dead(graph);
  CHECK(holds(text(graph), " = sum %0*%1 %2*%3 %0*%4\n"));
  CHECK(holds(text(graph), " = sum %0*%1 %2*%3\n"));
  CHECK(graph.nodes.size() == 9);
}

TEST_CASE(a_chain_with_a_bare_term_a_second_user_or_a_twin_is_left_as_recorded) {
  Trace t;
  const NodeId p = t.parameters(1, 4);
  const NodeId first = t.tape.mul(p, p + 1), second = t.tape.mul(p + 2, p + 3);
  const NodeId bare = t.tape.exp(t.tape.add(t.tape.add(first, p), second));
  const NodeId shared_product = t.tape.mul(t.tape.add(first, second), first);
  for (const NodeId output : {bare, shared_product}) {
    Graph graph = t.graph({output});
    const std::string before = text(graph);
    collect_dots(graph, std::vector<char>(graph.nodes.size(), 0));
    CHECK(text(graph) == before);
  }
  Graph twins = t.graph({t.tape.exp(t.tape.add(first, second))});
  const std::string before = text(twins);
  collect_dots(twins, std::vector<char>(twins.nodes.size(), 1));
  CHECK(text(twins) == before);
}

TEST_CASE(a_dot_product_passes_on_gradients_in_the_order_of_its_chain) {
  // y is in the first product, and the second factor of the last product depends on it: microgpt.py
  // reaches it there first.
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const NodeId y = t.tape.tanh(p);
  const NodeId dot = t.sum({t.tape.mul(y, p + 1), t.tape.mul(p + 2, t.tape.exp(y))});
  const NodeId output = t.tape.mul(t.tape.tanh(dot), y);
  std::vector<std::string> gradients;
  for (const bool early : {false, true}) {
    Graph graph = t.graph({output});
    assign_positions(graph);
    if (early) collect_dots(graph, std::vector<char>(graph.nodes.size(), 0));
    remove_dead(graph);
    differentiate(graph, Numerics::exact);
    collect_sums(graph);
    remove_dead(graph);
    gradients.push_back(text(graph));
  }
  CHECK(gradients[0] == gradients[1]);
}

TEST_CASE(a_chain_of_additions_is_one_sum_and_a_sum_on_the_right_is_not_opened) {
  Trace t;
  const NodeId p = t.parameters(1, 6);
  const NodeId dot =
      t.sum({t.tape.mul(p, p + 1), t.tape.mul(p + 2, p + 3), t.tape.mul(p + 4, p + 5)});
  Graph graph = t.graph({t.tape.exp(dot), t.tape.add(p, t.tape.add(p + 1, p + 2))});
  collect_sums(graph);
  remove_dead(graph);
  const std::string left = text(graph);
  CHECK(holds(left, "sum %0*%1 %2*%3 %4*%5\n"));
  CHECK(holds(left, " = sum %1 %2\n"));
  const Node& right = graph.nodes[graph.outputs[1]];
  CHECK(right.kind == Kind::sum && right.count == 2);
}

TEST_CASE(a_collected_sum_keeps_its_start_from_zero) {
  Trace t;
  const NodeId p = t.parameters(1, 4);
  const NodeId started = t.sum({t.tape.mul(p, p + 1)});
  const NodeId plain = t.tape.add(t.tape.mul(p, p + 2), t.tape.mul(p + 1, p + 3));
  const NodeId inside = t.tape.add(p, t.tape.add_const(p + 1, 0.0));
  for (const bool early : {false, true}) {
    Graph graph = t.graph({t.tape.exp(started), t.tape.exp(plain), t.tape.exp(inside)});
    if (early) collect_dots(graph, std::vector<char>(graph.nodes.size(), 0));
    collect_sums(graph);
    const auto from_zero = [&](std::size_t output) {
      return graph.nodes[graph.nodes[graph.outputs[output]].first].from_zero;
    };
    CHECK(from_zero(0) && !from_zero(1) && from_zero(2));
  }
}

TEST_CASE(a_selection_is_exact_if_every_walk_adds_in_the_same_order) {
  // Both candidates lead to p. The order is the same for both tokens unless a candidate is also
  // walked outside of the selection.
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const NodeId first = t.tape.tanh(t.tape.mul(p, p + 1)), second = t.tape.exp(t.tape.mul(p, p + 2));
  const NodeId chosen = t.select(0, {first, second});
  for (const bool again : {false, true}) {
    const NodeId other = again ? t.tape.exp(second) : t.tape.exp(p);
    Graph graph = t.graph({t.tape.add(chosen, t.tape.mul(other, p))});
    assign_positions(graph);
    differentiate(graph, Numerics::exact);
    CHECK(graph.ordered == !again);
  }
}

TEST_CASE(a_sum_with_other_users_is_not_opened) {
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const NodeId inner = t.tape.add(p, p + 1);
  Graph graph = t.graph({t.tape.add(inner, p + 2), t.tape.exp(inner)});
  collect_sums(graph);
  const Node& output = graph.nodes[graph.outputs[0]];
  CHECK(output.count == 2 && kind(graph, graph.products[output.first].a) == Kind::sum);
}

TEST_CASE(a_scaled_term_is_opened_although_others_use_it) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId left = t.tape.mul_const(t.tape.exp(p), 0.5);
  const NodeId right = t.tape.mul_const(t.tape.exp(p + 1), 0.5);
  Graph graph = t.graph({t.tape.tanh(t.tape.add(left, right)), t.tape.log(right)});
  collect_sums(graph);
  remove_dead(graph);
  const auto halves = [&](const Product& product, std::int32_t parameter) {
    const Node& factor = graph.nodes[product.a];
    return factor.kind == Kind::exp && graph.nodes[factor.first].kind == Kind::parameter &&
           graph.nodes[factor.first].index == parameter &&
           graph.nodes[product.b].kind == Kind::constant && graph.nodes[product.b].value == 0.5;
  };
  const Node& both = graph.nodes[graph.nodes[graph.outputs[0]].first];
  const Node& alone = graph.nodes[graph.nodes[graph.outputs[1]].first];
  CHECK(both.kind == Kind::sum && both.count == 2 && alone.kind == Kind::sum && alone.count == 1);
  CHECK(halves(graph.products[both.first], 0) && halves(graph.products[both.first + 1], 1));
  CHECK(halves(graph.products[alone.first], 1));
}

TEST_CASE(dead_nodes_are_removed_and_observed_values_are_kept) {
  Trace t;
  const NodeId p = t.parameters(1, 2);
  const NodeId observed = t.tape.tanh(p), output = t.tape.exp(p);
  Graph graph = t.graph({output}, {observed});
  Node idle;
  idle.kind = Kind::input;
  graph.add(idle);
  remove_dead(graph);
  CHECK(holds(summary(graph), "tanh 1") && holds(summary(graph), "exp 1"));
  CHECK(!holds(summary(graph), "input"));
  CHECK(kind(graph, graph.outputs[0]) == Kind::exp && kind(graph, graph.observed[0]) == Kind::tanh);
}

TEST_CASE(equal_work_on_different_numbers_is_one_group) {
  Trace t;
  const NodeId p = t.parameters(2, 2);
  const NodeId x = t.input(0), y = t.input(1);
  std::vector<NodeId> rows;
  for (NodeId r = 0; r < 2; ++r) {
    rows.push_back(t.tape.exp(t.sum({t.tape.mul(p + 2 * r, x), t.tape.mul(p + 2 * r + 1, y)})));
  }
  Graph graph = t.graph({t.tape.mul(rows[0], rows[1])});
  assign_positions(graph);
  collect_sums(graph);
  remove_dead(graph);
  const Grouping grouping = group_nodes(graph);
  int sums = 0, maps = 0;
  for (const Group& group : grouping.groups) {
    if (group.kind == Kind::exp) CHECK(++maps == 1 && group.features == 2);
    if (group.kind == Kind::sum && group.features == 2) ++sums;
  }
  CHECK(maps == 1 && sums == 1);
  for (Id id = 0; id < graph.nodes.size(); ++id) {
    const bool stored = kind(graph, id) != Kind::parameter && kind(graph, id) != Kind::constant;
    CHECK((grouping.group_of[id] >= 0) == stored);
  }
}

TEST_CASE(candidates_of_every_selection_are_consecutive_rows) {
  // The candidates of the second selection depend on selections, one of them with scattered rows.
  Trace t;
  const NodeId p = t.parameters(1, 3);
  const NodeId x = t.input(0);
  std::vector<NodeId> v;
  for (NodeId i = 0; i < 3; ++i) v.push_back(t.tape.tanh(t.tape.mul(p + i, x)));
  const NodeId scattered = t.tape.exp(t.select(0, {v[0], v[2], v[1]}));
  const NodeId ordered = t.tape.exp(t.select(0, {v[0], v[1], v[2]}));
  Graph graph = t.graph({t.select(1, {scattered, ordered})});
  assign_positions(graph);
  const Grouping grouping = group_nodes(graph);
  for (const Node& node : graph.nodes) {
    if (node.kind != Kind::select) continue;
    const Id first = graph.operands[node.first];
    for (std::uint32_t i = 0; i < node.count; ++i) {
      const Id id = graph.operands[node.first + i];
      CHECK(grouping.group_of[id] == grouping.group_of[first]);
      CHECK(grouping.feature_of[id] == grouping.feature_of[first] + static_cast<std::int32_t>(i));
    }
  }
}

TEST_CASE(a_matrix_times_a_vector_is_one_nest) {
  ProductLists lists;
  for (std::int32_t row = 0; row < 4; ++row) {
    for (std::int32_t k = 0; k < 3; ++k) {
      lists.pairs.push_back({Address{AddressSpace::parameter, 0, own, row * 3 + k},
                             Address{AddressSpace::rows, 7, own, k}});
    }
    lists.start.push_back(static_cast<std::uint32_t>(lists.pairs.size()));
  }
  const std::vector<LoopNest> nests = find_nests(lists);
  CHECK(nests.size() == 1 && nests[0].features == 4 && nests[0].blocks == 1);
  CHECK(nests[0].products.size() == 1 && nests[0].products[0].count == 3);
  const ProductRun& run = nests[0].products[0];
  CHECK(run.a.k_step == 1 && run.a.f_step == 3 && run.b.k_step == 1 && run.b.f_step == 0);
}

TEST_CASE(nests_enumerate_exactly_the_products_they_were_built_from) {
  // Random lists, small enough that runs and repetitions occur by chance.
  std::uint32_t state = 12345;
  const auto random = [&](std::uint32_t n) {
    state = state * 1664525U + 1013904223U;
    return static_cast<std::int32_t>((state >> 16U) % n);
  };
  for (int round = 0; round < 3000; ++round) {
    ProductLists lists;
    const std::int32_t features = 1 + random(6);
    for (std::int32_t f = 0; f < features; ++f) {
      for (std::int32_t i = random(4); i >= 0; --i) {
        const auto address = [&] {
          return Address{AddressSpace::rows, random(2), own, random(3) + f * random(2)};
        };
        lists.pairs.push_back({address(), address()});
      }
      lists.start.push_back(static_cast<std::uint32_t>(lists.pairs.size()));
    }
    std::size_t seen = 0;
    for (const LoopNest& nest : find_nests(lists)) {
      for (std::int32_t o = 0; o < nest.blocks; ++o) {
        for (std::int32_t f = 0; f < nest.features; ++f) {
          const auto feature = static_cast<std::size_t>(nest.row + o * nest.features + f);
          std::size_t at = lists.start[feature];
          for (const ProductRun& run : nest.products) {
            for (std::int32_t k = 0; k < run.count; ++k, ++at, ++seen) {
              const auto reads = [&](const Ref& ref, const Address& expected) {
                return ref.group == expected.group && ref.position == expected.position &&
                       ref.index + o * ref.o_step + f * ref.f_step + k * ref.k_step ==
                           expected.index;
              };
              CHECK(reads(run.a, lists.pairs[at][0]) && reads(run.b, lists.pairs[at][1]));
            }
          }
          CHECK(at == lists.start[feature + 1]);
        }
      }
    }
    CHECK(seen == lists.pairs.size());
  }
}

// One destination per head and feature, as lower_cross() makes them: 3 heads of 4 features at
// position 1, which weight the rows of positions 0 and 1.
TEST_CASE(heads_of_an_attention_become_one_repeated_run) {
  CrossPart part{0, 1, false, {0}, {}};
  for (std::int32_t head = 0; head < 3; ++head) {
    for (std::int32_t i = 0; i < 4; ++i) {
      part.runs.push_back(
          {4 * head + i, 1, 2, {2 * head, 1 + head, 1, 0}, {4 * head + i, 0, 0, 1}});
    }
  }
  part.begin.push_back(static_cast<std::uint32_t>(part.runs.size()));
  const std::vector<CrossRun> single = part.runs;
  share_factors(part);
  CHECK(part.runs.size() == 1 && part.begin == std::vector<std::uint32_t>({0, 1}));
  const CrossRun& run = part.runs.front();
  CHECK(run.repeats == 3 && run.rows == 4);
  CHECK(run.next == CrossRun::Next({4, 2, 1, 4, 0}));
  const std::vector<CrossRun> found = separate(run);
  CHECK(found.size() == single.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].row == single[i].row && found[i].products == 2 && found[i].a == single[i].a &&
          found[i].b == single[i].b && found[i].rows == 1 && found[i].repeats == 1);
  }
}

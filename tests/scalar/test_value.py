"""Value: arithmetic against a plain-Python oracle, operands, errors, object behaviour."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from oracles.plain_value import PlainValue

from nanochat.scalar.value import Tape, Value, default_tape, detached_max, select

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv]
NUMBERS = [3, -2, 0.1, -7.25, True, np.float64(1.7), np.float32(0.3), np.int64(5), np.bool_(True)]
FLOATS = st.floats(-4, 4).filter(lambda x: abs(x) > 1e-3)


def bits(number) -> bytes:
    return np.float64(number).tobytes()


def check_same(actual: Value, plain: PlainValue) -> None:
    assert bits(actual.data) == bits(plain.data)
    # Gradients start at zero; a gradient of PlainValue that is never written is the int 0.
    assert bits(actual.grad) == bits(plain.grad)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{type(n).__name__}({n})")
@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
def test_operators_take_numbers_on_either_side(op, number):
    for swap in (False, True):
        value, plain = Value(1.3), PlainValue(1.3)
        plain_number = number.item() if isinstance(number, np.generic) else number
        result = op(number, value) if swap else op(value, number)
        expected = op(plain_number, plain) if swap else op(plain, plain_number)
        assert type(result) is Value
        result.backward()
        expected.backward()
        check_same(result, expected)
        check_same(value, plain)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
def test_operators_between_values_match_the_oracle(op):
    a, b, x, y = Value(1.3), Value(-0.7), PlainValue(1.3), PlainValue(-0.7)
    result, expected = op(a, b), op(x, y)
    result.backward()
    expected.backward()
    for actual, plain in ((result, expected), (a, x), (b, y)):
        check_same(actual, plain)


@pytest.mark.parametrize(
    "exponent", [2, 3, -1, 0.5, -0.5, 0, 1, True, np.float64(1.5), np.int32(2)]
)
def test_powers_match_the_oracle(exponent):
    plain_exponent = exponent.item() if isinstance(exponent, np.generic) else exponent
    a, x = Value(1.7), PlainValue(1.7)
    result, expected = a**exponent, x**plain_exponent
    result.backward()
    expected.backward()
    check_same(result, expected)
    check_same(a, x)


@settings(max_examples=300)
@given(x=st.floats(1e-8, 1e8), exponent=st.sampled_from([2, -1, 0.5, -0.5, 3]))
def test_powers_are_bit_identical_to_libm(x, exponent):
    assert bits((Value(x) ** exponent).data) == bits(x**exponent)


@pytest.mark.parametrize("x", [0.0, -0.0, 2.0, -3.0, math.inf, 1e-320])
@pytest.mark.parametrize("exponent", [0, 0.0, -0.0, False])
def test_the_power_zero_is_one_with_gradient_zero_as_in_torch(x, exponent):
    value, tensor = Value(x), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    result, expected = value**exponent * 3.0, tensor ** float(exponent) * 3.0
    result.backward()
    expected.backward()
    assert (result.data, value.grad) == (expected.item(), tensor.grad.item()) == (3.0, 0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_polynomial_has_its_derivative_at_zero(dtype):
    x = Tape(dtype).value(0.0)
    y = sum(c * x**i for i, c in enumerate([1.0, 2.0, 3.0]))
    y.backward()
    assert (y.data, x.grad) == (1.0, 2.0)


def build(steps, leaves, functions):
    """Run one random program on Values or PlainValues; return all intermediate results."""
    nodes = list(leaves)
    for kind, i, j, number in steps:
        a, b = nodes[i % len(nodes)], nodes[j % len(nodes)]
        nodes.append(functions[kind](a, b, number))
    return nodes


FUNCTIONS = {
    "add": lambda a, b, c: a + b,
    "sub": lambda a, b, c: a - b,
    "mul": lambda a, b, c: (a * b) * 0.25,
    "neg": lambda a, b, c: -a,
    "add_number": lambda a, b, c: a + c,
    "number_sub": lambda a, b, c: c - a,
    "mul_number": lambda a, b, c: c * a,
    "div_number": lambda a, b, c: a / (c + 5),
    "exp": lambda a, b, c: a.tanh().exp(),
    "log": lambda a, b, c: (a * a + 1).log(),
    "relu": lambda a, b, c: a.relu(),
    "tanh": lambda a, b, c: a.tanh(),
    "div": lambda a, b, c: a / (b * b + 0.5),
    "number_div": lambda a, b, c: c / (a * a + 1),
    "root": lambda a, b, c: (a * a + 0.1) ** -0.5,
    "cube": lambda a, b, c: a.tanh() ** 3,
}
PROGRAMS = st.lists(
    st.tuples(
        st.sampled_from(sorted(FUNCTIONS)), st.integers(0, 99), st.integers(0, 99), st.floats(-4, 4)
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=PROGRAMS, leaves=st.lists(FLOATS, min_size=1, max_size=4), twice=st.booleans())
def test_random_graphs_have_the_oracles_bits_in_every_node(steps, leaves, twice):
    actual = build(steps, [Value(x) for x in leaves], FUNCTIONS)
    plain = build(steps, [PlainValue(x) for x in leaves], FUNCTIONS)
    for _ in range(1 + twice):
        actual[-1].backward()
        plain[-1].backward()
    pairs = zip(actual, plain, strict=True)
    for value, expected in nonempty(pair for pair in pairs if math.isfinite(pair[1].data)):
        check_same(value, expected)


@settings(max_examples=50, deadline=None)
@given(steps=PROGRAMS, leaves=st.lists(FLOATS, min_size=1, max_size=4))
def test_random_graphs_agree_with_torch(steps, leaves):
    actual = build(steps, [Value(x) for x in leaves], FUNCTIONS)
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in leaves]
    expected = build(steps, tensors, FUNCTIONS)
    actual[-1].backward()
    if expected[-1].requires_grad:
        expected[-1].backward()
    assert actual[-1].data == pytest.approx(expected[-1].item(), rel=1e-10, abs=1e-12)
    for value, tensor in zip(actual[: len(leaves)], tensors, strict=True):
        grad = 0.0 if tensor.grad is None else tensor.grad.item()
        assert value.grad == pytest.approx(grad, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_gradients_match_torch_and_finite_differences(name):
    function = FUNCTIONS[name]
    point, other, c, h = 0.8, -1.4, 2.3, 1e-6
    value, fixed = Value(point), Value(other)
    function(value, fixed, c).backward()
    tensor = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    function(tensor, torch.tensor(other, dtype=torch.float64), c).backward()
    above, below = (function(Value(point + d), fixed, c).data for d in (h, -h))
    assert value.grad == pytest.approx(tensor.grad.item(), rel=1e-12)
    assert value.grad == pytest.approx((above - below) / (2 * h), rel=1e-8)


def test_sum_starts_with_a_node_for_zero_plus_the_first_term():
    a, b = Value(1.0), Value(2.0)
    total = sum([a, b])
    assert total.op == "+" and total.children[0].op == "+0.0"
    assert total.children == (total.children[0], b)


def test_shared_nodes_accumulate_and_backward_twice_adds_as_the_oracle_does():
    def diamond(x):
        shared = x * x
        return shared * shared + shared, shared

    value, plain = Value(1.5), PlainValue(1.5)
    (actual, shared), (expected, plain_shared) = diamond(value), diamond(plain)
    for _ in range(2):
        actual.backward()
        expected.backward()
    for v, p in ((actual, expected), (shared, plain_shared), (value, plain)):
        check_same(v, p)


def test_zero_grad_clears_the_value_and_everything_under_it():
    a = Value(2.0)
    other = a * 5
    other.backward()
    result = (a * a).log()
    result.backward()
    result.zero_grad()
    assert (result.grad, result.children[0].grad, a.grad) == (0.0, 0.0, 0.0)
    assert other.grad == 1.0


def test_data_and_grad_can_be_set_and_read():
    a = Value()
    assert (a.data, a.grad) == (0.0, 0.0)
    a.data, a.grad = 2, np.float64(3)
    assert (a.data, a.grad) == (2.0, 3.0)
    assert Value(data=4).data == 4.0
    result = a * 3
    result.data = 7.0
    assert (result + 1).data == 8.0


@pytest.mark.parametrize("attribute", ["data", "grad"])
def test_data_and_grad_refuse_what_is_not_a_number(attribute):
    a = Value(1.0)
    with pytest.raises(TypeError, match=f"Value.{attribute} must be a number, got str"):
        setattr(a, attribute, "2")
    with pytest.raises(TypeError, match=r"must be a number, got nanochat\._scalar\.Value"):
        setattr(a, attribute, Value(1.0))
    with pytest.raises(AttributeError, match=f"Value.{attribute} cannot be deleted"):
        delattr(a, attribute)


@pytest.mark.parametrize(
    ("make", "op", "children"),
    [
        (lambda a, b: a, "", 0),
        (lambda a, b: a + b, "+", 2),
        (lambda a, b: a * b, "*", 2),
        (lambda a, b: a + 2, "+2.0", 1),
        (lambda a, b: a - 2, "+-2.0", 1),
        (lambda a, b: a * 0.5, "*0.5", 1),
        (lambda a, b: a / 4, "*0.25", 1),
        (lambda a, b: a**3, "**3.0", 1),
        (lambda a, b: -a, "neg", 1),
        (lambda a, b: a.exp(), "exp", 1),
        (lambda a, b: a.log(), "log", 1),
        (lambda a, b: a.relu(), "relu", 1),
        (lambda a, b: a.tanh(), "tanh", 1),
    ],
)
def test_op_and_children_describe_the_node(make, op, children):
    a, b = Value(2.0), Value(3.0)
    result = make(a, b)
    assert result.op == op
    assert result.children == (a, b)[:children]


def test_subtraction_and_division_are_composed_as_microgpt_composes_them():
    a, b = Value(2.0), Value(4.0)
    difference, quotient = a - b, a / b
    assert difference.op == "+" and [c.op for c in difference.children] == ["", "neg"]
    assert quotient.op == "*" and [c.op for c in quotient.children] == ["", "**-1.0"]
    assert [(2 - a).op, (2 - a).children[0].op] == ["+2.0", "neg"]
    assert [(2 / a).op, (2 / a).children[0].op] == ["*2.0", "**-1.0"]


def test_non_finite_values_follow_ieee_754_where_math_raises():
    assert Value(1000.0).exp().data == math.inf
    assert Value(0.0).log().data == -math.inf
    assert math.isnan(Value(-1.0).log().data)
    assert math.isnan((Value(-1.0) ** 0.5).data)
    assert (Value(1.0) / Value(0.0)).data == math.inf
    assert (Value(0.0) ** -1).data == math.inf and (Value(-0.0) ** -1).data == -math.inf
    assert math.isnan(Value(math.nan).relu().data)


def test_relu_of_negative_zero_is_zero_as_max_gives():
    assert bits(Value(-0.0).relu().data) == bits(max(0, -0.0))


@pytest.mark.parametrize("op", [*OPERATORS, operator.pow], ids=lambda op: op.__name__)
@pytest.mark.parametrize(
    "other", ["1", None, 1j, [1.0], object(), b"1"], ids=lambda x: type(x).__name__
)
def test_operators_refuse_what_is_not_a_number(op, other):
    with pytest.raises(TypeError, match=r"unsupported operand|can't multiply sequence"):
        op(Value(1.0), other)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
def test_arrays_do_not_swallow_values(op):
    for array in (np.array([1.0, 2.0]), np.ones((2, 2))):
        with pytest.raises(TypeError):
            op(array, Value(1.0))
        with pytest.raises(TypeError):
            op(Value(1.0), array)


@pytest.mark.parametrize("number", [Decimal("1.5"), Fraction(3, 2)])
def test_anything_with_float_is_a_number(number):
    assert (Value(2.0) * number).data == 3.0
    assert (number * Value(2.0)).data == 3.0
    assert Value(number).data == 1.5


def test_an_int_beyond_a_double_raises_overflow_error():
    for action in (
        lambda: Value(1.0) + 10**400,
        lambda: 10**400 * Value(1.0),
        lambda: Value(10**400),
    ):
        with pytest.raises(OverflowError, match="int too large to convert to float"):
            action()


def test_division_by_the_number_zero_raises_as_float_does():
    for zero in (0, 0.0, -0.0, False):
        with pytest.raises(ZeroDivisionError, match="division by the number zero"):
            Value(1.0) / zero


def test_a_value_exponent_and_a_modulus_are_refused():
    for base in (Value(2.0), 2.0):
        with pytest.raises(TypeError, match="exponent of \\*\\* must be a number, got Value"):
            base ** Value(2.0)
    with pytest.raises(TypeError, match="modulus is not defined"):
        pow(Value(2.0), 2, 3)


def test_constructor_refuses_what_is_not_a_number():
    for data, name in (("3", "str"), (Value(1.0), "nanochat._scalar.Value"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"needs a number, got {name}"):
            Value(data)
    with pytest.raises(TypeError):
        Value(1.0, 2.0)


def test_values_of_two_tapes_do_not_mix():
    with pytest.raises(ValueError, match="must be on the same tape"):
        Tape().value(1.0) + Tape().value(2.0)
    with pytest.raises(ValueError, match="must be on the same tape"):
        Tape().value(1.0) / Value(2.0)


def test_values_cannot_be_pickled_copied_subclassed_or_given_attributes():
    value = Value(1.0)
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"use its \.data"):
            action(value)
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Sub", (Value,), {})
    with pytest.raises(AttributeError):
        value.label = "x"


def test_values_are_equal_and_hash_alike_only_when_they_are_one_node():
    a, b = Value(1.0), Value(1.0)
    result = a * b
    assert result.children[0] == a and result.children[0] != b
    assert hash(result.children[0]) == hash(a)
    assert {a, b, *result.children} == {a, b}
    assert a != 1.0
    with pytest.raises(TypeError):
        assert a < b


def test_repr_shows_the_number():
    a = Value(0.1)
    (a * 3).backward()
    assert repr(a) == "Value(data=0.1, grad=3.0)"
    assert +a is a


@pytest.mark.parametrize("function", [float, complex, math.exp, math.sqrt, np.float64, math.isnan])
def test_a_function_of_floats_refuses_a_value_because_its_result_would_have_no_gradient(function):
    with pytest.raises(TypeError) as caught:
        function(Value(1.0))
    assert str(caught.value) == (
        "float() of a Value would lose its gradient; use .data for its number, or a method of the"
        " Value such as exp(), log() or tanh()"
    )


def test_the_backward_pass_takes_the_numbers_that_the_operands_have_then():
    """microgpt.py stores each derivative during the forward pass and would give 2 and 12."""
    a, b, x = Value(2.0), Value(3.0), Value(2.0)
    product, cube = a * b, x**3
    a.data, x.data = 10.0, 5.0
    product.backward()
    cube.backward()
    assert (b.grad, x.grad) == (10.0, 75.0)
    assert (product.data, cube.data) == (6.0, 8.0)


def test_operations_leave_reference_counts_as_they_found_them():
    a, b, number = Value(1.0), Value(2.0), 12345.678
    before = [sys.getrefcount(x) for x in (a, b, number)]
    for _ in range(100):
        result = (a + b) * number - number / a
        result.backward()
        assert len(result.children) == 2
        with pytest.raises(TypeError):
            a + "x"
    del result
    assert [sys.getrefcount(x) for x in (a, b, number)] == before


def test_dead_value_objects_are_used_again_with_a_clean_count():
    for _ in range(3):
        values = [Value(i) for i in range(3000)]
        assert [v.data for v in values] == list(range(3000))
        assert all(sys.getrefcount(v) == 3 for v in values)  # list, loop variable, argument
        del values


def test_dropped_values_leave_nothing_on_the_default_tape():
    before = default_tape().nodes
    a = Value(1.0)
    assert default_tape().nodes == before + 1
    result = (a * a).exp()
    assert default_tape().nodes == before + 3
    del result, a
    assert default_tape().nodes == before


def test_select_returns_the_very_value_and_checks_bounds():
    values = [Value(1.0), Value(2.0)]
    assert select(values, 1) is values[1]
    assert select(tuple(values), np.int64(0)) is values[0]
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 2 values"):
            select(values, index)


def test_detached_max_is_pythons_max_over_data():
    assert detached_max([Value(1.0), Value(3.0), Value(2.0)]) == 3.0
    assert detached_max([1, Value(-3.0), 2.5]) == 2.5
    assert type(detached_max([Value(1)])) is float
    assert math.isnan(detached_max([math.nan, Value(1.0)])) == math.isnan(max([math.nan, 1.0]))
    assert detached_max([Value(1.0), math.nan]) == max([1.0, math.nan])
    with pytest.raises(ValueError, match="at least one value"):
        detached_max([])
    with pytest.raises(TypeError, match="takes Values and numbers, got str"):
        detached_max(["a"])

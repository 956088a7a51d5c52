"""Random functions: loss and gradients of a program compared with Values, differences and error bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from scalar.error_bound import UNIT
from scalar.program_models import (
    OnTape,
    Parameters,
    PlainAdamW,
    Recipe,
    by_bounds,
    by_tape,
    recipes,
)

import nanochat
from nanochat.errors import ProgramError
from nanochat.scalar.functions import cross_entropy, softmax
from nanochat.scalar.program import Program
from nanochat.scalar.value import Tape, Value, detached_max, select

one_value = recipes()
several_values = recipes(several=True, tokens=False)


def program_of(recipe: Recipe, **options: Any) -> tuple[Program, Parameters]:
    parameters = Parameters.of(recipe)
    function = recipe.function(parameters.loose, parameters.matrices, OnTape(parameters.tape))
    program = nanochat.compile(
        function, parameters.all(), tokens=len(recipe.tokens), inputs=len(recipe.inputs),
        tape=parameters.tape, **options,
    )  # fmt: skip
    return program, parameters


def given_to(recipe: Recipe) -> tuple[Any, Any]:
    return recipe.tokens or None, recipe.inputs or None


def check_fast(recipe: Recipe) -> None:
    loss, grads = by_tape(recipe)
    error, errors = by_bounds(recipe)
    program, parameters = program_of(recipe)
    got = program.grad(*given_to(recipe))
    assert abs(got - loss) <= UNIT * error
    assert np.all(np.abs(parameters.grads() - grads) <= UNIT * errors)


def check_exact(recipe: Recipe) -> None:
    loss, grads = by_tape(recipe)
    try:
        program, parameters = program_of(recipe, numerics="exact")
    except ProgramError as error:
        assert "order" in str(error)
        return
    # Including the signs of zeros.
    assert program.grad(*given_to(recipe)).hex() == loss.hex()
    assert parameters.grads().tobytes() == grads.tobytes()


@settings(deadline=None)
@given(one_value)
def test_fast_program_of_one_value_is_the_tape_up_to_rounding(recipe: Recipe) -> None:
    check_fast(recipe)


@settings(deadline=None)
@given(several_values)
def test_fast_program_of_several_losses_is_the_tape_up_to_rounding(recipe: Recipe) -> None:
    check_fast(recipe)


@settings(deadline=None)
@given(one_value)
def test_exact_program_of_one_value_is_refused_or_has_the_bits_of_the_tape(recipe: Recipe) -> None:
    check_exact(recipe)


@settings(deadline=None)
@given(several_values)
def test_exact_program_of_several_losses_is_refused_or_has_the_bits_of_the_tape(
    recipe: Recipe,
) -> None:
    check_exact(recipe)


@pytest.mark.long
@settings(max_examples=4000, deadline=None)
@given(recipes(most=30))
def test_fast_program_of_a_large_function_is_the_tape_up_to_rounding(recipe: Recipe) -> None:
    check_fast(recipe)


@pytest.mark.long
@settings(max_examples=4000, deadline=None)
@given(recipes(several=True, tokens=False, most=30))
def test_programs_of_many_losses_are_the_tape(recipe: Recipe) -> None:
    check_fast(recipe)
    check_exact(recipe)


@settings(deadline=None)
@given(recipes(smooth=True, most=8))
def test_gradients_of_smooth_functions_are_central_differences(recipe: Recipe) -> None:
    program, parameters = program_of(recipe)
    program.grad(*given_to(recipe))
    grads = parameters.grads()
    error, errors = by_bounds(recipe)
    h = 1e-5
    places: list[tuple[Any, Any]] = [(value, None) for value in parameters.loose]
    places += [(m.values, at) for m in parameters.matrices for at in np.ndindex(m.shape)]

    def loss_at(i: int, x: float) -> float:
        holder, at = places[i]
        if at is None:
            holder.data = x
        else:
            holder[at] = x
        return program.loss(*given_to(recipe))

    for i, x in enumerate(nonempty(parameters.values().tolist())):
        above, below = loss_at(i, x + h), loss_at(i, x - h)
        loss_at(i, x)
        difference = (above - below) / (2 * h)
        assert abs(difference - grads[i]) <= 1e-4 * (1 + errors[i]) + UNIT * error / h


@settings(deadline=None)
@given(one_value)
def test_float32_is_float64_rounded(recipe: Recipe) -> None:
    program, parameters = program_of(recipe)
    rounded, rounded_parameters = program_of(recipe, dtype="float32")
    error, errors = by_bounds(recipe)
    loss, got = program.grad(*given_to(recipe)), rounded.grad(*given_to(recipe))
    assert abs(got - loss) <= 1e-7 * error
    assert np.all(np.abs(rounded_parameters.grads() - parameters.grads()) <= 1e-7 * errors)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@settings(max_examples=150, deadline=None)
@given(recipe=one_value)
def test_a_step_is_adamw_of_plain_python(weight_decay: float, recipe: Recipe) -> None:
    options = {"lr": 1e-3, "beta1": 0.85, "beta2": 0.99, "eps": 1e-8, "weight_decay": weight_decay}
    for numerics in ("exact", "fast"):
        try:
            program, parameters = program_of(recipe, numerics=numerics)
        except ProgramError as error:
            assert numerics == "exact" and "order" in str(error)
            continue
        adam = PlainAdamW(len(parameters.values()), **options)
        for _ in range(3):
            before = parameters.values().tolist()
            loss = program.grad(*given_to(recipe))
            expected = adam.step(before, parameters.grads().tolist())
            assert program.step(*given_to(recipe), **options) == loss
            got = parameters.values()
            if numerics == "exact":
                assert got.tolist() == expected
            else:
                assert np.all(np.abs(got - expected) <= 1e-12 * (np.abs(before) + 1e-3))


@pytest.mark.parametrize(("dtype", "unit"), [("float64", 1e-15), ("float32", 2e-7)])
@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-2000, 2000, width=32), min_size=2, max_size=5),
    target=st.integers(0, 1),
)
def test_a_cross_entropy_is_accurate_for_unlikely_targets(
    dtype: str, unit: float, logits: list[float], target: int
) -> None:
    """Including probabilities that underflow. The oracle is log-sum-exp by math.fsum."""
    tape = Tape()
    p = values(tape, *logits)
    program = nanochat.compile(
        lambda tokens: cross_entropy(p, tokens[0]), p, tokens=1, tape=tape, dtype=dtype
    )
    top = max(logits)
    exps = [math.exp(x - top) for x in logits]
    total = math.fsum(exps)
    loss = math.log(total) + (top - logits[target])
    assert program.grad([target]) == pytest.approx(loss, rel=8 * unit, abs=8 * unit)
    expected = [e / total - (i == target) for i, e in enumerate(exps)]
    assert [v.grad for v in p] == pytest.approx(expected, rel=8 * unit, abs=8 * unit)


# Regressions that random functions found, each as the smallest function that shows it.


def values(tape: Tape, *numbers: float) -> list[Value]:
    return [tape.value(x) for x in numbers]


def check_small(
    function: Callable[..., Any],
    parameters: list[Value],
    tape: Tape,
    tokens: list[int] | None = None,
    inputs: list[float] | None = None,
    **options: Any,
) -> None:
    """Check loss and gradients against the tape: bit-identical with exact numerics."""
    arguments: list[Any] = [] if tokens is None else [tokens]
    arguments += [] if inputs is None else [[tape.value(x) for x in inputs]]
    losses = function(*arguments)
    loss = (1 / len(losses)) * sum(losses) if isinstance(losses, list) else losses
    loss.backward()
    expected = [loss.data, *(p.grad for p in parameters)]
    program = nanochat.compile(
        function,
        parameters,
        tokens=len(tokens or []),
        inputs=len(inputs or []),
        tape=tape,
        **options,
    )
    got = [program.grad(tokens, inputs), *(p.grad for p in parameters)]
    assert got == (expected if options else pytest.approx(expected, rel=1e-12, abs=1e-15))


def test_a_function_of_the_second_parameter_reads_the_second_parameter() -> None:
    tape = Tape()
    p = values(tape, 0.3, 0.7)
    check_small(lambda: p[1].tanh(), p, tape)


def test_a_function_of_a_parameter_is_the_same_for_every_document() -> None:
    tape = Tape()
    p = values(tape, 0.3, 0.7, 0.9)
    program = nanochat.compile(
        lambda x: p[0].exp() * x[0] + p[1].tanh() * x[0], p, inputs=1, tape=tape
    )
    got = program.grad(None, [[1.0], [2.0], [3.0]])
    assert got == pytest.approx((np.exp(0.3) + np.tanh(0.7)) * 2)
    assert [v.grad for v in p] == pytest.approx([2 * np.exp(0.3), 2 - 2 * np.tanh(0.7) ** 2, 0.0])


def test_later_losses_may_all_apply_a_function_to_an_earlier_number() -> None:
    tape = Tape()
    p = values(tape, 0.1, 0.2, 0.3)

    def function(x: list[Value]) -> list[Value]:
        h = x[0] * p[0]
        return [h, h.exp() * p[1], h.exp() * p[2]]

    check_small(function, p, tape, inputs=[0.7])


def test_later_losses_may_all_scale_an_earlier_number() -> None:
    tape = Tape()
    p = values(tape, 0.1)
    check_small(lambda x: [x[0] * p[0], x[0] * -1.0, x[0] * -1.0], p, tape, inputs=[0.7])


def test_a_list_of_one_loss_that_is_a_sum_is_not_averaged_over_its_terms() -> None:
    tape = Tape()
    p = values(tape, 1.0, 2.0)
    check_small(lambda: [p[0] + p[1]], p, tape)


def test_a_selection_among_parameters_may_serve_several_losses() -> None:
    tape = Tape()
    p = values(tape, 0.1, 0.2, 0.3)

    def function(tokens: list[Any]) -> list[Value]:
        chosen = select(p, tokens[0])
        return [chosen * 1.0, chosen.exp() * p[1]]

    check_small(function, p, tape, tokens=[2])


def test_a_difference_with_a_separate_parameter_per_loss_is_kept() -> None:
    tape = Tape()
    p = values(tape, 0.3, 0.4)
    check_small(lambda x: [x[0] * 2.0, x[0] - p[0], x[1] - p[1]], p, tape, inputs=[0.7, 0.9])


def test_a_scaled_number_may_be_a_loss_and_a_term_of_a_sum() -> None:
    tape = Tape()
    p = values(tape, 0.3, 0.4)

    def function() -> Value:
        twos = [tape.value(2.0), tape.value(2.0)]
        chances = softmax(p)
        scales = [two.exp().tanh() for two in twos]
        total = sum(a * b for a, b in zip(chances, scales, strict=True))
        return total - detached_max([total])

    check_small(function, p, tape)


def test_parts_of_a_softmax_may_be_losses() -> None:
    tape = Tape()
    p = values(tape, 0.3, 0.4)

    def function() -> list[Value]:
        chances = softmax(p)
        return [chances[0] * 0.9, chances[1] * 0.9]

    check_small(function, p, tape)


@pytest.mark.parametrize("second", [0, 1])
def test_a_selection_may_choose_among_selections(second: int) -> None:
    tape = Tape()
    p = values(tape, 0.1, 0.2, 0.3)

    def function(tokens: list[Any], x: list[Value]) -> Value:
        v = [(each * x[0]).tanh() for each in p]
        scattered, ordered = select([v[0], v[2], v[1]], tokens[0]), select(v, tokens[0])
        return select([scattered.exp(), ordered.exp()], tokens[1])

    check_small(function, p, tape, tokens=[2, second], inputs=[0.7])


def test_a_maximum_may_be_of_maxima() -> None:
    tape = Tape()
    p = values(tape, 0.1, 0.2, 0.3)

    def function(x: list[Value]) -> Value:
        v = [(each * x[0]).tanh() for each in p]
        low, high = v[1] - detached_max([v[0], v[1]]), v[0] - detached_max([v[2], v[0]])
        return p[0] - detached_max([low.exp(), high.exp()])

    check_small(function, p, tape, inputs=[0.7])


def test_exact_keeps_the_order_of_a_loss_that_other_losses_use() -> None:
    # The gradient of p is (2/3 - 2/3) + 1/3 on the tape; 1/3 + 2/3 - 2/3 is a different number.
    tape = Tape()
    p = values(tape, 0.5)

    def function() -> list[Value]:
        zero = p[0] - p[0]
        return [p[0], zero, zero]

    try:
        check_small(function, p, tape, numerics="exact")
    except ProgramError as error:
        assert "order" in str(error)


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize(
    "loss_of",
    [
        lambda a, b: a * b,
        lambda a, b: sum([a * b]),
        lambda a, b: a * b + 0,
        lambda a, b: sum([a]),
        lambda a, b: sum([a]) * -0.5,
        lambda a, b: sum([a * b, a * b]),
        lambda a, b: sum([a * b, a * b]) * 0.5,
        lambda a, b: sum([a * b, b * a]) * -0.5,
        lambda a, b: a * b + b * a,
        lambda a, b: [a * b],
        lambda a, b: [a * b, a * b],
    ],
    ids=[
        "product",
        "sum of one",
        "plus 0",
        "leaf",
        "scaled leaf",
        "sum",
        "half",
        "negative",
        "no start",
        "a list of one",
        "a list",
    ],
)
def test_exact_loss_of_zero_has_the_sign_of_the_tape(zero: float, loss_of: Any) -> None:
    tape = Tape()
    a, b = values(tape, zero, abs(zero))
    program = nanochat.compile(lambda: loss_of(a, b), [a, b], numerics="exact", tape=tape)
    expected = loss_of(a, b)
    if isinstance(expected, list):
        expected = (1 / len(expected)) * sum(expected)
    assert program.loss().hex() == expected.data.hex()


def test_exact_takes_one_value_that_is_a_mean_of_losses() -> None:
    # Partial sums of the losses use them, but the program does not compute partial sums.
    tape = Tape()
    matrix = tape.matrix(3, 2)
    matrix.values[:] = np.arange(1, 7).reshape(3, 2) / 7

    def function() -> Value:
        losses = [
            -softmax([x * y for x in matrix.row(i)])[0].log() for i, y in enumerate(matrix.row(2))
        ]
        return (1 / len(losses)) * sum(losses)

    loss = function()
    loss.backward()
    expected = matrix.grads.copy()
    program = nanochat.compile(function, matrix, numerics="exact", tape=tape)
    assert program.grad() == loss.data
    assert np.array_equal(matrix.grads, expected)


def test_inputs_and_tokens_that_the_function_does_not_use_are_still_passed() -> None:
    tape = Tape()
    p = values(tape, 0.5)
    matrix = tape.matrix(3, 1)
    matrix.values[:] = 0.25
    check_small(lambda x: p[0] * x[0], p, tape, inputs=[1.0, 2.0])
    program = nanochat.compile(lambda t: matrix.row(t[0])[0], matrix, tokens=2, tape=tape)
    assert program.loss([1, 2]) == 0.25


def test_a_single_sum_over_positions_is_not_shortened_for_a_shorter_document() -> None:
    # Its weight, 1 / 3, is for three positions. For one position the function gives another number.
    tape = Tape()
    matrix = tape.matrix(2, 2)
    matrix.values[:] = [[0.3, 0.4], [0.5, 0.6]]

    def function(tokens: list[Any]) -> Value:
        pairs = pairwise(tokens)
        losses = [matrix.row(b)[0] * matrix.row(a)[1] for a, b in pairs]
        return (1 / len(losses)) * sum(losses)

    program = nanochat.compile(function, matrix, tokens=4, tape=tape)
    assert program.loss([0, 1, 0, 1]) == pytest.approx(function([0, 1, 0, 1]).data, rel=1e-12)
    with pytest.raises(ValueError, match="4"):
        program.loss([0, 1])

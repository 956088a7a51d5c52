"""Exact programs of functions that select by a token: bit-identical for every token, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar.program_models import Recipe, recipes
from scalar.test_program_graphs import check_exact

import nanochat
from nanochat.errors import ProgramError
from nanochat.scalar.functions import softmax
from nanochat.scalar.value import Tape, Value, select

Function = Callable[[Sequence[Value], Any], Value]  # of the parameters and a function that selects


def numbers(count: int) -> list[float]:
    return [math.sin(1.7 * i + 0.3) for i in range(count)]


def check_every_token(function: Function, count: int, tokens: int) -> None:
    """Check that loss and gradients of `count` parameters are bit-identical to the tape, for every token."""
    tape = Tape()
    parameters = [tape.value(x) for x in numbers(count)]
    program = nanochat.compile(
        lambda t: function(parameters, lambda values: select(values, t[0])),
        parameters, tokens=1, numerics="exact", tape=tape,
    )  # fmt: skip
    for token in range(tokens):
        plain = [tape.value(x) for x in numbers(count)]
        loss = function(plain, lambda values, token=token: values[token])
        loss.backward()
        assert program.grad([token]).hex() == loss.data.hex()
        assert [p.grad.hex() for p in parameters] == [p.grad.hex() for p in plain]


def test_a_probability_of_a_softmax_is_taken_exactly() -> None:
    def function(p: Sequence[Value], choose: Any) -> Value:
        x, y = p[0].tanh(), p[1].exp()
        return -choose(softmax([p[2 * i] * x + p[2 * i + 1] * y for i in range(1, 6)])).log()

    check_every_token(function, 12, 5)


def test_candidates_that_share_a_parameter_keep_their_gradients() -> None:
    # candidates 1 and 4 depend on p[1], the first one does not
    check_every_token(lambda p, choose: choose([x + x for x in [*p, *p]]), 3, 6)


def test_users_of_a_selection_add_their_gradients_in_turn() -> None:
    def function(p: Sequence[Value], choose: Any) -> Value:
        x, y, z = roots = [x.exp() for x in p]
        chosen = choose(roots)
        total = (x + y + z).tanh()
        return total * (chosen * x + (chosen * y).tanh() + (chosen * z).exp())

    check_every_token(function, 3, 3)


def test_parameters_themselves_are_candidates() -> None:
    check_every_token(lambda p, choose: sum((choose(p) * x).tanh() for x in p), 3, 3)


def test_a_walk_that_depends_on_the_token_is_refused() -> None:
    def function(p: Sequence[Value], choose: Any) -> Value:
        first, second = (p[0] * p[1]).tanh(), (p[0] * p[2]).exp()
        # `second` is walked under the selection or after it, and all candidates depend on p[0]
        return choose([first, second]) * p[0] + second.tanh() * p[0].exp()

    with pytest.raises(ProgramError, match="order"):
        check_every_token(function, 3, 2)


def test_a_gathered_number_with_two_users_is_refused() -> None:
    tape = Tape()
    matrix = tape.matrix(2, 2)

    def function(tokens: Any) -> Value:
        (a, b), (c, d) = matrix.row(tokens[0]), matrix.row(tokens[0])
        return (a + a) * b + (c + c).tanh() * d

    with pytest.raises(ProgramError, match="order"):
        nanochat.compile(function, [matrix], tokens=1, numerics="exact", tape=tape)


def test_losses_that_no_token_reaches_compile() -> None:
    tape = Tape()
    p = tape.value(0.5)
    program = nanochat.compile(lambda _: [p * p, p.tanh()], [p], tokens=1, tape=tape)
    assert program.grad([0]) == pytest.approx((0.25 + math.tanh(0.5)) / 2, rel=1e-15)
    assert p.grad == pytest.approx((1.0 + 1 - math.tanh(0.5) ** 2) / 2, rel=1e-15)


FOUND = {  # by hypothesis, or by a search: sums of three or more terms were added in another order
    "users of one selection": Recipe(
        [0.0078125, 0.0078125], [], [0.0078125, 0.0078125, 0.0078125], [0],
        [("exp", 0), ("exp", 2), ("add", 2, 1), ("exp", 4), ("exp", 5), ("select", 2, 0),
         ("exp", 7), ("add", 7, 6), ("tanh", 9), ("exp", 10), ("exp", 11), ("tanh", 12),
         ("exp", 13), ("softmax", 14)],
        [(15, 0)],
    ),
    "the walk of another candidate": Recipe(
        [-1.7505328714471196, -0.07628456959452112, 0.9098403650159161],
        [[[-0.020067232592933415, 0.0596132286140163, -0.1804616316144836],
          [0.9084945997505742, -0.3851468493085015, 0.7568464177855787],
          [-0.45241447992833184, 0.32912063458198637, 0.4270005930751104]]],
        [], [1, 1],
        [("add", 0, 0), ("add", 1, 0), ("select", 2, 1), ("mul", 0, 0), ("mul", 3, 4),
         ("mul", 5, 4), ("linear", 3, 0), ("mul", 6, 2)],
        [(8, 2)],
    ),
    "a row taken twice": Recipe(
        [-1.9973003820710562], [[[-0.9791872580085137, -0.12112566584734896, -0.8640859899869204],
                                 [0.4067058037092677, -0.029428161098112637, -0.929683908566231]]],
        [], [1, 0],
        [("row", 0, 1), ("neg", 1), ("constant", 1.0), ("mul", 3, 2), ("row", 0, 1),
         ("concat", 5, 4), ("add", 6, 6), ("tanh", 7), ("neg", 8), ("neg", 9), ("softmax", 10),
         ("tanh", 11), ("tanh", 12), ("tanh", 13), ("part", 14, 1)],
        [(15, 0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_regressions_have_the_bits_of_the_tape_or_are_refused(name: str) -> None:
    check_exact(FOUND[name])


def with_selections(recipe: Recipe, token: int) -> Recipe:
    """Return the recipe with another loss: the product of selections from its vectors."""
    steps = list(recipe.steps)
    first = 1 + bool(recipe.inputs)
    chosen = []
    for made, step in enumerate(recipe.steps, start=first):
        if step[0] in ("add", "mul", "softmax", "linear"):
            steps.append(("select", made, 0))
            chosen.append(first + len(steps) - 1)
    for vector in chosen:
        steps.append(("mul", first + len(steps) - 1, vector))
    return Recipe(
        recipe.loose, recipe.matrices, recipe.inputs, [token], steps,
        [(first + len(steps) - 1, 0)],
    )  # fmt: skip


@settings(deadline=None)
@given(recipes(tokens=False, smooth=True), st.integers(0, 1))
def test_functions_of_many_selections_have_the_bits_of_the_tape_or_are_refused(
    recipe: Recipe, token: int
) -> None:
    try:
        check_exact(with_selections(recipe, token))
    except IndexError:  # a vector of one number has no second element
        check_exact(with_selections(recipe, 0))

"""Exact programs of zeros: every sign is that of microgpt.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar.program_models import Recipe
from scalar.test_program_graphs import check_exact

ONE = ("tanh", "neg", "relu", "safe_exp", "sum", "plain_sum", "right_sum", "softmax", "reversed")
TWO = ("add", "sub", "mul", "dot", "concat")


@st.composite
def zeros(draw: Callable[..., Any]) -> Recipe:
    """Draw a few steps on zeros and ones of both signs, without a pole."""
    small = st.sampled_from([0.0, -0.0, 1.0, -1.0])
    loose = draw(st.lists(small, min_size=1, max_size=4))
    matrix = draw(st.lists(st.lists(small, min_size=3, max_size=3), min_size=2, max_size=2))
    steps: list[Any] = []
    for made in range(1, draw(st.integers(2, 9))):
        before = st.integers(0, made - 1)
        name = draw(st.sampled_from([*ONE, *TWO, *TWO, "linear", "constant"]))
        if name == "constant":
            steps.append((name, draw(small), draw(small)))
        elif name == "linear":
            steps.append((name, draw(before), 0))
        else:
            steps.append((name, *(draw(before) for _ in range(2 if name in TWO else 1))))
    return Recipe(loose, [matrix], [], [], steps, [(len(steps), 0)])


@settings(deadline=None)
@given(zeros())
def test_signs_of_zeros_are_those_of_the_tape(recipe: Recipe) -> None:
    check_exact(recipe)


@pytest.mark.parametrize(
    "steps",
    [
        [("neg", 0), ("linear", 1, 0)],  # 0 + -0, in the built-in sum() of one product
        [("neg", 0), ("mul", 1, 0), ("plain_sum", 2)],  # -0 + -0
        [("neg", 0), ("add", 1, 1)],
        [("constant", -1.0), ("constant", 0.0), ("mul", 1, 2), ("mul", 3, 0)],  # folded
    ],
)
def test_a_sum_begins_with_zero_only_if_it_was_recorded_so(steps: list[Any]) -> None:
    check_exact(Recipe([0.0, 0.0], [[[1.0, 1.0], [1.0, 1.0]]], [], [], steps, [(len(steps), 0)]))

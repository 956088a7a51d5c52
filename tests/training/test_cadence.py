"""When a run evaluates and saves."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.training.cadence import Cadence


def schedule(cadence):
    steps = range(cadence.steps + 1)
    return [s for s in steps if cadence.evaluates(s)], [s for s in steps if cadence.checkpoints(s)]


@pytest.mark.parametrize(
    ("steps", "eval_every", "checkpoint_every", "evaluations", "checkpoints"),
    [
        (10, 4, 0, [0, 4, 8, 10], [4, 8, 10]),
        (10, 4, 3, [0, 4, 8, 10], [3, 6, 9, 10]),
        (10, 0, 0, [0, 10], [10]),
        (10, 0, 5, [0, 10], [5, 10]),
        (10, 100, 100, [0, 10], [10]),
        (8, 4, 4, [0, 4, 8], [4, 8]),
        (1, 1, 1, [0, 1], [1]),
        (0, 5, 5, [0], [0]),
        (0, 0, 0, [0], [0]),
    ],
)
def test_cadence_is_the_table(steps, eval_every, checkpoint_every, evaluations, checkpoints):
    assert schedule(Cadence(steps, eval_every, checkpoint_every)) == (evaluations, checkpoints)


@given(st.integers(1, 200), st.integers(0, 250), st.integers(0, 250))
def test_every_run_is_scored_at_both_ends_and_saved_at_the_last(steps, eval_every, save_every):
    evaluations, checkpoints = schedule(Cadence(steps, eval_every, save_every))
    assert evaluations[0] == 0
    assert evaluations[-1] == checkpoints[-1] == steps
    assert 0 not in checkpoints


def test_cadence_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cadence(1, 1, 1).steps = 2

"""When a run evaluates and saves."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.training.cadence import Cadence, evaluation_plan


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


# ------------------------------------------------------------------- how often, and on how much text

COUNTS = {"steps": st.integers(1, 10**5), "step_tokens": st.integers(1, 10**6)}


def scored(steps, eval_every, eval_tokens, val_tokens):
    """The tokens of all evaluations after the first, and how many evaluations these are."""
    cadence = Cadence(steps, eval_every, 0)
    times = sum(cadence.evaluates(s) for s in range(1, steps + 1)) if steps < 2000 else (
        -(-steps // eval_every) if eval_every else 1
    )  # fmt: skip
    return times * (eval_tokens or val_tokens), times


@given(**COUNTS, val_tokens=st.integers(0, 10**7))
def test_about_twenty_evaluations_score_at_most_a_quarter_of_the_tokens_trained(
    steps, step_tokens, val_tokens
):
    """A token scored takes about a third of the time of one trained: 8 % of the time."""
    eval_every, eval_tokens = evaluation_plan(steps, step_tokens, val_tokens)
    tokens, times = scored(steps, eval_every, eval_tokens, val_tokens)
    size = eval_tokens or val_tokens
    fewest = min(4096, val_tokens)
    assert 1 <= times <= 20
    assert fewest <= size <= val_tokens
    assert size == fewest or tokens <= 0.24 * steps * step_tokens + 1
    if times > 1:  # short runs are evaluated less often, and once at least
        assert tokens <= 0.24 * steps * step_tokens + 1
    if steps >= 20 and 20 * fewest <= 0.24 * steps * step_tokens:
        assert times >= 20 * steps / (steps + 20)  # steps / ceil(steps / 20), rounded up


@given(**COUNTS, val_tokens=st.integers(1, 10**7), eval_every=st.integers(0, 10**5))
def test_a_cadence_that_is_given_stays_and_decides_the_size(
    steps, step_tokens, val_tokens, eval_every
):
    planned = evaluation_plan(steps, step_tokens, val_tokens, eval_every=eval_every)
    assert planned[0] == eval_every
    tokens, _ = scored(steps, *planned, val_tokens)
    size = planned[1] or val_tokens
    assert size == min(4096, val_tokens) or tokens <= 0.24 * steps * step_tokens + 1


@given(**COUNTS, val_tokens=st.integers(1, 10**7), eval_tokens=st.integers(0, 10**8))
def test_a_size_that_is_given_stays_and_decides_the_cadence(
    steps, step_tokens, val_tokens, eval_tokens
):
    planned = evaluation_plan(steps, step_tokens, val_tokens, eval_tokens=eval_tokens)
    assert planned[1] == eval_tokens
    size = min(eval_tokens or val_tokens, val_tokens)
    tokens, times = scored(steps, planned[0], size, val_tokens)
    assert times == 1 or tokens <= 0.24 * steps * step_tokens + 1


@pytest.mark.parametrize(
    ("steps", "step_tokens", "val_tokens", "plan"),
    [
        (600, 1024, 26_000, (30, 7372)),  # 20 * 7372 = 0.24 * 600 * 1024
        (2000, 768, 111_540, (100, 18_432)),
        (2000, 768, 18_000, (100, 0)),  # all of a small validation part
        (40, 256, 9_778, (40, 4096)),  # 2457 tokens: one evaluation after the start
        (100, 1024, 50, (5, 0)),
        (7, 1000, 50, (1, 0)),
        (0, 1000, 50, (0, 0)),
    ],
)
def test_the_plan_of_these_runs_is(steps, step_tokens, val_tokens, plan):
    assert evaluation_plan(steps, step_tokens, val_tokens) == plan


def test_given_options_are_the_plan():
    assert evaluation_plan(600, 1024, 26_000, eval_every=7, eval_tokens=0) == (7, 0)

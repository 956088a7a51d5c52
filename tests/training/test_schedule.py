"""Learning-rate multipliers against plain formulas, fractions and microgpt's own line."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.training.schedule import lr_multiplier, lr_multiplier_between

SCHEDULES = ("linear", "sqrt", "cosine", "constant")
ratios = st.floats(0, 1)


@given(st.integers(1, 5000), st.data())
def test_full_linear_warmdown_is_microgpts_line_to_the_bit(steps, data):
    step = data.draw(st.integers(0, steps - 1))
    assert lr_multiplier(
        "linear", step, steps, warmup_ratio=0.0, warmdown_ratio=1.0, final_lr_frac=0.0
    ) == (1 - step / steps)


def test_linear_schedule_follows_exact_fractions_through_all_three_parts():
    steps, final = 100, Fraction(1, 10)
    for step in range(steps + 1):
        up = min(Fraction(step + 1, 20), Fraction(1))
        p = max(Fraction(step - 60, 40), Fraction(0))
        got = lr_multiplier(
            "linear", step, steps, warmup_ratio=0.2, warmdown_ratio=0.4, final_lr_frac=0.1
        )
        assert got == pytest.approx(float(min(up, 1 - p * (1 - final))), rel=1e-14)


@pytest.mark.parametrize(
    ("schedule", "halfway"),
    [
        ("linear", 1 - 0.5 * 0.8),
        ("sqrt", 1 - math.sqrt(0.5) * 0.8),
        ("cosine", 0.2 + 0.8 * 0.5),
        ("constant", 1.0),
    ],
)
def test_each_shape_has_its_value_halfway_down(schedule, halfway):
    got = lr_multiplier(schedule, 75, 100, warmup_ratio=0, warmdown_ratio=0.5, final_lr_frac=0.2)
    assert got == pytest.approx(halfway, rel=1e-15)


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "cosine"])
def test_warmdown_starts_at_one_and_ends_at_the_final_fraction_one_step_past_the_last(schedule):
    def at(step):
        return lr_multiplier(
            schedule, step, 40, warmup_ratio=0, warmdown_ratio=0.5, final_lr_frac=0.25
        )

    assert at(19) == at(20) == 1.0
    assert at(21) < 1.0
    assert at(40) == pytest.approx(0.25, rel=1e-15)
    assert at(1000) == at(40)


def test_warmup_reaches_the_peak_on_its_last_step():
    got = [
        lr_multiplier("constant", s, 10, warmup_ratio=0.4, warmdown_ratio=1, final_lr_frac=0)
        for s in range(6)
    ]
    assert got == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_constant_ignores_the_warmdown():
    assert (
        lr_multiplier("constant", 99, 100, warmup_ratio=0, warmdown_ratio=1, final_lr_frac=0) == 1
    )


@given(st.sampled_from(SCHEDULES), st.integers(1, 500), ratios, ratios, ratios, st.data())
def test_overlapping_parts_take_the_smaller_multiplier(schedule, steps, up, down, final, data):
    step = data.draw(st.integers(0, steps))

    def at(warmup, warmdown):
        return lr_multiplier(
            schedule, step, steps, warmup_ratio=warmup, warmdown_ratio=warmdown, final_lr_frac=final
        )

    assert at(up, down) == min(at(up, 0.0), at(0.0, down))
    assert 0 <= at(up, down) <= 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_steps_and_one_step_have_a_multiplier(schedule):
    for steps in (0, 1):
        got = lr_multiplier(
            schedule, 0, steps, warmup_ratio=0.5, warmdown_ratio=0.5, final_lr_frac=0
        )
        assert got == 1.0


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "cosine"])
@given(st.integers(2, 300), st.floats(0.01, 1), ratios)
def test_warmdown_never_rises(schedule, steps, warmdown, final):
    values = [
        lr_multiplier(
            schedule, s, steps, warmup_ratio=0, warmdown_ratio=warmdown, final_lr_frac=final
        )
        for s in range(steps + 1)
    ]
    assert all(a >= b - 1e-15 for a, b in pairwise(values))


@given(st.sampled_from(SCHEDULES), st.integers(1, 500), ratios, ratios, ratios, st.data())
def test_between_equal_fractions_a_step_has_the_multiplier_of_its_number(
    schedule, steps, up, down, final, data
):
    step = data.draw(st.integers(0, steps - 1))
    shape = {"warmup_ratio": up, "warmdown_ratio": down, "final_lr_frac": final}
    by_fraction = lr_multiplier_between(schedule, step / steps, (step + 1) / steps, **shape)
    # A cliff (a warmdown shorter than a step) may fall on either side of a rounded fraction.
    steepest = 1e-12 / min(up or 1, down or 1)
    if schedule == "sqrt":
        steepest = steepest**0.5
    near = [lr_multiplier(schedule, step, steps, **shape)]
    assert by_fraction == pytest.approx(near[0], abs=max(steepest, 1e-12))


@given(st.sampled_from(SCHEDULES), st.lists(ratios, min_size=2, max_size=20), ratios, ratios)
def test_between_rising_fractions_the_warmdown_never_rises(schedule, fractions, down, final):
    shape = {"warmup_ratio": 0.0, "warmdown_ratio": down, "final_lr_frac": final}
    values = [
        lr_multiplier_between(schedule, a, b, **shape) for a, b in pairwise(sorted(fractions))
    ]
    assert all(a >= b - 1e-15 for a, b in pairwise(values))


def test_unknown_schedule_is_our_mistake():
    with pytest.raises(AssertionError, match="schedule stairs"):
        lr_multiplier("stairs", 1, 1, warmup_ratio=0, warmdown_ratio=1, final_lr_frac=0)

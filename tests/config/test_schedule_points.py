"""The text of schedule_points, and the fractions between its points."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import TrainConfig
from nanochat.config.schedule_points import DIGITS, SchedulePoints
from nanochat.errors import ConfigError


@st.composite
def some_points(draw):
    gaps = draw(st.lists(st.integers(1, 10**6), max_size=30))
    rises = draw(st.lists(st.floats(0, 1), min_size=len(gaps), max_size=len(gaps)))
    points, step = SchedulePoints(), 0
    for gap, rise in zip(gaps, rises, strict=True):
        step += gap
        left = 1 - points.fractions[-1]
        points = points.with_point(step, points.fractions[-1] + left * rise)
    return points


@given(some_points())
def test_points_written_as_text_are_read_back_exactly(points):
    assert SchedulePoints.parse(str(points)) == points
    config = TrainConfig(schedule_points=str(points))
    assert TrainConfig(**config.to_dict()).schedule_points == str(points)


@given(some_points(), st.integers(0, 10**7))
def test_between_two_points_the_fraction_is_on_the_straight_line(points, step):
    pairs = list(zip(points.steps, map(Fraction, points.fractions), strict=True))
    expected = pairs[-1][1]
    for (begin, low), (end, high) in pairwise(pairs):
        if begin <= step < end:
            expected = low + (high - low) * Fraction(step - begin, end - begin)
    assert points.fraction(step) == pytest.approx(float(expected), abs=1e-15)


@given(some_points(), st.integers(0, 10**7))
def test_fractions_never_fall_and_end_at_the_last_one(points, step):
    assert 0 <= points.fraction(step) <= points.fraction(step + 1) <= points.fractions[-1] <= 1


def test_a_fraction_is_rounded_to_the_digits_that_are_written():
    third = SchedulePoints().with_point(3, 1 / 3)
    assert str(third) == f"0:0 3:0.{'3' * DIGITS}"
    assert third.fractions[1] == float(f"0.{'3' * DIGITS}")


@pytest.mark.parametrize(
    "text",
    ["0", "0:0 5", "1:0 2:1", "0:0.1 2:1", "0:0 5:0.5 5:1", "0:0 5:0.6 9:0.5", "0:0 5:1.5",
     "0:0 -5:1", "0:0 5:nan", "0:0,5:1", "0:0 ٣:1", "0:0 5:1e-3"],
)  # fmt: skip
def test_another_text_is_refused_by_name_rule_value_and_way_out(text):
    with pytest.raises(ConfigError) as refusal:
        TrainConfig(schedule_points=text)
    assert str(refusal.value) == (
        "schedule_points must be STEP:FRACTION pairs such as '0:0 400:0.75 500:1', from 0:0, with"
        f" rising steps and fractions up to 1, got {text}; leave it out to use the step numbers"
    )


def test_a_budget_and_recorded_points_exclude_each_other():
    with pytest.raises(ConfigError, match="time_budget measures its own schedule_points, got both"):
        TrainConfig(time_budget="5s", schedule_points="0:0 3:1")

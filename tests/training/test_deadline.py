"""A deadline in a simulated world: the clock is a number that steps and pauses move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.config.schedule_points import SchedulePoints
from nanochat.model.state import TrainerState
from nanochat.training.deadline import Deadline, TimePlan, exit_s
from nanochat.training.pace import StepPace
from nanochat.training.schedule import lr_multiplier

RATIOS = {"warmup_ratio": 0.0, "warmdown_ratio": 1.0, "final_lr_frac": 0.0}
CONFIG = TrainConfig(mode="scalar", lr_schedule="linear", **RATIOS)


@dataclass
class World:
    """A machine on which every duration is known, and a training loop on it."""

    budget_s: float = 60.0
    start_s: float = 3.0  # until the first step
    step_s: float = 0.02
    planned_step_s: float | None = None
    pause_s: float = 0.1
    eval_every: int = 140
    after_s: float = 1.0
    planned_after_s: float | None = None
    most_steps: int | None = None
    slowdown: Callable[[float], float] = lambda now: 1.0
    suspended: tuple[float, float] = (math.inf, 0.0)  # when, for how long
    config: TrainConfig = CONFIG

    now: float = 0.0
    training_s: float = 0.0
    pauses_s: float = 0.0
    steps: int = 0
    multipliers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = TimePlan(
            self.planned_step_s or self.step_s, self.pause_s, self.eval_every,
            self.planned_after_s or self.after_s,
            most_steps=self.most_steps,
        )  # fmt: skip
        self.now = self.start_s
        self.deadline = Deadline(
            self.config, plan, time_budget=f"{self.budget_s:f}s", end=self.budget_s,
            clock=lambda: self.now,
        )  # fmt: skip

    def spend(self, seconds: float) -> float:
        seconds *= self.slowdown(self.now)
        if self.now >= self.suspended[0]:
            seconds += self.suspended[1]
            self.suspended = (math.inf, 0.0)
        self.now += seconds
        return seconds

    def train(self, until: int | None = None) -> World:
        while not self.deadline.ends(self.steps, self.training_s):
            if self.eval_every and self.steps % self.eval_every == 0:
                self.pauses_s += self.spend(self.pause_s)
            if self.steps == until:
                return self
            self.multipliers.append(self.deadline.lr_multiplier(self.steps))
            self.training_s += self.spend(self.step_s * (4 if self.steps < 2 else 1))
            self.steps += 1
        self.spend(self.after_s)
        return self

    @property
    def repeated(self) -> list[float]:
        """The multipliers of a run without a clock, from the recorded config."""
        config = self.deadline.repeatable(self.config, self.steps)
        pace = StepPace(TrainConfig(**config.to_dict()))
        assert pace.steps == self.steps
        taken = []
        while not pace.ends(len(taken), 0.0):
            taken.append(pace.lr_multiplier(len(taken)))
        return taken


BUDGETS = (5.0, 60.0, 600.0)


def half_way(world_budget_s: float, factor: float) -> Callable[[float], float]:
    return lambda now: factor if now > world_budget_s / 2 else 1.0


def assert_in_time(world: World) -> None:
    assert 0.9 * world.budget_s <= world.now <= 1.1 * world.budget_s


def assert_complete(world: World) -> None:
    """The schedule has used the whole time, and the last step is one part of its last stretch."""
    assert world.deadline.repeatable(CONFIG, 1).schedule_points.endswith(f" {world.steps}:1")
    assert world.multipliers[-1] <= 1.6 * last_step_s(world) / (world.training_s + world.pauses_s)


def last_step_s(world: World) -> float:
    return world.step_s * world.slowdown(world.now)


@pytest.mark.parametrize("budget_s", BUDGETS)
@pytest.mark.parametrize("steps", [150, 1000, 5000])
def test_on_a_steady_machine_the_time_is_used_up_and_the_warmdown_ends_at_zero(budget_s, steps):
    step_s, every = budget_s / steps, steps // 20
    world = World(
        budget_s, step_s=step_s, eval_every=every, pause_s=0.004 * budget_s, after_s=0.5
    ).train()  # fmt: skip
    assert_in_time(world)
    assert_complete(world)
    assert world.pauses_s <= 0.12 * budget_s


@pytest.mark.parametrize("budget_s", BUDGETS)
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_machine_that_changes_its_pace_half_way_ends_in_time_with_a_whole_warmdown(
    budget_s, factor
):
    world = World(
        budget_s, start_s=1.5, step_s=budget_s / 1000, eval_every=50, pause_s=0.004 * budget_s,
        after_s=0.5, slowdown=half_way(budget_s, factor),
    ).train()  # fmt: skip
    assert_in_time(world)
    assert_complete(world)


@given(
    st.floats(5, 100), st.floats(0.02, 0.08), st.floats(0.5, 2), st.floats(0.3, 2.5),
    st.floats(0, 1), st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_no_change_of_pace_makes_a_run_late_or_its_rates_rise(
    budget_s, step_s, wrong, factor, when, pauses
):
    world = World(
        budget_s, start_s=1.0, step_s=step_s, planned_step_s=step_s * wrong, after_s=0.4,
        pause_s=0.01 * budget_s, eval_every=int(budget_s / step_s / 4) if pauses else 0,
        slowdown=lambda now: factor if now > when * budget_s else 1.0,
    ).train()  # fmt: skip
    # The machine may become slower in the last step, when what follows it cannot be left out.
    unforeseen = (max(factor, 1.0) - 1.0) * (world.after_s + world.step_s)
    assert world.now <= budget_s + max(0.1 * budget_s, unforeseen)
    assert all(a >= b for a, b in pairwise(world.multipliers))
    assert world.multipliers == world.repeated


@pytest.mark.parametrize("budget_s", BUDGETS)
@pytest.mark.parametrize("start", [0.3, 0.86])
def test_slow_steps_end_a_run_at_most_a_tenth_early_if_the_rest_is_fast(budget_s, start):
    """The steps are slower than planned, and what follows them is faster."""
    world = World(
        budget_s, start_s=start * budget_s, step_s=budget_s / 500, planned_step_s=budget_s / 5000,
        eval_every=0, after_s=0.03 * budget_s, planned_after_s=0.06 * budget_s,
    ).train()  # fmt: skip
    assert_in_time(world)
    assert world.steps >= 5


@pytest.mark.parametrize("for_s", [5.0, 20.0])
def test_a_suspended_process_uses_the_time_that_is_left_afterwards(for_s):
    world = World(suspended=(20.0, for_s)).train()
    assert_in_time(world)
    left = world.multipliers[800]  # the last step before the suspension, or nearly
    assert world.multipliers[-1] <= 1.6 * left * world.step_s / (60.0 - 20.0 - for_s)


def test_a_clock_that_jumps_past_the_end_ends_the_run_at_the_next_look():
    world = World(suspended=(20.0, 1000.0)).train()
    steady = World().train()
    assert world.now <= 20.0 + 1000.0 + 60.0 / 400 + 1.0 + 3 * world.step_s
    assert 0 < world.steps < steady.steps
    assert world.multipliers == world.repeated
    assert world.deadline.state(world.steps) is None  # nothing is left to resume


def test_the_warm_up_of_the_first_steps_is_not_part_of_the_pace():
    world = World(budget_s=10.0, eval_every=0, step_s=0.05)
    world.train(until=3)
    assert world.deadline.step_s == pytest.approx(0.05)


@pytest.mark.parametrize("late_s", [0.0, 100.0])
def test_a_new_run_takes_at_least_one_step(late_s):
    world = World(budget_s=10.0, start_s=9.99 + late_s, step_s=1.0).train()
    assert world.steps == 1


@pytest.mark.parametrize("schedule", ["linear", "sqrt", "cosine", "constant"])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_repeat_without_a_clock_has_bit_identical_multipliers(schedule, factor):
    decay = {} if schedule == "constant" else {"warmdown_ratio": 0.6, "final_lr_frac": 0.05}
    config = TrainConfig(lr_schedule=schedule, warmup_ratio=0.1, **decay)
    world = World(config=config, slowdown=half_way(60.0, factor)).train()
    assert world.multipliers == world.repeated
    assert len(world.multipliers) == world.steps > 1000


def test_at_an_even_pace_the_multipliers_are_those_of_the_step_numbers():
    config = TrainConfig(
        lr_schedule="cosine", warmup_ratio=0.1, warmdown_ratio=0.6, final_lr_frac=0.05
    )
    world = World(config=config, pause_s=0.0).train()
    expected = [
        lr_multiplier(
            "cosine", step, world.steps, warmup_ratio=0.1, warmdown_ratio=0.6, final_lr_frac=0.05
        )
        for step in range(world.steps)
    ]
    assert world.multipliers == pytest.approx(expected, abs=0.02)


def test_a_run_without_points_has_the_multipliers_of_the_step_numbers_exactly():
    config = TrainConfig(steps=50, lr_schedule="sqrt", warmup_ratio=0.1, warmdown_ratio=0.5)
    pace = StepPace(config)
    for step in range(50):
        assert not pace.ends(step, 0.0)
        assert pace.lr_multiplier(step) == lr_multiplier(
            "sqrt", step, 50, warmup_ratio=0.1, warmdown_ratio=0.5, final_lr_frac=0.0
        )
    assert pace.ends(50, 0.0)


@pytest.mark.parametrize("stopped_after", [1, 700, 2500])
def test_a_resumed_run_has_the_time_that_was_left(stopped_after):
    first = World().train(until=stopped_after)
    budget = first.deadline.state(stopped_after)
    assert budget is not None
    left_s = first.budget_s - first.now
    saved = first.deadline.repeatable(CONFIG, 10**6)
    trainer = TrainerState(
        step=stopped_after, last_losses=[], tokens=0, elapsed_s=first.training_s,
        metrics_length=0, budget=budget,
    )  # fmt: skip
    second = World(start_s=1000.0, config=saved)
    second.deadline = Deadline.resumed(saved, trainer, 1000.0, clock=lambda: second.now)
    second.now = 1002.0  # a start takes time again
    second.steps, second.training_s = stopped_after, first.training_s
    second.train()
    assert second.now - 1000.0 == pytest.approx(left_s, abs=0.1 * 60)
    assert second.now - 1000.0 <= left_s + 1
    first.multipliers += second.multipliers
    first.steps, first.deadline = second.steps, second.deadline
    assert all(a >= b for a, b in pairwise(first.multipliers))
    assert first.multipliers[-1] < 0.01
    assert first.multipliers == first.repeated


@pytest.mark.parametrize("most", [1, 2, 37, 1000])
def test_a_run_whose_text_needs_fewer_steps_takes_those_with_a_whole_warmdown(most):
    world = World(most_steps=most).train()
    assert world.steps == most
    assert world.deadline.needs_no_more(world.steps)
    assert world.now < world.budget_s / 2
    expected = [lr_multiplier("linear", step, most, **RATIOS) for step in range(most)]
    assert world.multipliers == pytest.approx(expected, abs=1e-6)
    assert world.multipliers == world.repeated


def test_a_run_without_time_for_the_steps_that_its_text_needs_ends_in_time():
    bound, free = World(most_steps=10**6).train(), World().train()
    assert bound.steps == free.steps
    assert not bound.deadline.needs_no_more(bound.steps)


def test_a_resumed_run_takes_only_the_steps_that_its_text_needs():
    first = World(most_steps=1000).train(until=700)
    trainer = TrainerState(
        step=700, last_losses=[], tokens=0, elapsed_s=first.training_s, metrics_length=0,
        budget=first.deadline.state(700),
    )  # fmt: skip
    saved = first.deadline.repeatable(CONFIG, 10**6)
    second = World(start_s=1000.0, config=saved)
    second.deadline = Deadline.resumed(saved, trainer, 1000.0, clock=lambda: second.now)
    second.steps, second.training_s = 700, first.training_s
    assert second.train().steps == 1000
    assert second.deadline.state(1000) is None


def test_the_time_left_is_that_of_the_steps_that_are_needed():
    world = World(most_steps=1000).train(until=560)  # before the last three of seven pauses
    expected = 440 * world.step_s + 3 * world.pause_s + world.after_s
    assert world.deadline.time_left_s() == pytest.approx(expected, rel=0.1)
    assert World(most_steps=10**6).deadline.time_left_s() == pytest.approx(57.0)


def test_a_run_resumed_without_time_ends_at_once():
    first = World().train(until=700)
    trainer = TrainerState(
        step=700, last_losses=[], tokens=0, elapsed_s=first.training_s, metrics_length=0,
        budget=first.deadline.state(700),
    )  # fmt: skip
    saved = first.deadline.repeatable(CONFIG, 10**6)
    resumed = Deadline.resumed(saved, trainer, 0.0, clock=lambda: 500.0)
    assert resumed.ends(700, first.training_s)


def test_a_tiny_step_reads_the_clock_only_at_some_steps():
    world = World(step_s=1e-4, eval_every=0, budget_s=5.0, start_s=1.0)
    reads = 0

    def clock() -> float:
        nonlocal reads
        reads += 1
        return world.now

    world.deadline.clock = clock
    world.train()
    assert world.steps > 20_000
    assert reads < 1500


def test_the_record_has_at_most_a_few_hundred_points():
    for step_s in (5e-3, 0.02, 0.5):
        world = World(budget_s=120.0, step_s=step_s, eval_every=0).train()
        points = world.deadline.repeatable(CONFIG, 1).schedule_points
        assert len(SchedulePoints.parse(points).steps) <= 300


def test_samples_are_cut_shortly_before_the_end():
    world = World(budget_s=10.0)
    world.now = 10.0 - 2 * exit_s()
    assert not world.deadline.cuts_samples()
    assert not world.deadline.samples_were_cut
    world.now = 10.0 - exit_s() / 2
    assert world.deadline.cuts_samples()
    assert world.deadline.samples_were_cut

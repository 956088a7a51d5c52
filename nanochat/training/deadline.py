"""The pace of a run with a time budget.

`Deadline` measures steps on a clock and decides how many still fit. It records its decisions as
`schedule_points`, from which `pace.StepPace` repeats the run without a clock.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.config.options import TrainConfig, budget_seconds
from nanochat.config.schedule_points import SchedulePoints
from nanochat.model.state import TrainerState
from nanochat.training.pace import Shape

__all__ = ["Deadline", "TimePlan", "exit_s"]

SEGMENTS = 128  # of a run, at about even pace; each has its own straight line of fractions
LOOKS = 400  # at the clock per run, unless its steps are slower
SAMPLES = 8  # looks that the pace is the mean of, without the slowest
WARM_STEPS = 2  # at the start, slower than the others, so not part of the pace
MARGIN = 0.01  # of the budget: planned to be left over
EXIT_S = 0.05  # from the last sample to the end of the process
EXIT_WITH_TORCH_S = 0.2  # the same, if torch is loaded
SURE = 0.05  # of the budget: steps of this time tell how much slower the machine is
LARGEST_SLOWDOWN = 2.0  # by which the time that is reserved for the end may grow
LARGEST_DELAY = 0.05  # of the budget: by which it may grow


def exit_s() -> float:
    """Return the seconds from the last sample to the end of the process."""
    return EXIT_WITH_TORCH_S if "torch" in sys.modules else EXIT_S


@dataclass(frozen=True, slots=True)
class TimePlan:
    """The measured times that a deadline starts from, in seconds."""

    step_s: float
    pause_s: float  # evaluation and saving at every eval_every-th step
    eval_every: int  # 0: no pauses until the end
    after_s: float  # from the last step to the end of the process
    scores_all: bool = True  # whether after_s has time to score all validation text
    most_steps: int | None = None  # the run ends after them although there is time for more


class Deadline:
    """Spreads the learning-rate schedule over the time that is left, and ends the run in time.

    The run is divided into segments. At the start of each, the deadline estimates how many steps
    still fit, and fixes the fractions of the segment's steps: the fraction that is left, spread
    evenly over those steps. Segments become shorter towards the end, down to single steps, so the
    schedule reaches its end with the last step even if the machine has slowed down.
    """

    steps: int | None = None

    def __init__(
        self,
        config: TrainConfig,
        plan: TimePlan,
        *,
        time_budget: str,
        end: float,  # on the clock: when the process must have ended
        done: int = 0,  # steps before a resume
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._shape = Shape.of(config)
        self._plan, self.clock = plan, clock
        self._time_budget, self._budget_s = time_budget, budget_seconds(time_budget)
        self._end = end
        self._points = SchedulePoints.parse(config.schedule_points)
        self._first = done
        self._over = False
        self._trained_s = 0.0  # at the last look
        self.samples_were_cut = False
        self._samples: deque[float] = deque([plan.step_s], maxlen=SAMPLES)
        self._look = done + 1  # the step before which the clock is read next
        # Step, training time and clock: at the last look, and at the first.
        self._mark: tuple[int, float, float] | None = None
        self._origin: tuple[int, float, float] | None = None

    @classmethod
    def resumed(
        cls,
        config: TrainConfig,
        trainer: TrainerState,
        started: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Deadline:
        """Return the deadline of a resumed run: the time that was left when it was saved."""
        saved = trainer.budget
        assert saved is not None
        left_s = budget_seconds(saved["time_budget"]) - saved["spent_s"]
        plan = TimePlan(**saved["plan"])
        return cls(
            config, plan, time_budget=saved["time_budget"], end=started + left_s,
            done=trainer.step, clock=clock,
        )  # fmt: skip

    # ------------------------------------------------------------------------------- for the loop

    def ends(self, step: int, training_s: float) -> bool:
        """Return whether the run ends after `step` steps. A new run takes at least one."""
        if self._over or (step >= self._points.steps[-1] and self._points.fractions[-1] == 1):
            return True
        if step == 0 or self._first < step < self._look:
            return False
        now = self.clock()
        if step >= self._look:
            self._observe(step, training_s, now)
        next_s = self.step_s
        if self._plan.eval_every and step % self._plan.eval_every == 0:
            next_s += self._pause_s()
        self._over = now + next_s > self._end - self.reserve_s
        return self._over

    def lr_multiplier(self, step: int) -> float:
        """Return the multiplier of the peak learning rate for the step that comes after `step`."""
        if step >= self._points.steps[-1]:
            self._plan_segment(step)
        return self._shape.between(self._points, step)

    def lr_multipliers(self, first: int, count: int) -> list[float]:
        return [self.lr_multiplier(step) for step in range(first, first + count)]

    def next_look(self, step: int) -> int:
        return max(step + 1, min(self._look, self._points.steps[-1]))

    def _observe(self, step: int, training_s: float, now: float) -> None:
        """Record the pace since the last look, and choose the step of the next."""
        self._look, self._trained_s = step + 1, training_s
        if step < self._first + WARM_STEPS:
            return
        if self._mark is None:
            self._origin = (step, training_s, now)
        else:
            steps = step - self._mark[0]
            self._samples.append(max(training_s - self._mark[1], 0.0) / steps)
        self._mark = (step, training_s, now)
        stride = self._budget_s / LOOKS / max(self.step_s, 1e-9)
        every = self._plan.eval_every or self._points.steps[-1]
        nearest = min(self._points.steps[-1] - step, every - step % every)
        self._look = step + max(1, min(int(stride), nearest))

    def _plan_segment(self, step: int) -> None:
        left_s = self._end - self.reserve_s - MARGIN * self._budget_s - self.clock()
        steps = self._steps_in(left_s, step)
        if self._plan.most_steps is not None:
            steps = min(steps, self._plan.most_steps - step)
        steps = max(steps, 1)
        length = max(1, min((step + steps) // SEGMENTS, steps // 4))
        begin = self._points.fractions[-1]
        end = 1.0 if length == steps else begin + (1 - begin) * length / steps
        self._points = self._points.with_point(step + length, end)

    def _steps_in(self, left_s: float, step: int) -> int:
        """Return how many steps, with the pauses between them, fit into left_s after `step`."""
        step_s, every = max(self.step_s, 1e-9), self._plan.eval_every
        without = int(left_s / step_s)
        if every == 0:
            return int(left_s / (step_s + self._other_s_per_step()))
        pauses = (step + without) // every - step // every
        until_pause = min(without, every - step % every)  # the last step needs no pause
        return max(int((left_s - pauses * self._pause_s()) / step_s), until_pause)

    # ------------------------------------------------------------------------------- measurements

    @property
    def step_s(self) -> float:
        """Return the present pace. The slowest look is left out: it may be a suspended process."""
        samples = sorted(self._samples)
        kept = samples[:-1] if len(samples) > 2 else samples
        return sum(kept) / len(kept)

    def _pauses(self) -> tuple[float, int, int]:
        """Return the seconds outside of steps between the first and the last look, and the steps of
        these looks."""
        if self._origin is None or self._mark is None:
            return 0.0, 0, 0
        begin, now = self._origin, self._mark
        return max((now[2] - begin[2]) - (now[1] - begin[1]), 0.0), begin[0], now[0]

    def _pause_s(self) -> float:
        """Return the mean time of a pause: the planned one and those measured."""
        paused_s, begin, end = self._pauses()
        every = self._plan.eval_every
        # A look at a step comes before the pause at this step.
        count = -(-end // every) + (-begin // every)
        return (self._plan.pause_s + paused_s) / (1 + count)

    def _other_s_per_step(self) -> float:
        """Return the time outside of steps, per step, of a run without regular pauses."""
        paused_s, begin, end = self._pauses()
        return paused_s / (end - begin) if end > begin else 0.0

    @property
    def reserve_s(self) -> float:
        """Return the time for all that follows the last step, longer if the machine is slower.

        A few steps tell little about the machine, so they count for as much as they took.
        """
        slowdown = self.step_s / self._plan.step_s if self._plan.step_s > 0 else 1.0
        slowdown = min(max(slowdown, 1.0), LARGEST_SLOWDOWN)
        told = min(self._trained_s / (SURE * self._budget_s), 1.0)
        more_s = self._plan.after_s * (slowdown - 1.0) * told
        return self._plan.after_s + min(more_s, LARGEST_DELAY * self._budget_s)

    @property
    def scores_all(self) -> bool:
        """Whether there is time for a last evaluation of all validation text."""
        return self._plan.scores_all and self.left_s() > self._plan.after_s / 2

    def left_s(self) -> float:
        """Return the seconds until the process must have ended."""
        return self._end - self.clock()

    def time_left_s(self) -> float:
        left_s = max(self.left_s(), 0.0)
        if self._plan.most_steps is None:
            return left_s
        step = self._mark[0] if self._mark else self._first
        every = self._plan.eval_every
        pauses = self._plan.most_steps // every - step // every if every else 0
        steps_s = max(self._plan.most_steps - step, 0) * self.step_s
        return min(left_s, steps_s + pauses * self._pause_s() + self.reserve_s)

    def needs_no_more(self, steps: int) -> bool:
        """Return whether a run ended after `steps` steps because they are enough for its text."""
        return steps == self._plan.most_steps

    def cuts_samples(self) -> bool:
        """Return whether sampling must stop now."""
        self.samples_were_cut = self.left_s() <= exit_s()
        return self.samples_were_cut

    # --------------------------------------------------------------------------------- the record

    def repeatable(self, config: TrainConfig, steps: int) -> TrainConfig:
        """Return the config that repeats the run's `steps` steps without a clock."""
        return config.changed(steps=steps, schedule_points=str(self._points))

    def state(self, step: int) -> Mapping[str, Any] | None:
        """Return what a resume needs after `step` steps; None if the run has ended."""
        if self._over or (step >= self._points.steps[-1] and self._points.fractions[-1] == 1):
            return None
        plan = dataclasses.replace(self._plan, step_s=self.step_s)
        return {
            "time_budget": self._time_budget,
            "spent_s": self._budget_s - self.left_s(),
            "plan": dataclasses.asdict(plan),
        }

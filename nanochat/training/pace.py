"""When a run ends and how far its learning-rate schedule is: by its number of steps.

deadline.py has the pace of a run with a time budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nanochat.config.options import TrainConfig
from nanochat.training.schedule import lr_multiplier, lr_multiplier_between, lr_multipliers

if TYPE_CHECKING:
    from nanochat.config.schedule_points import SchedulePoints

__all__ = ["Pace", "Shape", "StepPace"]


class Pace(Protocol):
    """Decides when a run ends and the learning-rate multiplier of each step."""

    @property
    def steps(self) -> int | None:
        """The number of steps; None if the clock decides."""

    def ends(self, step: int, training_s: float) -> bool:
        """Return whether the run ends after `step` steps, which took training_s without pauses."""

    def lr_multiplier(self, step: int) -> float:
        """Return the multiplier of the peak learning rate for the step that comes after `step`."""

    def lr_multipliers(self, first: int, count: int) -> list[float]:
        """Return lr_multiplier() of consecutive steps before next_look()."""

    def next_look(self, step: int) -> int:
        """Return the first step after `step` before which ends() must be asked again, once it was
        asked about `step`, and lr_multiplier() too."""

    def time_left_s(self) -> float | None:
        """Return the seconds until the process must end; None if only steps are counted."""


class StepPace:
    """The pace of a run of config.steps steps, by its schedule_points if it has any."""

    def __init__(self, config: TrainConfig) -> None:
        self.steps: int | None = config.steps
        self._last = config.steps
        self._shape = Shape.of(config)
        self._points: SchedulePoints | None = None
        if config.schedule_points:
            from nanochat.config.schedule_points import SchedulePoints  # few runs have any

            self._points = SchedulePoints.parse(config.schedule_points)

    def ends(self, step: int, training_s: float) -> bool:
        return step >= self._last

    def lr_multiplier(self, step: int) -> float:
        if self._points is not None:
            return self._shape.between(self._points, step)
        return self._shape.at(step, self._last)

    def lr_multipliers(self, first: int, count: int) -> list[float]:
        if self._points is None:
            return lr_multipliers(
                self._shape.schedule, first, count, self._last, **self._shape.ratios
            )
        return [self.lr_multiplier(step) for step in range(first, first + count)]

    def next_look(self, step: int) -> int:
        return self._last

    def time_left_s(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Shape:
    """The schedule of a config."""

    schedule: str
    ratios: Mapping[str, float]

    @classmethod
    def of(cls, config: TrainConfig) -> Shape:
        ratios = {
            "warmup_ratio": config.warmup_ratio,
            "warmdown_ratio": config.warmdown_ratio,
            "final_lr_frac": config.final_lr_frac,
        }
        return cls(config.lr_schedule, ratios)

    def at(self, step: int, steps: int) -> float:
        return lr_multiplier(self.schedule, step, steps, **self.ratios)

    def between(self, points: SchedulePoints, step: int) -> float:
        begin, end = points.fraction(step), points.fraction(step + 1)
        return lr_multiplier_between(self.schedule, begin, end, **self.ratios)

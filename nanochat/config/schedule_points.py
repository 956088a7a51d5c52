"""The option `schedule_points`: how much of the training time was used after each step.

A run with a time budget records these points. A repeat of the run reads its learning rates from
them instead of from a clock.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from itertools import pairwise

from nanochat.config.option import shown
from nanochat.errors import ConfigError

__all__ = ["DIGITS", "SchedulePoints"]

DIGITS = 9  # decimals of a fraction; more would not change a learning rate noticeably

_POINT = r"[0-9]{1,10}:(?:0|1|0\.[0-9]{1,9})"


@dataclass(frozen=True, slots=True)
class SchedulePoints:
    """Steps and the fraction of the training time used after each, straight lines in between.

    >>> points = SchedulePoints.parse("0:0 400:0.75 500:1")
    >>> points.fraction(200), str(points)
    (0.375, '0:0 400:0.75 500:1')
    """

    steps: tuple[int, ...] = (0,)  # rising, from 0
    fractions: tuple[float, ...] = (0.0,)  # not falling, from 0, at most 1

    @classmethod
    def parse(cls, text: str) -> SchedulePoints:
        """Return the points of a text; an empty text has only the first. Raises ConfigError."""
        words = text.split()
        if not words:
            return cls()
        if all(re.fullmatch(_POINT, word) for word in words):
            pairs = [word.split(":") for word in words]
            steps, fractions = (tuple(map(kind, part)) for kind, part in zip((int, float), zip(
                *pairs, strict=True), strict=True))  # fmt: skip
            if (
                steps[0] == fractions[0] == 0
                and all(a < b for a, b in pairwise(steps))
                and all(a <= b for a, b in pairwise(fractions))
            ):
                return cls(steps, fractions)
        raise ConfigError(
            "schedule_points must be STEP:FRACTION pairs such as '0:0 400:0.75 500:1', from 0:0,"
            f" with rising steps and fractions up to 1, got {shown(text)}; leave it out to use the"
            " step numbers"
        )

    def __str__(self) -> str:
        return " ".join(
            f"{step}:{f'{fraction:.{DIGITS}f}'.rstrip('0').rstrip('.') or '0'}"
            for step, fraction in zip(self.steps, self.fractions, strict=True)
        )

    def with_point(self, step: int, fraction: float) -> SchedulePoints:
        """Return the points with one more, after the last; its fraction is rounded to DIGITS."""
        assert step > self.steps[-1] and fraction >= self.fractions[-1]
        rounded = min(max(round(fraction, DIGITS), self.fractions[-1]), 1.0)
        return SchedulePoints((*self.steps, step), (*self.fractions, rounded))

    def fraction(self, step: int) -> float:
        """Return the fraction used after `step` steps; after the last point, that of the last."""
        if step >= self.steps[-1]:
            return self.fractions[-1]
        right = bisect.bisect_right(self.steps, step)
        begin, end = self.steps[right - 1], self.steps[right]
        low, high = self.fractions[right - 1], self.fractions[right]
        return low + (high - low) * ((step - begin) / (end - begin))

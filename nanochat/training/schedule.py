"""Learning-rate multipliers, the same for every engine. Pure functions; the loop multiplies them by
the peak rate of each parameter group."""

from __future__ import annotations

import math

__all__ = ["lr_multiplier", "lr_multiplier_between", "lr_multipliers"]


def lr_multiplier(
    schedule: str,  # linear, sqrt, cosine or constant
    step: int,  # from 0
    steps: int,
    *,
    warmup_ratio: float,
    warmdown_ratio: float,
    final_lr_frac: float,
) -> float:
    """Return the multiplier of the peak learning rate for `step` of `steps`.

    Linear warmup over the first warmup_ratio·steps, then 1, then the schedule's shape over the
    last warmdown_ratio·steps, which would reach `final_lr_frac` at the step after the last. A
    constant schedule has no warmdown. Where warmup and warmdown overlap, the smaller one applies.
    """
    return _multiplier(
        schedule, step, step + 1, steps, warmup_ratio, warmdown_ratio, final_lr_frac
    )  # fmt: skip


def lr_multipliers(
    schedule: str,
    first: int,
    count: int,
    steps: int,
    *,
    warmup_ratio: float,
    warmdown_ratio: float,
    final_lr_frac: float,
) -> list[float]:
    """Return `lr_multiplier` of `count` consecutive steps."""
    shape = (steps, warmup_ratio, warmdown_ratio, final_lr_frac)
    return [_multiplier(schedule, step, step + 1, *shape) for step in range(first, first + count)]


def lr_multiplier_between(
    schedule: str,
    begin: float,
    end: float,
    *,
    warmup_ratio: float,
    warmdown_ratio: float,
    final_lr_frac: float,
) -> float:
    """Return the multiplier of a step that takes the training from fraction `begin` to `end`.

    The same schedule as `lr_multiplier`, where step k of n goes from k/n to (k + 1)/n.
    """
    return _multiplier(schedule, begin, end, 1.0, warmup_ratio, warmdown_ratio, final_lr_frac)


def _multiplier(
    schedule: str,
    begin: float,  # of `whole`, before the step
    end: float,  # after it
    whole: float,
    warmup_ratio: float,
    warmdown_ratio: float,
    final: float,
) -> float:
    warmup, warmdown = warmup_ratio * whole, warmdown_ratio * whole
    rising = end / warmup if end < warmup else 1.0
    start = whole - warmdown
    if schedule == "constant" or warmdown <= 0 or begin < start:
        return rising
    progress = min((begin - start) / warmdown, 1.0)
    return min(rising, _falling(schedule, progress, final))


def _falling(schedule: str, progress: float, final: float) -> float:
    if schedule == "linear":
        return 1 - progress * (1 - final)
    if schedule == "sqrt":
        return 1 - math.sqrt(progress) * (1 - final)
    assert schedule == "cosine", f"schedule {schedule}"
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

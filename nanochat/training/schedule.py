"""Learning-rate multipliers, the same for every engine. Pure functions; the loop multiplies them by
the peak rate of each parameter group."""

from __future__ import annotations

import math

__all__ = ["lr_multiplier"]


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
    warmup, warmdown = warmup_ratio * steps, warmdown_ratio * steps
    rising = (step + 1) / warmup if step + 1 < warmup else 1.0
    start = steps - warmdown
    if schedule == "constant" or warmdown <= 0 or step < start:
        return rising
    progress = min((step - start) / warmdown, 1.0)
    return min(rising, _falling(schedule, progress, final_lr_frac))


def _falling(schedule: str, progress: float, final: float) -> float:
    if schedule == "linear":
        return 1 - progress * (1 - final)
    if schedule == "sqrt":
        return 1 - math.sqrt(progress) * (1 - final)
    assert schedule == "cosine", f"schedule {schedule}"
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

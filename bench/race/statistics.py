"""Tests and intervals for a few runs per side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def p_below(values: Sequence[float], target: float) -> float:
    """Return the one-sided p of "the mean is not below the target" (Student's t). nan for 1 run."""
    if len(values) < 2:
        return math.nan
    if len(set(values)) == 1:  # without spread, t is undefined
        return 0.0 if values[0] < target else 1.0
    return float(stats.ttest_1samp(values, target, alternative="less").pvalue)


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return mean(a) / mean(b), and the 95 % interval of the geometric means' ratio (Welch's t)."""
    ratio = statistics.mean(a) / statistics.mean(b)
    if min(len(a), len(b)) < 2 or len({*a}) == len({*b}) == 1:
        return ratio, math.nan, math.nan
    logs = [[math.log(value) for value in values] for values in (a, b)]
    interval = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    return ratio, math.exp(interval.low), math.exp(interval.high)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the mean of a − b over pairs, and half of its 95 % interval (Student's t)."""
    pairs = [x - y for x, y in zip(a, b, strict=True)]
    if len(pairs) < 2:
        return pairs[0], math.nan
    t = float(stats.t.ppf(0.975, len(pairs) - 1))
    return statistics.mean(pairs), t * statistics.stdev(pairs) / math.sqrt(len(pairs))

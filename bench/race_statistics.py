"""Student's t, for means of few runs. Textbook formulas, in plain Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def t_tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's t: half the regularised incomplete beta at ν / (ν + t²)."""
    half = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return half if t > 0 else 1 - half


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (Abramowitz & Stegun 26.5.8), modified Lentz."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def p_below(values: Sequence[float], target: float) -> float:
    """One-sided p of "their mean is not below the target"."""
    if len(values) < 2:
        return math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return 0.0 if values[0] < target else 1.0
    return t_tail((target - statistics.mean(values)) / error, len(values) - 1)


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """mean(a) / mean(b) and its 95 % interval, by the logarithms' means (Welch)."""
    logs = [[math.log(v) for v in values] for values in (a, b)]
    ratio = statistics.mean(a) / statistics.mean(b)
    if min(len(a), len(b)) < 2:
        return ratio, math.nan, math.nan
    parts = [statistics.variance(values) / len(values) for values in logs]
    error = math.sqrt(sum(parts))
    if error == 0:
        return ratio, ratio, ratio
    freedom = error**4 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, logs, strict=True)
    )
    reach = _t_quantile(0.975, max(1, math.floor(freedom))) * error
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach)


def _t_quantile(probability: float, freedom: int) -> float:
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - t_tail(middle, freedom) < probability else (low, middle)
    return high

"""First-order bounds of a kernel's distance from the oracle. They are derived, not tuned.

u is the unit roundoff of the accumulation dtype: 2⁻²⁴ for float, 2⁻⁵³ for double. With d_j = z_j − max z ≤ 0 and H the
entropy of the row's softmax:

- exp(d_j) has a relative error of u·(|d_j| + 4): d_j is rounded once, and the exponential has an
  error of 4u. Below exp(−87), or exp(−708), it may be 0.
- Σ exp(d_j) has the average of that error, and Σ p_j |d_j| ≤ H. At most 8 terms are added in float
  and the others in double: u·(H + 12), and V/8 roundings of double.
- a logit under the soft-cap has a relative error of 6u: quotient, its reciprocal, tanh (3), product.
- sums over the rows are in double, one rounding per row.
- smoothing multiplies weights and logits in float: u·Σ c_j |z_j|.

A 16-bit dtype adds one rounding to its nearest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from native.oracle import Problem, Wide, Wides, parts
from native.storage import LEAST, UNIT

# Without a type wider than double in NumPy, the oracle has the same error as the kernel.
SIDES = 1 if np.finfo(Wide).eps < 2.0**-60 else 2
DOUBLE = Wide(SIDES * 2.0**-53)


@dataclass(frozen=True, slots=True)
class Bounds:
    losses: Wides  # (rows,) or (1,)
    log_sums: Wides  # (rows,)
    gradient: Wides  # (rows, vocab)


@np.errstate(all="ignore")
def bounds(problem: Problem, expected: Any, dtype: str) -> Bounds:
    """Return the largest acceptable errors of losses, log-sums and gradient. Finite rows only."""
    loss, a = problem.loss, parts(problem)
    rows, vocab = problem.shape
    u = DOUBLE if dtype == "float64" else Wide(UNIT["float32"])
    row = np.arange(rows)
    c, w, size = abs(a.c), abs(a.w), abs(a.lse)
    steps = DOUBLE * (vocab / 8 + 16)
    d = a.z.max(axis=1, initial=-np.inf)[:, None] - a.z
    e_z = 6 * u * abs(a.z).max(axis=1, initial=0) if loss.softcap else np.zeros(rows, Wide)
    e_log = u * ((a.p * d).sum(axis=1) + 12) + steps * (1 + size) + 2 * e_z
    log_sums = e_log + u * size
    smooth = Wide(loss.label_smoothing) / vocab
    rough = u * (c * abs(a.z)).sum(axis=1) + c.sum() * (e_z + log_sums + steps * size)
    losses = abs(a.own) * (e_log + 2 * e_z + 4 * DOUBLE * (size + abs(a.z[row, a.t])))
    losses = losses + smooth * (rough + steps * (c * abs(a.z)).sum(axis=1))
    losses = w * (losses + Wide(loss.z_loss) * (2 * size * e_log + 8 * DOUBLE * size**2))
    losses = np.where(a.counted, losses, 0)
    if loss.reduction != "none":
        sizes = abs(expected.losses) * (abs(a.weight) if loss.reduction == "mean" else 1)
        losses = losses.sum(keepdims=True) + (2 * rows + 4) * DOUBLE * sizes
    if loss.reduction == "mean":
        losses = losses / abs(a.weight)
    losses = losses + u * abs(expected.losses) + LEAST["float32"]

    share = abs(a.own + smooth * a.c.sum()) + 2 * Wide(loss.z_loss) * size
    e_share = 2 * Wide(loss.z_loss) * log_sums + 4 * DOUBLE * share + steps * smooth * c.sum()
    off = u * (d + 8) + (e_log + 2 * e_z)[:, None]
    gradient = a.p * (share[:, None] * off + e_share[:, None]) + 3 * u * smooth * c
    gradient[row, a.t] += 8 * DOUBLE * abs(a.own)
    least = Wide(np.exp(Wide(-708 if dtype == "float64" else -87)))
    gradient = gradient + share[:, None] * least
    scale = (w * abs(a.slope))[:, None]
    gradient = gradient * scale
    if loss.softcap:
        # 1 − t² has an error of 12u, and a larger relative error near 0.
        raw = scale * (a.p * share[:, None] + smooth * c)
        raw[row, a.t] += scale[:, 0] * abs(a.own)
        gradient = gradient + 14 * u * raw
    # The weight of the mean is a sum over the rows, in double.
    summed = (rows if loss.reduction == "mean" else 0) * DOUBLE
    gradient = gradient + (2 * u + summed) * abs(expected.gradient) + LEAST["float32"]
    if dtype in ("bfloat16", "float16"):
        gradient = gradient + UNIT[dtype] * (abs(expected.gradient) + gradient) + LEAST[dtype]
    gradient[~a.counted] = 0
    return Bounds(losses, np.where(a.counted, log_sums, 0), gradient)

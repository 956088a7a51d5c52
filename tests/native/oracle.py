"""Cross-entropy and its gradient from the formula in csrc/kernels/abi.h, in NumPy.

Computed in the widest type of NumPy, without the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Wide = np.longdouble
Wides = NDArray[Any]  # of Wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The options of nck_loss."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0
    reduction: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The inputs of a loss as exact values, independent of the dtype that a kernel reads."""

    logits: NDArray[np.float64]  # (rows, vocab)
    targets: NDArray[np.int64]  # (rows,)
    loss: Loss = Loss()
    class_weights: NDArray[np.float64] | None = None  # (vocab,)
    token_weights: NDArray[np.float64] | None = None  # (rows,)
    upstream: NDArray[np.float64] | None = None  # (rows,) or (1,)

    @property
    def shape(self) -> tuple[int, int]:
        rows, vocab = self.logits.shape
        return rows, vocab

    @property
    def counted(self) -> NDArray[np.bool_]:  # (rows,)
        return np.asarray(self.targets != self.loss.ignore_index)

    def rows(self, first: int, last: int) -> Problem:
        """Return some of the rows as a separate problem."""

        def part(each: NDArray[Any] | None) -> NDArray[Any] | None:
            return each if each is None or len(each) == 1 != len(self.targets) else each[first:last]

        return replace(
            self,
            logits=self.logits[first:last],
            targets=self.targets[first:last],
            token_weights=part(self.token_weights),
            upstream=part(self.upstream),
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """The terms of the loss, the gradient and their error bounds."""

    z: Wides  # (rows, vocab) logits after the soft-cap
    p: Wides  # (rows, vocab) softmax of z
    lse: Wides  # (rows,)
    c: Wides  # (vocab,) class weights
    own: Wides  # (rows,) (1 − ε) · c[t]
    w: Wides  # (rows,) token weights
    t: NDArray[np.int64]  # (rows,) targets, 0 for ignored rows
    slope: Wides  # (rows,) gradient of the row's loss, without w
    weight: Any  # Σ w · c[t]
    counted: NDArray[np.bool_]  # (rows,)


def parts(problem: Problem) -> Parts:
    rows, vocab = problem.shape
    loss, counted = problem.loss, problem.counted

    def wide(each: NDArray[np.float64] | None, count: int) -> Wides:
        return np.broadcast_to(np.ones(1, Wide) if each is None else each.astype(Wide), (count,))

    x = problem.logits.astype(Wide)
    cap = Wide(loss.softcap)
    z = cap * np.tanh(x / cap) if loss.softcap else x
    largest = z.max(axis=1, initial=-np.inf)
    e = np.exp(z - largest[:, None])
    total = e.sum(axis=1)
    t = np.where(counted, problem.targets, 0)
    c, w = wide(problem.class_weights, vocab), wide(problem.token_weights, rows)
    weight = (w * c[t])[counted].sum()
    slope = wide(problem.upstream, rows) / (weight if loss.reduction == "mean" else Wide(1))
    own = (1 - Wide(loss.label_smoothing)) * c[t]
    return Parts(
        z, e / total[:, None], largest + np.log(total), c, own, w, t, slope, weight, counted
    )


@dataclass(frozen=True, slots=True)
class Answer:
    losses: Wides  # (rows,) or (1,)
    log_sums: Wides  # (rows,)
    correct: NDArray[np.float64]  # (rows,) or (1,)
    gradient: Wides  # (rows, vocab)


@np.errstate(all="ignore")
def answer(problem: Problem) -> Answer:
    """Return losses, log-sums, correct and gradient as abi.h defines them."""
    loss, a = problem.loss, parts(problem)
    rows, vocab = problem.shape
    row = np.arange(rows)
    by_class = (a.c * (a.lse[:, None] - a.z)).sum(axis=1) if loss.label_smoothing else 0
    losses = a.own * (a.lse - a.z[row, a.t]) if loss.label_smoothing < 1 else np.zeros(rows, Wide)
    losses = losses + Wide(loss.label_smoothing) / vocab * by_class
    losses = a.w * (losses + (Wide(loss.z_loss) * a.lse**2 if loss.z_loss else 0))
    # The gradient of z, then of the logits before the soft-cap.
    share = a.own + Wide(loss.label_smoothing) / vocab * a.c.sum() + 2 * Wide(loss.z_loss) * a.lse
    gradient = a.p * share[:, None] - Wide(loss.label_smoothing) / vocab * a.c
    gradient[row, a.t] -= a.own
    gradient *= (a.w * a.slope)[:, None]
    if loss.softcap:
        gradient *= 1 - np.tanh(problem.logits.astype(Wide) / Wide(loss.softcap)) ** 2
    gradient[~a.counted] = 0
    losses, log_sums = np.where(a.counted, losses, 0), np.where(a.counted, a.lse, 0)
    hits = problem.logits.argmax(axis=1) == a.t if rows else np.zeros(0, bool)
    correct = np.where(a.counted, hits, False).astype(np.float64)
    if loss.reduction != "none":
        losses, correct = losses.sum(keepdims=True), correct.sum(keepdims=True)
    if loss.reduction == "mean":
        losses, correct = losses / a.weight, correct / a.counted.sum()
    return Answer(losses, log_sums, correct, gradient)

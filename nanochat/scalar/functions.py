"""The functions that both scalar models are made of, one scalar at a time.

Written so that a model can be recorded as well as run: nothing here reads `.data` or indexes by
a token; `select` and `detached_max` stand for the two places where microgpt does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import mul
from typing import cast

from nanochat.model.parameters import RMSNORM_EPS
from nanochat.scalar.value import Token, Value, detached_max, select

__all__ = ["cross_entropy", "dot", "linear", "rmsnorm", "rotate", "softcap", "softmax", "total"]


def total(values: Iterable[Value]) -> Value:
    """0 + v₁ + v₂ + …, from left to right, as the built-in sum."""
    return cast(Value, sum(values))


def dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    """0 + a₁b₁ + a₂b₂ + …, from left to right."""
    return cast(Value, sum(map(mul, a, b)))


def linear(x: Sequence[Value], weight: Sequence[Sequence[Value]]) -> list[Value]:
    """One dot product a row of the weight, (out, in)."""
    return [dot(row, x) for row in weight]


def rmsnorm(x: Sequence[Value]) -> list[Value]:
    """x divided by its root mean square (Zhang & Sennrich 2019), without weights."""
    mean_square = dot(x, x) / len(x)
    scale = (mean_square + RMSNORM_EPS) ** -0.5
    return [xi * scale for xi in x]


def softmax(logits: Sequence[Value]) -> list[Value]:
    """Probabilities; the largest logit is taken off first so that exp cannot overflow."""
    largest = detached_max(logits)
    exps = [(logit - largest).exp() for logit in logits]
    denominator = total(exps)
    return [e / denominator for e in exps]


def cross_entropy(logits: Sequence[Value], target: int | Token) -> Value:
    """−log of the probability of the target, in nats."""
    return -select(softmax(logits), target).log()


def rotate(x: Sequence[Value], cos: Sequence[float], sin: Sequence[float]) -> list[Value]:
    """One head rotated by its position (Su et al. 2021); halves pair up: xᵢ with xᵢ₊ₕ."""
    half = len(x) // 2
    first, second = x[:half], x[half:]
    return [a * c + b * s for a, b, c, s in zip(first, second, cos, sin, strict=True)] + [
        b * c - a * s for a, b, c, s in zip(first, second, cos, sin, strict=True)
    ]


def softcap(logits: Sequence[Value], cap: float) -> list[Value]:
    """cap·tanh(logit / cap), which bounds every logit by the cap; 0 leaves them alone."""
    return [(logit / cap).tanh() * cap for logit in logits] if cap else list(logits)

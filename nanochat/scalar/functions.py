"""The functions of the scalar models, on lists of Values.

They can be recorded as well as run: none reads `.data` or indexes a list by a token. `select` and
`detached_max` replace the two places where microgpt.py does so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import mul
from typing import cast

from nanochat.model.parameters import RMSNORM_EPS
from nanochat.ngram.share import NETWORK_WEIGHT
from nanochat.scalar.value import Token, Value, detached_max, select

__all__ = [
    "cross_entropy", "dot", "linear", "mixed_cross_entropy", "rmsnorm", "rotate", "softcap",
    "softmax", "total",
]  # fmt: skip


def total(values: Iterable[Value]) -> Value:
    """Return 0 + v₁ + v₂ + …, from left to right as the built-in sum."""
    return cast(Value, sum(values))


def dot(a: Sequence[Value], b: Sequence[Value]) -> Value:
    """Return 0 + a₁b₁ + a₂b₂ + …, from left to right."""
    return cast(Value, sum(map(mul, a, b)))


def linear(
    x: Sequence[Value],  # (in,)
    weight: Sequence[Sequence[Value]],  # (out, in)
) -> list[Value]:  # (out,)
    """Return weight · x: one dot product per row of the weight.

    Raises ValueError if their sizes differ.
    """
    if len(weight[0]) != len(x):
        raise ValueError(
            f"x must have {len(weight[0])} numbers, as each row of weight, got {len(x)}"
        )
    return [dot(row, x) for row in weight]


def rmsnorm(x: Sequence[Value]) -> list[Value]:
    """Return x divided by its root mean square, without weights (Zhang & Sennrich 2019)."""
    mean_square = dot(x, x) / len(x)
    scale = (mean_square + RMSNORM_EPS) ** -0.5
    return [xi * scale for xi in x]


def softmax(logits: Sequence[Value]) -> list[Value]:
    """Return the probabilities. Subtracting the largest logit keeps exp from overflowing."""
    largest = detached_max(logits)
    exps = [(logit - largest).exp() for logit in logits]
    denominator = total(exps)
    return [e / denominator for e in exps]


def cross_entropy(logits: Sequence[Value], target: int | Token) -> Value:
    """Return the negative log-probability of the target, in nats."""
    return -select(softmax(logits), target).log()


def mixed_cross_entropy(
    logits: Sequence[Value],  # (vocab + 1,), the last one of the share of the counts
    target: int | Token,
    by_counts: Value | float,  # probability of the target by counted n-grams
    share_offset: float = 0.0,  # added to the last logit
) -> Value:
    """Return −log p(target) of the mixture, in nats; see ops/mixture.py.

    Its gradient is also that of NETWORK_WEIGHT times the loss of the network alone.
    """
    logits = [*logits[:-1], logits[-1] + share_offset]
    largest = detached_max(logits)
    *tokens, share = [(logit - largest).exp() for logit in logits]
    sum_, chosen = total(tokens), select(tokens, target)
    network = sum_.log() - chosen.log()
    mixed = (sum_ + share).log() - (chosen + share * by_counts).log()
    return mixed + NETWORK_WEIGHT * (network - detached_max([network]))


def rotate(x: Sequence[Value], cos: Sequence[float], sin: Sequence[float]) -> list[Value]:
    """Rotate one head by its position (Su et al. 2021). xᵢ is paired with xᵢ₊ₕ, h = len(x) / 2."""
    half = len(x) // 2
    first, second = x[:half], x[half:]
    return [a * c + b * s for a, b, c, s in zip(first, second, cos, sin, strict=True)] + [
        b * c - a * s for a, b, c, s in zip(first, second, cos, sin, strict=True)
    ]


def softcap(logits: Sequence[Value], cap: float) -> list[Value]:
    """Return cap · tanh(logit / cap), which bounds the logits. A cap of 0 means no bound."""
    return [(logit / cap).tanh() * cap for logit in logits] if cap else list(logits)

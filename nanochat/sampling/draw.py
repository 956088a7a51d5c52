"""The token draw: the reference that every native draw reproduces bit for bit.

Owns how one row of logits and one 64-bit random integer become a token. The random integers and
the sampling loop are in sampling.py.

One exponential per token in float32, each operation rounded once; the rest is integer arithmetic,
so no order of summation and no vector width can change a token. For a row x of V logits, cast to
float32:

1. m = max x and t = float32(1 / temperature), with the quotient in float64 and t limited to the
   largest finite float32.
2. d = x − m, z = d·t. A token's weight is W = ⌊exp32(z)·2⁴⁰⌋, and 0 if d = −∞. If m = +∞, the
   tokens at +∞ weigh 2⁴⁰ each and all others 0.
3. Order the row by larger logit, then by lower index. top-k keeps its first k tokens. Of those,
   top-p keeps the shortest prefix whose weights sum to at least ⌈P·total / 2³²⌉, where
   P = ⌊top_p·2³²⌋ and total is their sum: an integer below 2⁹³ that C++ computes in 128 bits.
   Temperature 0 is greedy: it keeps the first token of this order, as top-k 1 does.
4. Let total be the sum of the kept weights and r the random integer. The token is the first, by
   index, at which the running sum of kept weights is above ⌊r·total / 2⁶⁴⌋.

Weights are at most 2⁴⁰ and V is at most 2²⁰, which keeps sums below 2⁶¹. Subnormals are not
flushed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.errors import LogitsError
from nanochat.training.guards import check_temperature

__all__ = ["MAX_VOCAB", "draw", "exp32", "integer_weights"]

MAX_VOCAB = 1 << 20
WEIGHT_BITS = 40

_SMALLEST = np.float32(-87.0)  # exp of it is still a normal float32
_LOG2E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(0.693359375)  # ten bits: its product with n is exact
_LN2_LOW = np.float32(-2.12194440e-4)
# Minimax of exp on [−ln2/2, ln2/2] from Cephes' expf (Moshier), highest power first.
_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
        5.0000001201e-1, 1.0, 1.0,
    )
)  # fmt: skip


def exp32(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return exp of z ≤ 0 in float32: 0 below −87, exactly 1 at 0, never above 1. On
    [−87, −2⁻³⁰] the error is within 1.2 units in the last place, found by trying every float32;
    closer to 0 the result is 1. Every operation is rounded once; none is fused."""
    clipped = np.maximum(z, _SMALLEST)
    n = np.rint(clipped * _LOG2E)
    r = (clipped - n * _LN2_HIGH) - n * _LN2_LOW
    power = np.full_like(r, _COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        power = power * r + coefficient
    result: NDArray[np.float32] = np.ldexp(power, n.astype(np.int32))
    result[z < _SMALLEST] = 0
    return result


def integer_weights(
    logits: NDArray[np.float32],  # (…, vocab) no NaN, no row all −inf
    temperature: float,
) -> NDArray[np.uint64]:  # (…, vocab)
    """Return each token's unnormalized probability in units of 2⁻⁴⁰: steps 1 and 2."""
    largest = logits.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        # Limited, because 0·∞ would make the likeliest token NaN.
        scale = min(np.float32(np.divide(1.0, abs(temperature))), np.finfo(np.float32).max)
        # ∞ − ∞ would be NaN, and so would −∞·0 at an enormous temperature.
        below = np.where(logits == largest, np.float32(0), logits - largest)
        z = np.where(np.isneginf(below), below, below * scale)
        weights = np.ldexp(exp32(z).astype(np.float64), WEIGHT_BITS)
    return weights.astype(np.uint64)


def draw(
    logits: ArrayLike,  # (rows, vocab)
    random: NDArray[np.uint64],  # (rows,)
    *,
    temperature: float = 1.0,
    top_k: int = 0,  # 0: all
    top_p: float = 1.0,
) -> NDArray[np.int64]:  # (rows,)
    """Draw one token per row, as this module's docstring defines it.

    Temperature 0 takes the largest logit, of equal ones the first. Raises ConfigError for a
    temperature that is not finite and >= 0, ValueError for a vocabulary above 2²⁰, and LogitsError
    for a row that holds NaN or only −inf; the message names the row.
    """
    check_temperature(temperature)
    assert top_k >= 0  # config/ checks the option
    assert 0 < top_p <= 1
    with np.errstate(over="ignore", under="ignore"):
        rows = np.asarray(logits).astype(np.float32)
    assert rows.ndim == 2
    assert random.shape == rows.shape[:1]
    _check_rows(rows)
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    weights = integer_weights(rows, temperature)
    if temperature == 0:
        top_k = 1
    if 0 < top_k < rows.shape[1] or top_p < 1:
        for row, row_weights in zip(rows, weights, strict=True):
            row_weights[_left_out(row, row_weights, top_k, top_p)] = 0
    sums = np.cumsum(weights, axis=1, dtype=np.uint64)
    pairs = zip(random.tolist(), sums[:, -1].tolist(), strict=True)
    targets = np.array([r * total >> 64 for r, total in pairs], dtype=np.uint64)
    return np.asarray((sums <= targets[:, None]).sum(axis=1), dtype=np.int64)


def _check_rows(rows: NDArray[np.float32]) -> None:
    if rows.shape[1] > MAX_VOCAB:
        raise ValueError(f"vocabulary must be at most {MAX_VOCAB} tokens, got {rows.shape[1]}")
    if not len(rows):
        return
    # The maximum of a row with NaN is NaN.
    largest = rows.max(axis=1)
    if np.isnan(largest).any():
        raise LogitsError(f"logits of row {int(np.isnan(largest).argmax())} hold nan")
    if np.isneginf(largest).any():
        raise LogitsError(f"logits of row {int(np.isneginf(largest).argmax())} are all -inf")


def _left_out(
    row: NDArray[np.float32], weights: NDArray[np.uint64], top_k: int, top_p: float
) -> NDArray[np.intp]:
    """Return the indices that are not kept: step 3."""
    order = np.argsort(-row, kind="stable")
    kept = min(top_k or len(row), len(row))
    if top_p < 1:
        sums = np.cumsum(weights[order[:kept]], dtype=np.uint64)
        share = int(top_p * 2**32)
        needed = -(-share * int(sums[-1]) >> 32)  # rounded up
        kept = int(np.searchsorted(sums, np.uint64(needed), side="left")) + 1
    return order[kept:]

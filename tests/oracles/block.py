"""Oracle: RMSNorm and attention of a transformer block in NumPy float64, with derivatives.

Attention follows its definition: it computes whole score matrices instead of tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms_norm(x: Array, eps: float) -> tuple[Array, Array]:
    """Return the norm over the last dimension and 1 / rms, (..., 1)."""
    inverse = (np.mean(x * x, axis=-1, keepdims=True) + eps) ** -0.5
    return x * inverse, inverse


def rms_norm_backward(gradient: Array, x: Array, eps: float) -> Array:
    y, inverse = rms_norm(x, eps)
    return inverse * (gradient - y * np.mean(gradient * y, axis=-1, keepdims=True))


def turned(x: Array, cos: Array, sin: Array, direction: int = 1) -> Array:
    """Rotate in halves; direction −1 rotates back."""
    a, b = np.split(x, 2, axis=-1)
    sin = sin * direction
    return np.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1)


class Attention:
    """Forward and backward pass of queries, keys, values: (rows, length, 3, heads, head_dim)."""

    def __init__(
        self,
        qkv: Array,
        angles: tuple[Array, Array] | None,  # cos and sin, (rows, length, head_dim / 2)
        starts: NDArray[np.int64],  # (rows, length), first visible column
        eps: float | None,  # of the norm of queries and keys; None: no norm
    ) -> None:
        self.qkv, self.angles, self.eps = qkv, angles, eps
        q, k, self.v = np.moveaxis(qkv, 2, 0)
        self.q, self.k = self._placed(q), self._placed(k)
        columns = np.arange(qkv.shape[1])
        seen = (columns <= columns[:, None]) & (columns >= starts[..., None])
        self.scale = qkv.shape[-1] ** -0.5
        scores = np.einsum("bihd,bjhd->bhij", self.q, self.k) * self.scale
        scores = np.where(seen[:, None], scores, -np.inf)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        self.weights = powers / powers.sum(-1, keepdims=True)
        self.mixed = np.einsum("bhij,bjhd->bihd", self.weights, self.v)

    def backward(self, gradient: Array) -> Array:  # as mixed -> as qkv
        d_weights = np.einsum("bihd,bjhd->bhij", gradient, self.v)
        along = (d_weights * self.weights).sum(-1, keepdims=True)
        d_scores = self.weights * (d_weights - along) * self.scale
        d_q = np.einsum("bhij,bjhd->bihd", d_scores, self.k)
        d_k = np.einsum("bhij,bihd->bjhd", d_scores, self.q)
        d_v = np.einsum("bhij,bihd->bjhd", self.weights, gradient)
        q, k, _ = np.moveaxis(self.qkv, 2, 0)
        return np.stack([self._placed_back(d_q, q), self._placed_back(d_k, k), d_v], axis=2)

    def backward_size(self, gradient: Array) -> float:
        """Return the largest sum of absolute values that backward() forms.

        Rounding errors are relative to it: scores nearly cancel, and the norm of a short vector
        amplifies the remainder.
        """
        q, k, v = (np.abs(x) for x in (self.q, self.k, self.v))
        d_weights = np.einsum("bihd,bjhd->bhij", np.abs(gradient), v)
        along = (d_weights * self.weights).sum(-1, keepdims=True)
        d_scores = self.weights * (d_weights + along) * self.scale
        d_q = np.einsum("bhij,bjhd->bihd", d_scores, k)
        d_k = np.einsum("bhij,bihd->bjhd", d_scores, q)
        d_v = np.einsum("bhij,bihd->bjhd", self.weights, np.abs(gradient))
        if self.eps is not None:
            d_q, d_k = (
                d * rms_norm(x, self.eps)[1]  # equal for the rotated vectors
                for d, x in zip((d_q, d_k), np.moveaxis(self.qkv, 2, 0), strict=False)
            )
        return float(max(d.max() for d in (d_q, d_k, d_v)))

    def _turned(self, x: Array, direction: int = 1) -> Array:
        if self.angles is None:
            return x
        cos, sin = (each[:, :, None] for each in self.angles)
        return turned(x, cos, sin, direction)

    def _placed(self, x: Array) -> Array:
        x = self._turned(x)
        return x if self.eps is None else rms_norm(x, self.eps)[0]

    def _placed_back(self, gradient: Array, x: Array) -> Array:
        if self.eps is not None:
            gradient = rms_norm_backward(gradient, self._turned(x), self.eps)
        return self._turned(gradient, -1)

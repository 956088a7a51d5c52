"""Maps of embeddings: two principal components, and the rows that point the same way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest", "plane"]


def plane(rows: NDArray[np.float64]) -> NDArray[np.float64]:  # (rows, 2)
    """Return the first two principal components. The larger entry of each axis is positive."""
    centered = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    axes = np.concatenate((axes, np.zeros((2, axes.shape[1]))))[:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    result: NDArray[np.float64] = centered @ axes.T
    return result


def nearest(rows: NDArray[np.float64], count: int) -> list[list[tuple[int, float]]]:
    """Return for each row the others with the largest cosine, as (row, cosine)."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norms > 0, norms, 1.0)
    result = []
    for index, cosines in enumerate(unit @ unit.T):
        cosines[index] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: min(count, len(rows) - 1)]
        result.append([(int(other), float(cosines[other])) for other in order])
    return result

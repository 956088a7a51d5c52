"""What each step does to the parameters of option record, gathered on the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.tensor.optimizer import FlatOptimizer
from nanochat.tensor.weights import FlatWeights
from nanochat.training.engine import RECORDED

__all__ = ["Recording"]


class Recording:
    """Gathers the numbers of watched parameters before and after an update."""

    def __init__(self, weights: FlatWeights, optimizer: FlatOptimizer) -> None:
        self._weights, self._optimizer = weights, optimizer
        self._placed: dict[int, _Watched] = {}

    def before(self, indices: NDArray[np.int64]) -> Tensor:  # (watched, len(RECORDED))
        """Return the weights and the gathered gradients; the other columns are NaN."""
        watched, weights = self._watched(indices), self._weights
        numbers = weights.values.new_full((len(indices), len(RECORDED)), torch.nan)
        numbers[:, 0] = weights.values[watched.all]
        numbers[:, 1] = weights.gradients[watched.all]
        return numbers

    def after(self, indices: NDArray[np.int64], numbers: Tensor) -> None:
        """Fill in the moments and the change of the weights."""
        watched, moments = self._watched(indices), self._optimizer.moments
        if "m" in moments:
            numbers[watched.rest, 2] = moments["m"][watched.of_rest]
            numbers[watched.rest, 3] = moments["v"][watched.of_rest]
        if "momentum" in moments:
            numbers[watched.others, 2] = moments["momentum"][watched.of_others]
        numbers[:, 4] = self._weights.values[watched.all] - numbers[:, 0]

    def _watched(self, indices: NDArray[np.int64]) -> _Watched:
        """Return the places of the indices, which are few different arrays, on the device."""
        if id(indices) not in self._placed:
            first = self._optimizer.moments.get("m")
            self._placed[id(indices)] = _Watched(
                indices, 0 if first is None else len(first), self._weights.device
            )
        return self._placed[id(indices)]


class _Watched:
    """Flat indices on a device: all of them, AdamW's, and those of SGD or Muon."""

    def __init__(self, indices: NDArray[np.int64], stop: int, device: torch.device) -> None:
        self.indices = indices  # keeps its id
        rest, others = np.flatnonzero(indices < stop), np.flatnonzero(indices >= stop)

        def placed(array: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(array).to(device)

        self.all = placed(indices)
        self.rest, self.of_rest = placed(rest), placed(indices[rest])
        self.others, self.of_others = placed(others), placed(indices[others] - stop)

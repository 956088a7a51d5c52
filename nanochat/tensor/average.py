"""The exponential moving average of the flat weights; the formula is in training/average.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nanochat.tensor.weights import FlatWeights
from nanochat.training.average import newest_weight, saved_average

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average of one model's master weights. It starts as the weights themselves."""

    def __init__(self, weights: FlatWeights, decay: float) -> None:
        self._weights, self._decay = weights, decay
        self._values = weights.values.clone()

    def update(
        self,
        step: int,  # from 1
        stopped: Tensor,  # (): 1 after a step that was not finite, whose update is skipped
    ) -> None:
        """Move towards the weights after a step, without waiting for the device."""
        weight = (1 - stopped.to(self._values.dtype)) * newest_weight(self._decay, step)
        self._values.lerp_(self._weights.values, weight)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Exchange the average and the weights, in the same memory, until the end of the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        weights = self._weights.values.clone()
        self._weights.values.copy_(self._values)
        self._values.copy_(weights)
        self._weights.publish()

    def state_dict(self) -> dict[str, NDArray[np.floating]]:
        return saved_average(self._weights.unpack(self._values))

    def load(self, average: Mapping[str, NDArray[np.floating]]) -> None:
        """Load a saved average; an empty mapping restarts it at the weights."""
        self._values.copy_(self._weights.pack(average) if average else self._weights.values)

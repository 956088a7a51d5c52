"""The exponential moving average of the parameters; the formula is in training/average.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanochat.model.parameters import Spec
from nanochat.training.average import newest_weight

__all__ = ["ParameterAverage"]


class ParameterAverage:
    """The average of all parameters in one array, in the order of the specs."""

    def __init__(self, specs: Sequence[Spec], decay: float, dtype: DTypeLike) -> None:
        self._specs, self._decay = specs, decay
        self._values = np.zeros(sum(int(np.prod(spec.shape)) for spec in specs), dtype)

    def update(
        self,
        values: NDArray[np.floating],  # (parameters,)
        step: int,  # from 1
    ) -> None:
        """Move towards the parameters after a step."""
        with np.errstate(all="ignore"):  # the loop tells what is not finite
            change = values - self._values
            change *= newest_weight(self._decay, step)
            self._values += change

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        """Return copies by parameter name."""
        result, start = {}, 0
        for spec in self._specs:
            stop = start + int(np.prod(spec.shape))
            result[spec.name] = self._values[start:stop].reshape(spec.shape).copy()
            start = stop
        return result

    def load(self, arrays: Mapping[str, NDArray[np.floating]]) -> None:
        """Load arrays by parameter name."""
        self._values[:] = np.concatenate([np.ravel(arrays[spec.name]) for spec in self._specs])

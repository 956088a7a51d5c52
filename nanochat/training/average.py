"""The exponential moving average of the weights, option `ema`: its formula and its saved names.

Each engine keeps the average in its own arrays. Pure functions; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nanochat.model.state import AVERAGE
from nanochat.training.engine import EngineState

__all__ = ["averaged_weights", "newest_weight", "saved_average", "scored_state", "split_average"]


def newest_weight(decay: float, update: int) -> float:
    """Return w of `average += w * (weights - average)` after update number `update`, from 1.

    w is 1 − decay, and larger in the first updates, where the average would otherwise hold mostly
    initial weights: 1 − w is at most (1 + update) / (10 + update), as in TensorFlow's
    ExponentialMovingAverage with num_updates.
    """
    return 1 - min(decay, (1 + update) / (10 + update))


def saved_average(
    average: Mapping[str, NDArray[np.floating]],  # by Spec.name
) -> dict[str, NDArray[np.floating]]:
    """Return the average under the names that EngineState.optimizer holds."""
    return {f"{AVERAGE}{name}": array for name, array in average.items()}


def split_average(
    optimizer: Mapping[str, NDArray[np.floating]],
) -> tuple[dict[str, NDArray[np.floating]], dict[str, NDArray[np.floating]]]:
    """Return the average by Spec.name, and the rest of EngineState.optimizer."""
    average, rest = {}, {}
    for name, array in optimizer.items():
        if name.startswith(AVERAGE):
            average[name.removeprefix(AVERAGE)] = array
        else:
            rest[name] = array
    return average, rest


def averaged_weights(state: EngineState) -> Mapping[str, NDArray[np.floating]]:
    """Return the weights to evaluate and sample: the average if there is one."""
    return split_average(state.optimizer)[0] or state.weights


def scored_state(state: EngineState) -> EngineState:
    """Return what the evaluation of a state has scored: its averaged weights, no optimizer."""
    return replace(state, weights=averaged_weights(state), optimizer={})

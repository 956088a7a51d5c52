"""Builds the module of standalone_model.py from weights in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.tensor.standalone_model import GPT

__all__ = ["plain_module"]


def plain_module(config: TrainConfig, weights: Mapping[str, NDArray[np.floating]]) -> GPT:
    """Return the model as a plain torch module with copies of the weights, in their dtype."""
    module = GPT(config.to_dict(), vocab_size=len(weights["wte"]))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    module.load_state_dict(tensors, assign=True)
    return module.eval()

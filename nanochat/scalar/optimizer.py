"""SGD and AdamW over the parameter blocks: the state here, the arithmetic in C++."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanochat import _scalar
from nanochat.config import TrainConfig
from nanochat.scalar.value import Matrix
from nanochat.training.engine import StepSettings
from nanochat.training.parameters import Spec
from nanochat.training.state import check_shapes

__all__ = ["ScalarOptimizer"]

MOMENTS = {"adamw": ("m", "v"), "sgd": ("momentum",)}


class ScalarOptimizer:
    """Updates every matrix in place; AdamW is microgpt's Adam with decoupled weight decay."""

    def __init__(
        self, config: TrainConfig, specs: Sequence[Spec], matrices: Mapping[str, Matrix]
    ) -> None:
        self.config = config
        self.specs = specs
        self.matrices = matrices
        self.steps = 0
        self.moments = {
            f"{moment}.{spec.name}": np.zeros(spec.shape)
            for moment in MOMENTS[config.optimizer]
            for spec in specs
        }

    def step(self, settings: StepSettings, grad_norm: float) -> None:
        """One update; gradients above settings.clip are scaled as torch's clip_grad_norm_ does."""
        scale = 1.0
        if settings.clip and grad_norm > settings.clip:
            scale = min(1.0, settings.clip / (grad_norm + 1e-6))
        self.steps += 1
        for spec in self.specs:
            lr, weight_decay = settings.lr[spec.group], settings.weight_decay[spec.group]
            matrix = self.matrices[spec.name]
            if self.config.optimizer == "adamw":
                m, v = self.moments[f"m.{spec.name}"], self.moments[f"v.{spec.name}"]
                _scalar.adamw_step(
                    matrix, m, v, lr=lr, beta1=settings.momentum, beta2=self.config.beta2,
                    eps=self.config.eps, weight_decay=weight_decay, t=self.steps, grad_scale=scale,
                )  # fmt: skip
            else:
                buffer = self.moments[f"momentum.{spec.name}"]
                _scalar.sgd_step(
                    matrix, buffer, lr=lr, momentum=settings.momentum, weight_decay=weight_decay,
                    first=self.steps == 1, grad_scale=scale,
                )  # fmt: skip

    def state_dict(self, dtype: DTypeLike) -> dict[str, NDArray[np.floating]]:
        state = {name: array.astype(dtype) for name, array in self.moments.items()}
        return {**state, "step": np.array([self.steps], dtype=np.float64)}

    def load_state_dict(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        """Take a saved state; an empty mapping resets."""
        if not state:
            self.steps = 0
            for array in self.moments.values():
                array.fill(0.0)
            return
        expected = {name: array.shape for name, array in self.moments.items()}
        check_shapes(state, {**expected, "step": (1,)}, "optimizer state")
        self.steps = int(state["step"][0])
        for name, array in self.moments.items():
            array[:] = state[name]

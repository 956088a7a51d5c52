"""AdamW, SGD and Muon on the flat weights, with clipping and a guard against non-finite steps.

On the CPU one kernel computes the norm, clips, updates, sets the gradients to zero and writes the
copy in the compute dtype (`python -m bench.tensor.adamw`). Elsewhere one fused call of torch
updates all neighboring parameters with equal rates. torch.optim runs the same kernels but needs
lists of parameters and keeps separate state for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.model.parameters import Spec
from nanochat.model.state import check_shapes, moment_specs
from nanochat.tensor.muon import Muon
from nanochat.tensor.native import kernels
from nanochat.tensor.weights import FlatWeights
from nanochat.training.engine import StepSettings

__all__ = ["FlatOptimizer"]


class FlatOptimizer:
    """Updates the master weights in place, without waiting for the device.

    After a loss or gradient norm that is not finite, the device skips this update and all later
    ones until a state is loaded.
    """

    def __init__(self, config: TrainConfig, weights: FlatWeights) -> None:
        self._config = config
        self._weights = weights
        self._muon = Muon(weights, heads=config.n_head) if config.optimizer == "muon" else None
        stop = self._muon.start if self._muon else weights.size
        moments = moment_specs(config.optimizer, weights.specs)
        self._rest = next(iter(moments.values()))  # all parameters but Muon's
        # By name: the flat moment and the parameters that it covers, in order.
        self._moments: dict[str, tuple[Tensor, Sequence[Spec]]] = {
            name: (torch.zeros_like(weights.values[:stop]), specs)
            for name, specs in moments.items()
        }
        if self._muon:
            self._moments["momentum"] = self._muon.momentum, moments["momentum"]
        # Otherwise in separate passes of torch.
        self.by_kernel = config.loss == "fused" and weights.device.type == "cpu"
        # The fused kernels read float32 for weights of any dtype.
        self._count = torch.zeros((), dtype=torch.float32, device=weights.device)
        self._options = kernels.AdamWOptions(
            config.beta1, config.beta2, config.eps, config.weight_decay, config.grad_clip
        )
        # 1 after a loss or gradient norm that is not finite.
        self.stopped = torch.zeros((), dtype=torch.float32, device=weights.device)

    @property
    def moments(self) -> Mapping[str, Tensor]:
        """The flat moments by name: m and v of the first parameters, momentum of the others."""
        return {name: flat for name, (flat, _) in self._moments.items()}

    def step(self, settings: StepSettings) -> tuple[Tensor, Tensor]:
        """Update from the gathered gradients. Return the loss and the unclipped norm, each ()."""
        if self.by_kernel and self._config.optimizer != "sgd":
            return self._step_by_kernel(settings)
        weights = self._weights
        loss = weights.loss.clone()
        norm = torch.linalg.vector_norm(weights.gradients)
        self.stopped.logical_or_(torch.isfinite(loss + norm).logical_not_())
        config = self._config
        if config.grad_clip:
            weights.gradients.mul_((config.grad_clip / (norm + 1e-6)).clamp_(max=1.0))
        self._count.add_(1 - self.stopped)
        for piece, lr in self._pieces(settings):
            if config.optimizer == "sgd":
                self._sgd(piece, lr)
            else:
                self._adamw(piece, lr)
        self._update_by_muon(settings)
        weights.zero()
        weights.publish()
        return loss, norm

    def _step_by_kernel(self, settings: StepSettings) -> tuple[Tensor, Tensor]:
        weights = self._weights
        loss = weights.loss.clone()
        pieces = [(piece.stop, lr) for piece, lr in self._pieces(settings)]
        norm = kernels.adamw(
            weights.values, weights.gradients, self._moments["m"][0], self._moments["v"][0],
            pieces=pieces, options=self._options, loss=loss, count=self._count,
            stopped=self.stopped, computed=weights.computed, first_computed=weights.first_computed,
        )  # fmt: skip
        if self._muon:
            self._update_by_muon(settings)
            weights.zero()
            weights.publish()
        else:
            weights.zero_sums()
        return loss, norm

    def _update_by_muon(self, settings: StepSettings) -> None:
        if self._muon:
            self._muon.step(
                lr=settings.lr["matrix"], weight_decay=self._config.weight_decay,
                momentum=self._config.muon_momentum, stopped=self.stopped,
            )  # fmt: skip

    def _pieces(self, settings: StepSettings) -> Iterator[tuple[slice, float]]:
        """Yield the consecutive weights of AdamW's or SGD's part that share a learning rate."""
        start = 0
        for lr, specs in groupby(self._rest, lambda spec: settings.lr[spec.group]):
            stop = start + sum(spec.shape[0] * spec.shape[1] for spec in specs)
            yield slice(start, stop), lr
            start = stop

    def _adamw(self, piece: slice, lr: float) -> None:
        torch._fused_adamw_(
            [self._weights.values[piece]],
            [self._weights.gradients[piece]],
            [self._moments["m"][0][piece]],
            [self._moments["v"][0][piece]],
            [],
            [self._count],
            lr=lr,
            beta1=self._config.beta1,
            beta2=self._config.beta2,
            weight_decay=self._config.weight_decay,
            eps=self._config.eps,
            amsgrad=False,
            maximize=False,
            found_inf=self.stopped,
        )

    def _sgd(self, piece: slice, lr: float) -> None:
        values, weight_decay = self._weights.values[piece], self._config.weight_decay
        if weight_decay:
            running = (1 - self.stopped).to(values.dtype)
            values.mul_(1 - running * (lr * weight_decay))
        torch._fused_sgd_(
            [values],
            [self._weights.gradients[piece]],
            # Zeros at first: momentum · 0 + g = g. Without momentum torch refuses a buffer.
            [self._moments["momentum"][0][piece]] if self._config.beta1 else [],
            weight_decay=0.0,
            momentum=self._config.beta1,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
            found_inf=self.stopped,
        )

    def state_dict(self) -> dict[str, NDArray[np.floating]]:
        """Return `<moment>.<parameter>` arrays and the number of updates, `step` (1,) float64."""
        state: dict[str, NDArray[np.floating]] = {}
        for moment, (flat, specs) in self._moments.items():
            arrays = self._weights.unpack(flat, specs)
            state.update({f"{moment}.{name}": array for name, array in arrays.items()})
        return {**state, "step": np.array([float(self._count)], dtype=np.float64)}

    def load_state_dict(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        """Load a saved state; an empty mapping resets the optimizer. Raises CheckpointError."""
        self.check(state)
        self.stopped.zero_()
        self._count.fill_(float(state["step"][0]) if state else 0.0)
        for moment, (flat, specs) in self._moments.items():
            if not state:
                flat.zero_()
                continue
            arrays = {spec.name: state[f"{moment}.{spec.name}"] for spec in specs}
            flat.copy_(self._weights.pack(arrays, specs))

    def check(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        """Raise CheckpointError unless the state is empty or fits this optimizer."""
        if not state:
            return
        expected: dict[str, tuple[int, ...]] = {
            f"{moment}.{spec.name}": spec.shape
            for moment, (_, specs) in self._moments.items()
            for spec in specs
        }
        check_shapes(state, {**expected, "step": (1,)}, "optimizer state")

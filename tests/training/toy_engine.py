"""A third engine in plain numpy: a bigram table with exact gradients, for tests of the loop.

It implements the Protocol of training/engine.py and shares no code with the two real engines, so
that nothing above it can depend on what only they do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.model.state import check_shapes
from nanochat.training.engine import EngineState, StepMetrics, StepSettings

TABLE = "table"
GROUP = "matrix"


class ToyStep:
    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics
        self.reads = 0

    def read(self) -> StepMetrics:
        self.reads += 1
        return self._metrics


class ToyDecoder:
    def __init__(self, table: NDArray[np.float64], prompts: Sequence[Sequence[int]]) -> None:
        self._table = table
        self.advance([prompt[-1] for prompt in prompts])

    def advance(self, ids: Sequence[int]) -> None:
        self.logits = self._table[np.asarray(ids, dtype=np.int64)]


class ToyEngine:
    """logits = table[x]. `poison_step`, from 1, is a step whose loss is nan."""

    mode = "toy"
    backend = "numpy"
    device = "cpu"

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        *,
        poison_step: int | None = None,
    ) -> None:
        self.config = config
        self.table = np.zeros((vocab_size, vocab_size))
        self._moments = {
            f"{name}.{TABLE}": np.zeros_like(self.table)
            for name in (("m", "v") if config.optimizer == "adamw" else ("momentum",))
        }
        self.average = self.table.copy()
        self._updates = 0
        self._poison_step = poison_step
        self._healthy = True

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> ToyStep:
        loss, gradient = 0.0, np.zeros_like(self.table)
        for batch in microbatches:
            inputs, targets, nats = self._counted(batch)
            loss += float(nats.sum()) / batch.global_targets
            slope = np.exp(self._log_probabilities()[inputs])
            slope[np.arange(len(targets)), targets] -= 1.0
            np.add.at(gradient, inputs, slope / batch.global_targets)
        if self._updates + 1 == self._poison_step:
            loss = math.nan
        norm = float(np.linalg.norm(gradient))
        self._healthy = self._healthy and math.isfinite(loss) and math.isfinite(norm)
        if self._healthy:
            clip = self.config.grad_clip
            if clip and norm > clip:
                gradient *= clip / (norm + 1e-6)
            self._update(gradient, settings)
            self._follow()
        return ToyStep(StepMetrics(loss=loss, grad_norm=norm))

    def _follow(self) -> None:
        """Move the average, with the larger steps of a young one."""
        decay = min(self.config.ema, (1 + self._updates) / (10 + self._updates))
        self.average = decay * self.average + (1 - decay) * self.table

    @contextmanager
    def averaged(self) -> Iterator[None]:
        own = self.table
        if self.config.ema:
            self.table = self.average
        try:
            yield
        finally:
            self.table = own

    def _update(self, gradient: NDArray[np.float64], settings: StepSettings) -> None:
        self._updates += 1
        lr, beta1 = settings.lr[GROUP], self.config.beta1
        self.table *= 1.0 - lr * self.config.weight_decay
        if self.config.optimizer == "sgd":
            velocity = self._moments[f"momentum.{TABLE}"]
            velocity *= beta1
            velocity += gradient
            self.table -= lr * velocity
            return
        beta2 = self.config.beta2
        m, v = self._moments[f"m.{TABLE}"], self._moments[f"v.{TABLE}"]
        m += (1 - beta1) * (gradient - m)
        v += (1 - beta2) * (gradient**2 - v)
        m_hat, v_hat = m / (1 - beta1**self._updates), v / (1 - beta2**self._updates)
        self.table -= lr * m_hat / (np.sqrt(v_hat) + self.config.eps)

    def token_losses(self, batch: Batch) -> NDArray[np.float64]:
        nats = np.zeros(batch.targets.shape)
        nats[batch.targets != IGNORE] = self._counted(batch)[2]
        return nats

    def network_losses(self, batch: Batch) -> NDArray[np.float64]:
        return self.token_losses(batch)  # it has no counts

    def notes(self) -> Sequence[str]:
        return ()

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> ToyDecoder:
        return ToyDecoder(self.table, prompts)

    def state_dict(self) -> EngineState:
        optimizer = {name: array.copy() for name, array in self._moments.items()}
        optimizer["step"] = np.array([self._updates], dtype=np.float64)
        if self.config.ema:
            optimizer[f"average.{TABLE}"] = self.average.copy()
        return EngineState(weights={TABLE: self.table.copy()}, optimizer=optimizer)

    def load_state_dict(self, state: EngineState) -> None:
        check_shapes(state.weights, {TABLE: self.table.shape}, "weight")
        self.table[:] = state.weights[TABLE]
        optimizer = dict(state.optimizer)
        self.average = optimizer.pop(f"average.{TABLE}", self.table).copy()
        self._load_optimizer(optimizer)

    def _load_optimizer(self, state: Mapping[str, NDArray[np.floating]]) -> None:
        shapes: dict[str, tuple[int, ...]] = {name: m.shape for name, m in self._moments.items()}
        if state:
            check_shapes(state, {**shapes, "step": (1,)}, "optimizer state")
        for name, array in self._moments.items():
            array[:] = state[name] if state else 0.0
        self._updates = int(state["step"][0]) if state else 0

    def _log_probabilities(self) -> NDArray[np.float64]:
        shifted = self.table - self.table.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    def _counted(
        self, batch: Batch
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Inputs, targets and losses of what counts."""
        counted = batch.targets != IGNORE
        inputs, targets = batch.inputs[counted], batch.targets[counted]
        return inputs, targets, -self._log_probabilities()[inputs, targets]

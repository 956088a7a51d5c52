"""The scalar engine: the models of this package on the C++ tape, behind the shared Protocol.

The graph of each row is built in Python, walked backward in C++ and freed; rows are summed in
order, so a step has the same bits whatever else the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.scalar.bigram import Bigram
from nanochat.scalar.decoder import ScalarDecoder
from nanochat.scalar.functions import cross_entropy, total
from nanochat.scalar.minigpt import MiniGPT
from nanochat.scalar.optimizer import ScalarOptimizer
from nanochat.scalar.value import Tape, Value
from nanochat.training.engine import EngineState, LossSums, StepMetrics, StepSettings
from nanochat.training.parameters import initial_weights, parameter_specs
from nanochat.training.state import check_shapes

__all__ = ["ScalarEngine"]

MODELS: Mapping[str, type[Any]] = {"bigram": Bigram, "mini-gpt": MiniGPT}


class FinishedStep:
    """A step whose numbers are already there."""

    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics

    def read(self) -> StepMetrics:
        return self._metrics


class ScalarEngine:
    """One model in scalars with its optimizer. dtype: 'float64' or 'float32'."""

    mode = "scalar"
    backend = "cpp"
    device = "cpu"

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        token_bytes: NDArray[np.int64],  # (vocab_size,) raw bytes a token
        *,
        dtype: str,
    ) -> None:
        self.config = config
        self.specs = parameter_specs(config, vocab_size)
        self.tape = Tape(dtype)
        self.matrices = {spec.name: self.tape.matrix(*spec.shape) for spec in self.specs}
        for name, weights in initial_weights(config, vocab_size).items():
            self.matrices[name].values[:] = weights.astype(dtype)
        self.model = MODELS[config.model_kind](config, self.matrices)
        self.optimizer = ScalarOptimizer(config, self.specs, self.matrices)
        self._token_bytes = token_bytes.tolist()
        self._healthy = True

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> FinishedStep:
        loss = 0.0
        for batch in microbatches:
            for losses in self._losses_by_row(batch):
                if losses:
                    row_loss = (1 / batch.global_targets) * total(losses)
                    row_loss.backward()
                    loss += row_loss.data
        grad_norm = math.sqrt(sum(float(np.vdot(m.grads, m.grads)) for m in self.matrices.values()))
        self._healthy = self._healthy and math.isfinite(loss) and math.isfinite(grad_norm)
        if self._healthy:
            self.optimizer.step(settings, grad_norm)
        for matrix in self.matrices.values():
            matrix.zero_grad()
        return FinishedStep(StepMetrics(loss=loss, grad_norm=grad_norm))

    def sums(self, batch: Batch) -> LossSums:
        nats = byte_nats = 0.0
        targets = n_bytes = 0
        with self._no_grad():
            for losses, row in zip(self._losses_by_row(batch), batch.targets, strict=True):
                counted = row[row != IGNORE].tolist()
                for loss, target in zip(losses, counted, strict=True):
                    nats += loss.data
                    targets += 1
                    if self._token_bytes[target]:
                        byte_nats += loss.data
                        n_bytes += self._token_bytes[target]
        return LossSums(nats, targets, byte_nats, n_bytes)

    def _losses_by_row(self, batch: Batch) -> Iterator[list[Value]]:
        """The losses of each row's targets; a row's graph lives until the next is asked for."""
        columns = (batch.inputs, batch.targets, batch.positions, batch.segments)
        for row, length in enumerate(batch.lengths.tolist()):
            tokens, targets, positions, segments = (c[row, :length].tolist() for c in columns)
            losses = []
            cache, segment = None, None
            for token, target, position, here in zip(
                tokens, targets, positions, segments, strict=True
            ):
                if here != segment:
                    cache, segment = self.model.new_cache(), here
                logits = self.model.logits(token, position, cache)
                if target != IGNORE:
                    losses.append(cross_entropy(logits, target))
            yield losses

    def _no_grad(self) -> AbstractContextManager[None]:
        return self.tape.no_grad()

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> ScalarDecoder:
        return ScalarDecoder(self.model, self.tape, self.config, prompts)

    def state_dict(self) -> EngineState:
        dtype = np.dtype(self.tape.dtype)
        weights = {name: matrix.values.astype(dtype) for name, matrix in self.matrices.items()}
        return EngineState(weights=weights, optimizer=self.optimizer.state_dict(dtype))

    def load_state_dict(self, state: EngineState) -> None:
        check_shapes(state.weights, {spec.name: spec.shape for spec in self.specs}, "weight")
        self.optimizer.load_state_dict(state.optimizer)
        for name, matrix in self.matrices.items():
            matrix.values[:] = state.weights[name].astype(self.tape.dtype)

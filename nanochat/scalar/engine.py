"""The scalar engine: the models of this package as recorded programs, behind the engine Protocol.

A model is written in scalars, recorded once and replayed in C++ (replay.py). If a program is not
possible, the same model runs on the tape, node by node, with the exact numerics. That is the case
for exact numerics in float32 or with a gradient order that no program has, and for a recording
that is too large for memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch, StepRows
from nanochat.errors import UnsupportedOption
from nanochat.model.model_file import ModelFile, changes_of
from nanochat.model.parameters import GROUPS, initial_weights, output_size, parameter_specs
from nanochat.model.state import check_shapes
from nanochat.ngram.share import (
    given_share,
    mixed_losses,
    mixture_parts,
    shares_of_parts,
    start_offset,
)
from nanochat.scalar.average import ParameterAverage
from nanochat.scalar.decoder import ReplayDecoder, ScalarDecoder
from nanochat.scalar.functions import cross_entropy, mixed_cross_entropy, total
from nanochat.scalar.optimizer import ScalarOptimizer
from nanochat.scalar.own_model import model_of
from nanochat.scalar.replay import MOST_NODES, Replay, first_positions, recorded_nodes, segments_of
from nanochat.scalar.value import Tape, Value
from nanochat.training.average import saved_average, split_average
from nanochat.training.engine import (
    RECORDED,
    BlockMetrics,
    Decoder,
    EngineState,
    StepMetrics,
    StepSettings,
)

__all__ = ["ScalarEngine"]


class FinishedStep:
    """A step whose metrics are already computed."""

    def __init__(self, metrics: StepMetrics) -> None:
        self._metrics = metrics

    def read(self) -> StepMetrics:
        return self._metrics


class _Recording:
    """What a step does to the watched parameters, (watched, len(RECORDED)).

    All arrays are flat, in the order of the specs.
    """

    def __init__(
        self,
        watched: NDArray[np.int64],
        weights: NDArray[np.floating],
        gradients: NDArray[np.floating],
    ) -> None:
        self.watched = watched
        self.numbers = np.full((len(watched), len(RECORDED)), np.nan)
        self.numbers[:, 0], self.numbers[:, 1] = weights[watched], gradients[watched]

    def finish(self, weights: NDArray[np.floating], *moments: NDArray[np.floating]) -> None:
        """Add what the update has left."""
        for column, moment in enumerate(moments, start=2):
            self.numbers[:, column] = moment[self.watched]
        self.numbers[:, 4] = weights[self.watched].astype(np.float64) - self.numbers[:, 0]


def _metrics(loss: float, grad_norm: float, recorded: _Recording | None) -> StepMetrics:
    numbers = recorded.numbers if recorded else None
    return StepMetrics(loss=loss, grad_norm=grad_norm, recorded=numbers)


def _flat(arrays: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])


class ScalarEngine:
    """One scalar model with its optimizer. dtype: 'float64' or 'float32'."""

    mode = "scalar"
    backend = "cpp-program"  # "cpp-tape" if a program is not possible
    device = "cpu"

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        *,
        dtype: str,
        longest: int = 0,  # positions of the longest segment; 0: unknown, grow on demand
        own: ModelFile | None = None,  # of the config
    ) -> None:
        self.config = config
        self._start_offset = start_offset(vocab_size)
        self.share = given_share(config.ngram_share)
        changes = changes_of(own, config)
        self.specs = parameter_specs(config, vocab_size, changes)
        self._shapes = {spec.name: spec.shape for spec in self.specs}
        self.tape = Tape(dtype)
        self.matrices = {spec.name: self.tape.matrix(*spec.shape) for spec in self.specs}
        for name, weights in initial_weights(config, vocab_size, changes).items():
            self.matrices[name].values[:] = weights.astype(dtype)
        self.model = model_of(own, config, self.matrices)
        self.optimizer = ScalarOptimizer(config, self.specs)
        self._average = ParameterAverage(self.specs, config.ema, dtype) if config.ema else None
        self._restart_average()
        self._healthy = True
        self._replay: Replay | None = None
        self._open_replay(vocab_size, longest)

    def _open_replay(self, vocab_size: int, longest: int) -> None:
        """Record the program, unless only the tape computes these numerics."""
        exact = self.config.numerics == "exact"
        if exact and self.tape.dtype == "float32":
            self.backend = "cpp-tape"
            return
        self._replay = Replay(
            self.model, self.tape, self.matrices,
            numerics=self.config.numerics, outputs=output_size(self.config, vocab_size),
            share_offset=self._start_offset if self.config.ngram_order else None,
            threads=self.config.threads,
        )  # fmt: skip
        self._reserve(longest or first_positions(self.config, self._shapes))

    def program_text(self) -> str | None:
        """Return a C program that trains the network from its present weights, without counts; None
        for a network that is too large to record, or numerics that only the tape has."""
        config, longest = self.config, self.config.block_size
        from nanochat.scalar.program import compile  # noqa: A004  # training needs only the replay

        is_too_large = recorded_nodes(config, self._shapes, longest) > MOST_NODES
        if is_too_large or (config.numerics == "exact" and self.tape.dtype == "float32"):
            return None

        def losses(tokens: list[Any]) -> list[Value]:
            cache, found = self.model.new_cache(), []
            for position, (token, target) in enumerate(pairwise(tokens)):
                logits = self.model.logits(token, position, cache)
                by_network = logits[:-1] if config.ngram_order else logits
                found.append(cross_entropy(by_network, target))
            return found

        program = compile(
            losses, self.matrices, tokens=longest + 1, numerics=config.numerics,
            dtype=self.tape.dtype, tape=self.tape,
        )  # fmt: skip
        return program.to_c()

    def _reserve(self, longest: int) -> Replay | None:
        """Return the program for at least `longest` positions, or None for the tape."""
        replay = self._replay
        if replay is None or longest <= replay.positions:
            return replay
        # Multiples of 8: a slightly longer segment then needs no new recording.
        positions = min(-(-longest // 8) * 8, max(longest, self.config.block_size))
        if recorded_nodes(self.config, self._shapes, positions) > MOST_NODES:
            self._leave_replay()
            return None
        replay.reserve(positions)
        if self.config.numerics == "exact" and not replay.ordered:
            self._leave_replay()  # no program has this gradient order
            return None
        return replay

    def _replay_for(self, batches: Sequence[Batch]) -> Replay | None:
        """Return the program for the longest segment of these batches, or None for the tape."""
        replay = self._replay
        if replay is None or max([batch.inputs.shape[1] for batch in batches]) <= replay.positions:
            return replay  # no segment is longer than its row
        return self._reserve(max(int(batch.positions.max(initial=0)) for batch in batches) + 1)

    def _leave_replay(self) -> None:
        assert self._replay is not None
        if self._replay.positions:
            self.optimizer.copy_moments_from(self._replay.core)
        self._replay, self.backend = None, "cpp-tape"

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> FinishedStep:
        replay = self._replay_for(microbatches)
        if replay is None:
            return self._step_on_tape(microbatches, settings)
        replay.core.load()  # a user may have written to the matrices
        loss, fresh = 0.0, True
        for batch in microbatches:
            scale = 1 / batch.global_targets if batch.global_targets else 0.0
            segments = segments_of(batch, replay.positions)
            for segment_loss in replay.backward(segments, scale, accumulate=not fresh):
                loss += scale * segment_loss
            fresh = False
        grad_norm = math.sqrt(replay.core.grad_sum_of_squares())
        recorded = None
        if self._is_healthy(loss, grad_norm):
            core = replay.core
            if settings.watched is not None:
                recorded = _Recording(settings.watched, core.values, core.gradients)
            self.optimizer.step_program(core, settings, grad_norm)
            if recorded is not None:
                recorded.finish(core.values, *self.optimizer.moments_in(core))
            replay.core.store()
            if self._average is not None:
                self._average.update(replay.core.values, self.optimizer.steps)
        return FinishedStep(_metrics(loss, grad_norm, recorded))

    def steps(
        self,
        rows: StepRows,
        rates: NDArray[np.float64],
        watched: NDArray[np.int64] | None = None,
    ) -> BlockMetrics:
        """Take the same steps as by calls of step(), in one call of C++ if a program can."""
        replay = self._replay_for([rows.batch])
        if replay is None or self._average is not None or not self._healthy:
            return self._steps_one_by_one(rows, rates, watched)
        replay.core.load()
        segments = segments_of(rows.batch, replay.positions)
        steps, micro = len(rows.targets), rows.grad_accum
        documents = segments.count_per(rows.batch_size, steps * micro).reshape(steps, micro)
        scales = np.divide(1.0, rows.targets, out=np.zeros(steps), where=rows.targets > 0)
        losses, grad_norms, taken, recorded = replay.steps(
            segments, np.repeat(scales, documents.sum(axis=1)), documents=documents,
            watched=None if watched is None else watched.astype(np.int32),
            **self.optimizer.block_options(rates),
        )  # fmt: skip
        self.optimizer.steps += taken
        self._healthy = taken == steps
        replay.core.store()
        return BlockMetrics(
            losses=losses[: taken + 1].tolist(), grad_norms=grad_norms[: taken + 1].tolist(),
            recorded=None if watched is None else recorded[:taken],
        )  # fmt: skip

    def _steps_one_by_one(
        self, rows: StepRows, rates: NDArray[np.float64], watched: NDArray[np.int64] | None
    ) -> BlockMetrics:
        losses, grad_norms, recorded = [], [], []
        for index, by_group in enumerate(rates.tolist()):
            lr = dict(zip(GROUPS, by_group, strict=True))
            metrics = self.step(
                rows.microbatches(index), StepSettings(lr=lr, watched=watched)
            ).read()
            losses.append(metrics.loss)
            grad_norms.append(metrics.grad_norm)
            if not self._healthy:
                break
            if metrics.recorded is not None:
                recorded.append(metrics.recorded)
        return BlockMetrics(
            losses=losses, grad_norms=grad_norms,
            recorded=None if watched is None or not recorded else np.stack(recorded),
        )  # fmt: skip

    def _step_on_tape(self, microbatches: Sequence[Batch], settings: StepSettings) -> FinishedStep:
        loss = 0.0
        for batch in microbatches:
            for losses in self._losses_by_row(batch):
                if losses:
                    row_loss = (1 / batch.global_targets) * total(losses)
                    row_loss.backward()
                    loss += row_loss.data
        grad_norm = math.sqrt(sum(float(np.vdot(m.grads, m.grads)) for m in self.matrices.values()))
        recorded = None
        if self._is_healthy(loss, grad_norm):
            if settings.watched is not None:
                gradients = _flat([matrix.grads for matrix in self.matrices.values()])
                recorded = _Recording(settings.watched, self._flat_weights(), gradients)
            self.optimizer.step(self.matrices, settings, grad_norm)
            if recorded is not None:
                recorded.finish(self._flat_weights(), *self.optimizer.flat_moments())
            if self._average is not None:
                values = self._flat_weights().astype(self.tape.dtype)
                self._average.update(values, self.optimizer.steps)
        for matrix in self.matrices.values():
            matrix.zero_grad()
        return FinishedStep(_metrics(loss, grad_norm, recorded))

    def _flat_weights(self) -> NDArray[np.float64]:
        return _flat([matrix.values for matrix in self.matrices.values()])

    def _is_healthy(self, loss: float, grad_norm: float) -> bool:
        self._healthy = self._healthy and math.isfinite(loss) and math.isfinite(grad_norm)
        return self._healthy

    def token_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        if self.config.ngram_order:
            assert batch.by_counts is not None  # Dataset.by_counts
            network, gate = np.moveaxis(self.mixture_parts(batch), -1, 0)
            losses = mixed_losses(network, self.share.of(gate), batch.by_counts.astype(np.float64))
            return np.where(batch.targets == IGNORE, 0.0, losses)
        nats = np.zeros(batch.targets.shape)
        counted = batch.targets != IGNORE
        replay = self._replay_for([batch])
        if replay is None:
            with self.tape.no_grad():
                rows = [[loss.data for loss in losses] for losses in self._losses_by_row(batch)]
            nats[counted] = [loss for row in rows for loss in row]
            return nats
        replay.core.load()
        nats[batch.segments >= 0] = replay.losses(segments_of(batch, replay.positions))
        nats[~counted] = 0.0
        return nats

    def network_losses(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length) nats
        return self.mixture_parts(batch)[..., 0]

    def token_shares(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length, 2)
        network, gate = np.moveaxis(self.mixture_parts(batch), -1, 0)
        return shares_of_parts(network, self.share.of(gate))

    def mixture_parts(self, batch: Batch) -> NDArray[np.float64]:  # (rows, length, 2)
        parts = np.zeros((*batch.targets.shape, 2))
        replay = self._replay_for([batch])
        if replay is None:
            with self.tape.no_grad():
                for row, by_column in enumerate(self._logits_by_row(batch)):
                    for column, target, _, logits in by_column:
                        values = np.array([logit.data for logit in logits])
                        parts[row, column] = mixture_parts(values, np.int64(target))
        else:
            replay.core.load()
            parts[batch.segments >= 0] = replay.mixture_parts(segments_of(batch, replay.positions))
            parts[batch.targets == IGNORE] = 0.0
        parts[..., 1] += self._start_offset
        return parts

    def numbers_of(self, document: Batch) -> dict[str, NDArray[np.float64]]:
        """Return what the program computes of one document: `logits`, `losses`, and for a network
        without counts the gradients of the mean loss, as `gradient of wte`.

        Raises UnsupportedOption if these numerics have no program for the model.
        """
        replay = self._replay_for([document])
        if replay is None:
            raise UnsupportedOption(
                f"numerics {self.config.numerics} has no program of this model in {self.tape.dtype}"
            )
        replay.core.load()
        segments = segments_of(document, replay.positions)
        numbers = {"logits": replay.logits(segments), "losses": self.token_losses(document)[0]}
        if not self.config.ngram_order:
            replay.backward(segments, 1 / document.global_targets, accumulate=False)
            ends = np.cumsum([math.prod(spec.shape) for spec in self.specs])
            pieces = np.split(replay.core.gradients.astype(np.float64), ends[:-1])
            for spec, piece in zip(self.specs, pieces, strict=True):
                numbers[f"gradient of {spec.name}"] = piece.reshape(spec.shape)
        return numbers

    def move_towards(self, weights: Mapping[str, NDArray[np.floating]], share: float) -> None:
        for name, matrix in self.matrices.items():
            matrix.values[:] += share * (weights[name].astype(self.tape.dtype) - matrix.values)

    def _weights(self) -> dict[str, NDArray[np.floating]]:
        """Return copies of the weights by name, in the tape's dtype."""
        dtype = np.dtype(self.tape.dtype)
        return {name: matrix.values.astype(dtype) for name, matrix in self.matrices.items()}

    def _set_weights(self, weights: Mapping[str, NDArray[np.floating]]) -> None:
        for name, matrix in self.matrices.items():
            matrix.values[:] = weights[name].astype(self.tape.dtype)
        if self._replay is not None and self._replay.positions:
            self._replay.core.load()

    def _restart_average(self) -> None:
        if self._average is not None:
            self._average.load(self._weights())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if self._average is None:
            yield
            return
        weights = self._weights()
        self._set_weights(self._average.arrays())
        try:
            yield
        finally:
            self._set_weights(weights)

    def notes(self) -> Sequence[str]:
        if self.backend != "cpp-tape":
            return ()
        note = (
            "the model is too large to be recorded as a program; each step runs on the tape, which"
            " is many times slower; lower n_embd, n_layer or block_size, or use mode tensor"
        )
        if self.config.numerics == "exact":
            note = (
                "numerics exact has no program for this model and dtype; each step runs on the"
                " tape, which is many times slower"
            )
        return (note,)

    def _losses_by_row(self, batch: Batch) -> Iterator[list[Value]]:
        """Yield the losses of each row's targets. A row's graph is freed before the next row."""
        for row in self._logits_by_row(batch):
            yield [
                mixed_cross_entropy(logits, target, counted, self._start_offset)
                if self.config.ngram_order
                else cross_entropy(logits, target)
                for _, target, counted, logits in row
            ]

    def _logits_by_row(
        self, batch: Batch
    ) -> Iterator[list[tuple[int, int, float, Sequence[Value]]]]:
        """Yield each row's columns with a target: column, target, by_counts and logits."""
        by_counts = batch.by_counts
        if by_counts is None:
            by_counts = np.ones(batch.inputs.shape, dtype=np.float32)
        columns = (batch.inputs, batch.targets, batch.positions, batch.segments, by_counts)
        for row, length in enumerate(batch.lengths.tolist()):
            by_column = zip(*(c[row, :length].tolist() for c in columns), strict=True)
            found = []
            cache, segment = None, None
            for column, (token, target, position, token_segment, counted) in enumerate(by_column):
                if token_segment != segment:
                    cache, segment = self.model.new_cache(), token_segment
                logits = self.model.logits(token, position, cache)
                if target != IGNORE:
                    found.append((column, target, counted, logits))
            yield found

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        if self._replay is not None:
            window = self.config.block_size
            if recorded_nodes(self.config, self._shapes, window) <= MOST_NODES:
                self._replay.core.load()
                return ReplayDecoder(self._replay, self.model, self.tape, self.config, prompts)
        return ScalarDecoder(self.model, self.tape, self.config, prompts)

    def state_dict(self) -> EngineState:
        dtype = np.dtype(self.tape.dtype)
        if self._replay is not None:
            self.optimizer.copy_moments_from(self._replay.core)
        optimizer = self.optimizer.state_dict(dtype)
        if self._average is not None:
            optimizer.update(saved_average(self._average.arrays()))
        return EngineState(weights=self._weights(), optimizer=optimizer, share=self.share)

    def load_state_dict(self, state: EngineState) -> None:
        shapes = {spec.name: spec.shape for spec in self.specs}
        check_shapes(state.weights, shapes, "weight")
        optimizer = state.optimizer
        average: Mapping[str, NDArray[np.floating]] = {}
        if self._average is not None and optimizer:
            average, optimizer = split_average(optimizer)
            check_shapes(average, shapes, "averaged weight")
        self.optimizer.load_state_dict(optimizer)
        self._set_weights(state.weights)
        self.share = state.share
        self._restart_average()
        if self._average is not None and average:
            self._average.load(average)
        if self._replay is not None:
            self.optimizer.copy_moments_to(self._replay.core)

"""Blocks: the steps between two looks of the loop at the clock, the signals and the cadence.

An engine that can take several steps per call takes them in blocks of about BLOCK_S, up to the next
step at which the loop has other work. Other engines take one step per block, which may still run
when the next one starts. The size of a block decides nothing that is computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batcher, BlockBatcher
from nanochat.model.parameters import GROUPS
from nanochat.training.engine import BlockEngine, BlockMetrics, Engine, StepResult, StepSettings
from nanochat.training.history import Recorder
from nanochat.training.pace import Pace, StepPace

__all__ = ["Block", "Blocks", "step_settings"]

BLOCK_S = 0.02  # a request to stop waits no longer
LARGEST_BLOCK = 1 << 14  # steps


def step_settings(
    config: TrainConfig,
    step: int,
    *,
    stop: bool = False,
    pace: Pace | None = None,
    watched: NDArray[np.int64] | None = None,
) -> StepSettings:
    """Return the settings of one step, from 0, by the config's schedule at a pace."""
    multiplier = (pace or StepPace(config)).lr_multiplier(step)
    rates = [peak * multiplier for peak in _peaks(config)]
    lr = dict(zip(GROUPS, rates, strict=True))
    return StepSettings(lr=lr, stop=stop, watched=watched)


def _peaks(config: TrainConfig) -> list[float]:
    """Return the peak learning rate of each group."""
    peaks = {"matrix": config.matrix_lr, "head": config.head_lr}
    return [peaks.get(group) or config.lr for group in GROUPS]


class _Result(Protocol):
    def read(self) -> BlockMetrics: ...


@dataclass(frozen=True, slots=True)
class _OneStep:
    result: StepResult

    def read(self) -> BlockMetrics:
        metrics = self.result.read()
        return BlockMetrics(
            losses=[float(metrics.loss)], grad_norms=[float(metrics.grad_norm)], stop=metrics.stop,
            recorded=None if metrics.recorded is None else metrics.recorded[None],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Finished:
    metrics: BlockMetrics

    def read(self) -> BlockMetrics:
        return self.metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Steps that have been started."""

    first: int  # number of the first step, from 1
    rates: Sequence[Sequence[float]]  # learning rates of each step, by the order of GROUPS
    tokens: Sequence[int]  # targets of each step
    watched: NDArray[np.int64] | None  # as in StepSettings
    result: _Result


class Blocks:
    """Starts the blocks of a run."""

    def __init__(
        self,
        engine: Engine,
        config: TrainConfig,
        batcher: Batcher,
        pace: Pace,
        clock: Callable[[], float] = time.perf_counter,
        recorder: Recorder | None = None,
    ) -> None:
        self._engine, self._config, self._batcher = engine, config, batcher
        self._pace, self._clock, self._recorder = pace, clock, recorder
        self._by_block: tuple[BlockEngine, BlockBatcher] | None = None
        if isinstance(engine, BlockEngine) and isinstance(batcher, BlockBatcher):
            self._by_block = engine, batcher
        self._size = 1  # steps that take about BLOCK_S

    def start(
        self,
        step: int,  # steps begun so far
        *,
        until: float,  # the step at which the loop has other work
        stop: bool,
    ) -> Block:
        """Start the next step or, if the engine can, several."""
        watched = self._recorder.watched(step + 1) if self._recorder else None
        settings = step_settings(self._config, step, stop=stop, pace=self._pace, watched=watched)
        if self._by_block is None:
            microbatches = self._batcher.step(step)
            result = self._engine.step(microbatches, settings)
            return Block(
                first=step + 1, rates=[[settings.lr[group] for group in GROUPS]],
                tokens=[microbatches[0].global_targets], watched=watched, result=_OneStep(result),
            )  # fmt: skip
        engine, batcher = self._by_block
        began = self._clock()
        end = min(until, self._pace.next_look(step), step + self._size)
        is_cut = False
        if self._recorder and (last := self._recorder.end_of_block(step + 1) - 1) < end:
            end, is_cut = last, True
        rows = batcher.steps(step, int(end) - step)
        count = len(rows.targets)
        rates = np.outer(self._pace.lr_multipliers(step, count), _peaks(self._config))
        metrics = engine.steps(rows, rates, watched)
        if not is_cut:  # a short block says little of a step
            self._measure(count, self._clock() - began)
        return Block(
            first=step + 1, rates=rates.tolist(), tokens=rows.targets.tolist(), watched=watched,
            result=_Finished(metrics),
        )  # fmt: skip

    def _measure(self, steps: int, seconds: float) -> None:
        """Choose the size of the next block. It at most doubles, because first steps are slower."""
        fitting = BLOCK_S * steps / seconds if seconds > 0 else math.inf
        self._size = int(max(1, min(fitting, 2 * self._size, LARGEST_BLOCK)))

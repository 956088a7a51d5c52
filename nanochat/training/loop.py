"""The one training loop, for every engine: steps, cadence, log, checkpoints, guards.

Owns the order of events. It knows no model, no file format and no terminal: the caller passes an
engine, batches and callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch, Batcher
from nanochat.errors import RunInterrupted
from nanochat.model.parameters import GROUPS
from nanochat.model.state import TrainerState
from nanochat.training.cadence import Cadence
from nanochat.training.deadline import Pace, StepPace
from nanochat.training.engine import Engine, StepResult, StepSettings
from nanochat.training.guards import MemoryGuard, check_finite
from nanochat.training.metrics import JsonlWriter, LossTotals, NullWriter, RecentLosses, Stopwatch

__all__ = ["EvalMetrics", "LoopResult", "Observer", "evaluate", "step_settings", "train"]

RECENT = 50  # losses in mean_loss_last_50


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalMetrics:
    """The score of the evaluation set after `step` steps; None where nothing can be scored."""

    step: int
    loss: float | None  # nats per target
    bpb: float | None  # bits per byte of raw text
    train_loss: float | None = None  # mean over the steps since the evaluation before
    tokens_per_s: float = 0.0  # of training alone
    elapsed_s: float = 0.0  # of training alone
    left_s: float | None = None  # estimate until the last step, evaluations included
    is_best: bool = False  # the lowest validation loss so far


class Observer(Protocol):
    """Receives the progress of a run; it cannot change the run."""

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None: ...

    def evaluated(self, metrics: EvalMetrics) -> None: ...


@dataclass(slots=True)
class LoopResult:
    """Where training ended."""

    evaluation: EvalMetrics
    final_loss: float | None
    mean_loss_last_50: float | None
    steps: int
    tokens: int
    elapsed_s: float  # training alone: no evaluation, no saving


def step_settings(
    config: TrainConfig, step: int, *, stop: bool = False, pace: Pace | None = None
) -> StepSettings:
    """Return the settings of one step, from 0, by the config's schedule at a pace."""
    multiplier = (pace or StepPace(config)).lr_multiplier(step)
    peaks = {"matrix": config.matrix_lr, "head": config.head_lr}
    lr = {group: (peaks.get(group) or config.lr) * multiplier for group in GROUPS}
    return StepSettings(lr=lr, stop=stop)


def evaluate(
    engine: Engine,
    batches: Sequence[Batch],
    token_bytes: NDArray[np.int64],  # (vocab,) raw bytes per token
    step: int,
) -> EvalMetrics:
    """Score the batches: loss and bits per byte."""
    totals = LossTotals(token_bytes)
    for batch in batches:
        totals.add(engine.token_losses(batch), batch.targets)
    return EvalMetrics(step=step, loss=totals.loss, bpb=totals.bpb)


def train(
    engine: Engine,
    config: TrainConfig,
    batcher: Batcher,
    evaluation_set: Sequence[Batch],
    token_bytes: NDArray[np.int64],  # (vocab,) raw bytes per token
    *,
    log: JsonlWriter | NullWriter,
    save: Callable[[TrainerState], str],  # saves a checkpoint, returns its name
    observer: Observer,
    start: TrainerState | None = None,
    last_checkpoint: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: int = 1,  # processes that train this model together
    pace: Pace | None = None,  # None: config.steps
    clock: Callable[[], float] = time.perf_counter,
) -> LoopResult:
    """Train from `start`, or from the initial weights, until the pace ends the run.

    A step's log line is written when the step is read. At most one step is in flight, which
    keeps the device busy while the host writes. Several processes agree on the step after which
    they stop: the request of one travels with the gradients to all.

    Raises NonFiniteStep before a bad update, RunInterrupted after saving when `stop()` is true in
    any process, MemoryDrift, OutputError.
    """
    pace = pace or StepPace(config)
    cadence = Cadence(pace.steps, config.eval_every, config.checkpoint_every)
    guard = MemoryGuard(config.memory_drift)
    progress = _Progress(
        step=start.step if start else 0,
        recent=RecentLosses(RECENT, start.last_losses if start else ()),
        stopwatch=Stopwatch(clock, elapsed_s=start.elapsed_s if start else 0.0),
        tokens=start.tokens if start else 0,
        last_checkpoint=last_checkpoint,
    )
    evaluation = None
    while True:
        requested = stop()
        if world == 1:
            progress.stopping = requested
        last = pace.ends(progress.step, progress.stopwatch.elapsed_s)
        evaluates = last or cadence.evaluates(progress.step)
        saves = last or cadence.checkpoints(progress.step)
        if progress.stopping or evaluates or saves:
            with progress.stopwatch:  # the wait for the step in flight counts as training
                _read_steps(progress, log, observer)
            resumed_here = start is not None and progress.step == start.step
            if (progress.stopping or saves) and not resumed_here:
                progress.last_checkpoint = save(_trainer_state(progress, log))
        if progress.stopping:
            raise RunInterrupted(
                f"stopped after step {progress.step}; saved {progress.last_checkpoint}"
            )
        if evaluates:
            guard.observe()
            evaluation = evaluate(engine, evaluation_set, token_bytes, progress.step)
            _report_evaluation(evaluation, log, observer)
        if last:
            break
        with progress.stopwatch:
            settings = step_settings(config, progress.step, stop=requested, pace=pace)
            _start_step(engine, batcher, settings, progress)
            _read_steps(progress, log, observer, leave=1)
    assert evaluation is not None and evaluation.step == progress.step  # the cadence's promise
    return _result(progress, evaluation)


@dataclass(slots=True)
class _Progress:
    """What changes from step to step, apart from the engine's own state."""

    step: int  # steps begun
    recent: RecentLosses
    stopwatch: Stopwatch
    tokens: int
    last_checkpoint: str | None
    stopping: bool = False  # agreed by all processes
    in_flight: list[tuple[int, float, int, StepResult]] = field(default_factory=list)


def _start_step(
    engine: Engine, batcher: Batcher, settings: StepSettings, progress: _Progress
) -> None:
    microbatches = batcher.step(progress.step)
    result = engine.step(microbatches, settings)
    progress.step += 1
    tokens = microbatches[0].global_targets
    progress.in_flight.append((progress.step, settings.lr[GROUPS[0]], tokens, result))


def _read_steps(
    progress: _Progress, log: JsonlWriter | NullWriter, observer: Observer, leave: int = 0
) -> None:
    """Read the steps in flight, oldest first, until `leave` remain."""
    while len(progress.in_flight) > leave:
        step, lr, tokens, result = progress.in_flight.pop(0)
        metrics = result.read()
        check_finite(metrics, step, progress.last_checkpoint)
        progress.recent.add(metrics.loss)
        progress.tokens += tokens
        progress.stopping = progress.stopping or metrics.stop
        record: dict[str, Any] = {"kind": "step", "step": step, "loss": metrics.loss}
        log.write({**record, "grad_norm": metrics.grad_norm, "lr": lr})
        elapsed_s = max(progress.stopwatch.elapsed_s, 1e-9)
        observer.stepped(step, metrics.loss, progress.tokens / elapsed_s)


def _report_evaluation(
    metrics: EvalMetrics, log: JsonlWriter | NullWriter, observer: Observer
) -> None:
    record = {"kind": "eval", "step": metrics.step, "val_loss": metrics.loss}
    log.write({**record, "val_bpb": metrics.bpb})
    observer.evaluated(metrics)


def _trainer_state(progress: _Progress, log: JsonlWriter | NullWriter) -> TrainerState:
    return TrainerState(
        step=progress.step,
        last_losses=progress.recent.values,
        tokens=progress.tokens,
        elapsed_s=progress.stopwatch.elapsed_s,
        metrics_length=log.length,
    )


def _result(progress: _Progress, evaluation: EvalMetrics) -> LoopResult:
    losses = progress.recent.values
    return LoopResult(
        evaluation=evaluation,
        final_loss=losses[-1] if losses else None,
        mean_loss_last_50=progress.recent.mean,
        steps=progress.step,
        tokens=progress.tokens,
        elapsed_s=progress.stopwatch.elapsed_s,
    )

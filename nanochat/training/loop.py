"""The one training loop, for every engine: steps, cadence, log, checkpoints, guards.

It owns the order of things and knows no model, no file format and no terminal: the caller hands
in an engine, batches and three callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch, Batcher
from nanochat.errors import RunInterrupted
from nanochat.model.parameters import GROUPS
from nanochat.model.state import TrainerState
from nanochat.training.cadence import Cadence
from nanochat.training.engine import Engine, StepResult, StepSettings
from nanochat.training.guards import MemoryGuard, check_finite
from nanochat.training.metrics import JsonlWriter, LossTotals, RecentLosses, Stopwatch
from nanochat.training.schedule import lr_multiplier

__all__ = ["Evaluation", "LoopResult", "Observer", "evaluate", "step_settings", "train"]

RECENT = 50  # losses in mean_loss_last_50


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The fixed evaluation set, scored after `step` steps; None where there is nothing to score."""

    step: int
    loss: float | None  # nats per target
    bpb: float | None  # bits per byte of raw text


class Observer(Protocol):
    """What a person or a program may watch; nothing it does changes the run."""

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None: ...

    def evaluated(self, evaluation: Evaluation) -> None: ...


@dataclass(slots=True)
class LoopResult:
    """Where training ended."""

    evaluation: Evaluation
    final_loss: float | None
    mean_loss_last_50: float | None
    steps: int
    tokens: int
    elapsed_s: float  # training alone: no evaluation, no saving


@dataclass(slots=True)
class _Progress:
    """What changes from step to step beside the engine's own state."""

    step: int
    recent: RecentLosses
    watch: Stopwatch
    tokens: int
    last_checkpoint: str | None
    pending: list[tuple[int, float, int, StepResult]] = field(default_factory=list)


def step_settings(config: TrainConfig, step: int) -> StepSettings:
    """The settings of one step, from 0, by the config's schedule."""
    multiplier = lr_multiplier(
        config.lr_schedule, step, config.steps, warmup_ratio=config.warmup_ratio,
        warmdown_ratio=config.warmdown_ratio, final_lr_frac=config.final_lr_frac,
    )  # fmt: skip
    peaks = {"matrix": config.matrix_lr, "head": config.head_lr}
    return StepSettings(
        lr={group: (peaks.get(group) or config.lr) * multiplier for group in GROUPS},
        weight_decay=dict.fromkeys(GROUPS, config.weight_decay),
        momentum=config.beta1,
        muon_momentum=config.muon_momentum,
        clip=config.grad_clip,
    )


def evaluate(engine: Engine, batches: Sequence[Batch], step: int) -> Evaluation:
    """Loss and bits per byte over the batches."""
    totals = LossTotals()
    for batch in batches:
        totals.add(engine.sums(batch))
    return Evaluation(step=step, loss=totals.loss, bpb=totals.bpb)


def train(
    engine: Engine,
    config: TrainConfig,
    batcher: Batcher,
    evaluation_set: Sequence[Batch],
    *,
    log: JsonlWriter,
    save: Callable[[TrainerState], str],  # writes a checkpoint, returns its name
    observer: Observer,
    start: TrainerState | None = None,
    last_checkpoint: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> LoopResult:
    """Train from `start` (or from nothing) to config.steps.

    The log line of a step is written when the step is read; at most one step is in flight, so
    that a device never waits for the host. Raises NonFiniteStep before a bad update is made,
    RunInterrupted after saving when `stop()` says so, MemoryDrift, OutputError.
    """
    cadence = Cadence(config.steps, config.eval_every, config.checkpoint_every)
    guard = MemoryGuard(config.memory_drift)
    at = _Progress(
        step=start.step if start else 0,
        recent=RecentLosses(RECENT, start.last_losses if start else ()),
        watch=Stopwatch(clock, elapsed_s=start.elapsed_s if start else 0.0),
        tokens=start.tokens if start else 0,
        last_checkpoint=last_checkpoint,
    )
    evaluation = None

    def pause(stopping: bool) -> Evaluation | None:
        """Everything that happens between steps, in its order: save, then evaluate."""
        with at.watch:  # the wait for the step in flight is training
            _drain(at, log, observer)
        resumed_here = start is not None and at.step == start.step
        if (cadence.checkpoints(at.step) or stopping) and not resumed_here:
            at.last_checkpoint = save(_trainer_state(at, log))
        if stopping or not cadence.evaluates(at.step):
            return None
        guard.observe()
        scored = evaluate(engine, evaluation_set, at.step)
        log.write({"kind": "eval", "step": at.step, "val_loss": scored.loss, "val_bpb": scored.bpb})
        observer.evaluated(scored)
        return scored

    while True:
        stopping = stop()
        if stopping or cadence.evaluates(at.step) or cadence.checkpoints(at.step):
            evaluation = pause(stopping) or evaluation
        if stopping:
            raise RunInterrupted(f"stopped after step {at.step}; saved {at.last_checkpoint}")
        if at.step == config.steps:
            break
        with at.watch:
            _take_step(engine, config, batcher, at)
            _drain(at, log, observer, leave=1)
    assert evaluation is not None and evaluation.step == config.steps  # the cadence's promise
    values = at.recent.values
    return LoopResult(
        evaluation=evaluation,
        final_loss=values[-1] if values else None,
        mean_loss_last_50=at.recent.mean,
        steps=at.step,
        tokens=at.tokens,
        elapsed_s=at.watch.elapsed_s,
    )


def _take_step(engine: Engine, config: TrainConfig, batcher: Batcher, at: _Progress) -> None:
    microbatches = batcher.step(at.step)
    settings = step_settings(config, at.step)
    result = engine.step(microbatches, settings)
    at.step += 1
    tokens = microbatches[0].global_targets
    at.pending.append((at.step, settings.lr[GROUPS[0]], tokens, result))


def _drain(at: _Progress, log: JsonlWriter, observer: Observer, leave: int = 0) -> None:
    """Read finished steps, oldest first, until `leave` are in flight."""
    while len(at.pending) > leave:
        step, lr, tokens, result = at.pending.pop(0)
        metrics = result.read()
        check_finite(metrics, step, at.last_checkpoint)
        at.recent.add(metrics.loss)
        at.tokens += tokens
        record: dict[str, Any] = {"kind": "step", "step": step, "loss": metrics.loss}
        log.write({**record, "grad_norm": metrics.grad_norm, "lr": lr})
        observer.stepped(step, metrics.loss, at.tokens / max(at.watch.elapsed_s, 1e-9))


def _trainer_state(at: _Progress, log: JsonlWriter) -> TrainerState:
    return TrainerState(
        step=at.step,
        last_losses=at.recent.values,
        tokens=at.tokens,
        elapsed_s=at.watch.elapsed_s,
        metrics_length=log.length,
    )

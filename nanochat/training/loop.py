"""The one training loop, for every engine: steps, cadence, log, checkpoints, guards.

Owns the order of events. It knows no model, no file format and no terminal: the caller passes an
engine, batches and callbacks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch, Batcher
from nanochat.errors import NanochatError, OutputError, RunInterrupted
from nanochat.model.state import TrainerState
from nanochat.training.blocks import Block, Blocks, step_settings
from nanochat.training.cadence import Cadence
from nanochat.training.engine import BlockMetrics, Engine, StepMetrics
from nanochat.training.guards import (
    MemoryGuard,
    check_finite,
    check_finite_loss,
    is_finite_loss,
    most_loss,
)
from nanochat.training.history import Recorder
from nanochat.training.metrics import JsonlWriter, LossTotals, NullWriter, RecentLosses, Stopwatch
from nanochat.training.pace import Pace, StepPace
from nanochat.training.saving import Best, Save, Saver
from nanochat.training.share import fit_share

__all__ = ["EvalMetrics", "LoopResult", "Observer", "evaluate", "step_settings", "train"]

RECENT = 50  # losses in mean_loss_last_50


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalMetrics:
    """The score of the evaluation set after `step` steps; None where nothing can be scored."""

    step: int
    loss: float | None  # nats per target
    bpb: float | None  # bits per byte of raw text
    train_loss: float | None = None  # mean over the steps since the evaluation before
    tokens: int = 0  # trained on so far
    tokens_per_s: float = 0.0  # of training alone
    elapsed_s: float = 0.0  # of training alone
    left_s: float | None = None  # estimate until the last step, evaluations included
    is_best: bool = False  # the lowest validation loss so far


class Observer(Protocol):
    """Receives the progress of a run; it cannot change the run."""

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Receive the last step of a block."""

    def evaluated(self, metrics: EvalMetrics) -> None:
        """Receive an evaluation."""


@dataclass(slots=True)
class LoopResult:
    """Where training ended."""

    evaluation: EvalMetrics  # the last one
    best: Best
    final_loss: float | None
    mean_loss_last_50: float | None
    steps: int
    tokens: int
    elapsed_s: float  # training alone: no evaluation, no saving
    stopped_early: bool = False  # by option patience
    was_ended: bool = False  # by goes_on


def evaluate(
    engine: Engine,
    batches: Iterable[Batch],
    token_bytes: NDArray[np.int64],  # (vocab,) raw bytes per token
    step: int,
    before_batch: Callable[[], None] = lambda: None,  # may raise, to end the evaluation
) -> EvalMetrics:
    """Score the batches: loss and bits per byte."""
    totals = LossTotals(token_bytes)
    for batch in batches:
        before_batch()
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
    save: Save,
    observer: Observer,
    start: TrainerState | None = None,
    last_checkpoint: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    world: int = 1,  # processes that train this model together
    pace: Pace | None = None,  # None: config.steps
    clock: Callable[[], float] = time.perf_counter,
    goes_on: Callable[[EvalMetrics], bool] = lambda _: True,
    fits_share: bool = False,
    recorder: Recorder | None = None,
) -> LoopResult:
    """Train from `start`, or from the initial weights, until the pace or patience ends the run.

    With `fits_share`, each evaluation first fits the share of the counts to the evaluation set,
    which must be held out. `goes_on` is asked after each evaluation. False ends the run as patience
    does; an exception ends it after this step is saved.

    Steps run in blocks, which are one step each unless the engine can take several per call
    (blocks.py). Their log lines are written when the block is read. At most one block is in flight,
    which keeps the device busy while the host writes. Several processes agree on the step after
    which they stop: the request of one travels with the gradients to all.

    Raises NonFiniteStep before a bad update and before a save of weights without a finite loss,
    RunInterrupted after saving when `stop()` is true in any process, MemoryDrift, OutputError. The
    best state is saved before any of them but the last. A single process that is asked to stop
    during an evaluation breaks it off; a resume repeats it.
    """
    pace = pace or StepPace(config)
    run = _Run(
        engine=engine,
        config=config,
        blocks=Blocks(engine, config, batcher, pace, clock, recorder),
        batcher=batcher,
        evaluation_set=evaluation_set,
        token_bytes=token_bytes,
        log=log,
        observer=observer,
        saver=Saver(save, engine, log, clock, last_checkpoint),
        pace=pace,
        clock=clock,
        goes_on=goes_on,
        fits_share=fits_share,
        recorder=recorder,
        world=world,
        progress=_started(start, clock),
        resumed_at=start.step if start else None,
    )
    try:
        return _train(run, stop)
    except OutputError:
        raise
    except NanochatError:
        run.saver.save_best()
        raise


def _train(run: _Run, stop: Callable[[], bool]) -> LoopResult:
    config, progress, saver = run.config, run.progress, run.saver
    cadence = Cadence(run.pace.steps, config.eval_every, config.checkpoint_every)
    guard = MemoryGuard(config.memory_drift)
    evaluation = None
    while True:
        requested = stop()
        if run.world == 1:
            progress.stopping = requested
        over = _is_over(run)
        evaluates = over or cadence.evaluates(progress.step)
        saves = over or (
            cadence.checkpoints(progress.step) and (config.checkpoint_every > 0 or saver.is_due)
        )
        if progress.stopping or evaluates or saves:
            with progress.stopwatch:  # the wait for the block in flight counts as training
                _read_blocks(run)
            trainer = _trainer_state(run)
            if progress.stopping:
                _stop(run, trainer)
            if evaluates:
                # One of several processes cannot leave an evaluation alone.
                evaluation = _evaluate(run, trainer, stop if run.world == 1 else lambda: False)
                over = _is_ended(run, evaluation, trainer) or over or _is_out_of_patience(run)
            if over and progress.best is None:  # nothing was scored
                progress.best = Best(progress.step, None)
                saver.hold_best(trainer, progress.best)
            if over or saves:
                _save(run, trainer)
            if evaluates:
                guard.observe()
        if over:
            break
        with progress.stopwatch:
            _start_block(run, cadence, requested)
            _read_blocks(run, leave=1)
    assert evaluation is not None and evaluation.step == progress.step  # of the last step
    return _result(run, evaluation)


class _StopAsked(Exception):
    """Leaves an evaluation; the engine has its own weights again where it is caught."""


def _stop(run: _Run, trainer: TrainerState) -> NoReturn:
    _save(run, trainer)
    raise RunInterrupted(f"stopped after step {trainer.step}; saved {run.saver.last_checkpoint}")


def _is_over(run: _Run) -> bool:
    """Decide whether the steps begun so far are all. Patience decides after an evaluation."""
    return run.pace.ends(run.progress.step, run.progress.stopwatch.elapsed_s)


def _is_out_of_patience(run: _Run) -> bool:
    return 0 < run.config.patience <= run.progress.misses


def _is_ended(run: _Run, metrics: EvalMetrics, trainer: TrainerState) -> bool:
    """Ask the caller whether to end the run. Save this step if the answer is an exception."""
    try:
        run.progress.was_ended = not run.goes_on(metrics)
    except BaseException:
        _save(run, trainer)
        raise
    return run.progress.was_ended


@dataclass(slots=True)
class _Progress:
    """What changes from step to step, apart from the engine's own state."""

    step: int  # steps begun
    recent: RecentLosses
    stopwatch: Stopwatch
    tokens: int
    best: Best | None
    misses: int  # evaluations since the best one
    interval_loss: float  # sum of the training losses since the last evaluation
    interval_steps: int
    scored: int | None = None  # the step of the last evaluation that scored anything
    stopping: bool = False  # agreed by all processes
    was_ended: bool = False  # by goes_on
    in_flight: list[Block] = field(default_factory=list)


def _started(start: TrainerState | None, clock: Callable[[], float]) -> _Progress:
    if start is None:
        start = TrainerState(step=0, last_losses=[], tokens=0, elapsed_s=0.0, metrics_length=0)
    return _Progress(
        step=start.step,
        recent=RecentLosses(RECENT, start.last_losses),
        stopwatch=Stopwatch(clock, elapsed_s=start.elapsed_s),
        tokens=start.tokens,
        best=None if start.best_step is None else Best(start.best_step, start.best_loss),
        misses=start.misses,
        interval_loss=start.interval_loss,
        interval_steps=start.interval_steps,
    )


@dataclass(slots=True, kw_only=True)
class _Run:
    """The parts of a run that its functions share."""

    engine: Engine
    config: TrainConfig
    blocks: Blocks
    batcher: Batcher
    evaluation_set: Sequence[Batch]
    token_bytes: NDArray[np.int64]
    log: JsonlWriter | NullWriter
    observer: Observer
    saver: Saver
    pace: Pace
    clock: Callable[[], float]
    goes_on: Callable[[EvalMetrics], bool]
    fits_share: bool
    recorder: Recorder | None
    world: int
    progress: _Progress
    resumed_at: int | None  # the step of the checkpoint that the run went on from
    began_s: float = field(init=False)
    began_at: int = field(init=False)
    most_loss: float = field(init=False)

    def __post_init__(self) -> None:
        self.most_loss = most_loss(len(self.token_bytes))
        self.began_s, self.began_at = self.clock(), self.progress.step

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of a time budget, or to the last step at the average pace of this
        process, evaluations included."""
        by_clock = self.pace.time_left_s()
        if by_clock is not None:
            return by_clock
        done = self.progress.step - self.began_at
        left = self.config.steps - self.progress.step
        if left == 0:
            return 0.0
        return (self.clock() - self.began_s) / done * left if done else None


def _save(run: _Run, trainer: TrainerState) -> None:
    """Save the best state if it is not on disk, then this one unless the run went on from it.

    Weights that no evaluation has scored are first tried on the batch of the next step: a
    checkpoint whose next step fails is not good.
    """
    if trainer.step == run.resumed_at:
        run.saver.save_best()
        return
    if trainer.step > run.began_at and run.progress.scored != trainer.step:
        _check_network(run, "training loss", run.batcher.step(trainer.step)[0])
    run.saver.save(trainer)


def _check_network(run: _Run, name: str, batch: Batch) -> None:
    """Raise NonFiniteStep unless the network alone has a finite loss on the batch. In a mixture,
    counts hide it."""
    mixes = run.config.ngram_order and run.config.model_kind != "ngram"
    losses = run.engine.network_losses if mixes else run.engine.token_losses
    totals = LossTotals(run.token_bytes)
    totals.add(losses(batch), batch.targets)
    _check_loss(run, name, totals.loss)


def _check_loss(run: _Run, name: str, loss: float | None) -> None:
    if loss is None or is_finite_loss(loss, run.most_loss):
        return
    run.saver.save_best()  # the message names the last good checkpoint
    step = run.progress.step
    check_finite_loss(name, loss, step, run.saver.last_checkpoint, run.most_loss)


def _start_block(run: _Run, cadence: Cadence, stop: bool) -> None:
    progress = run.progress
    block = run.blocks.start(progress.step, until=cadence.next_event(progress.step), stop=stop)
    progress.step += len(block.tokens)
    progress.in_flight.append(block)


def _read_blocks(run: _Run, leave: int = 0) -> None:
    """Read the blocks in flight, oldest first, until `leave` remain."""
    progress = run.progress
    while len(progress.in_flight) > leave:
        block = progress.in_flight.pop(0)
        metrics = block.result.read()
        done = _good_steps(metrics, run.most_loss)
        _record_steps(run, block, metrics.losses[:done], metrics.grad_norms[:done])
        if run.recorder is not None and block.watched is not None and metrics.recorded is not None:
            run.recorder.add(
                block.first, block.rates[:done], block.watched, metrics.recorded[:done]
            )
        if done < len(metrics.losses):
            run.saver.save_best()  # the message names the last good checkpoint
            bad = StepMetrics(loss=metrics.losses[done], grad_norm=metrics.grad_norms[done])
            check_finite(bad, block.first + done, run.saver.last_checkpoint, run.most_loss)
        progress.stopping = progress.stopping or metrics.stop


def _good_steps(metrics: BlockMetrics, most: float) -> int:
    """Return how many steps precede the first one that ends the run."""
    for index, (loss, norm) in enumerate(zip(metrics.losses, metrics.grad_norms, strict=True)):
        if not (-math.inf < loss <= most and norm < math.inf):  # also where one is NaN
            return index
    return len(metrics.losses)


def _record_steps(
    run: _Run, block: Block, losses: Sequence[float], grad_norms: Sequence[float]
) -> None:
    """Count and log the steps of a block that are finite."""
    progress, done = run.progress, len(losses)
    if done == 0:
        return
    progress.recent.extend(losses)
    for loss in losses:  # sum() rounds differently in Python 3.12
        progress.interval_loss += loss
    progress.interval_steps += done
    tokens = list(accumulate(block.tokens[:done], initial=progress.tokens))[1:]
    progress.tokens = tokens[-1]
    run.log.write_steps(
        block.first, losses, grad_norms, block.rates[:done], tokens, progress.stopwatch.elapsed_s
    )
    run.observer.stepped(block.first + done - 1, losses[-1], _tokens_per_s(progress))


def _tokens_per_s(progress: _Progress) -> float:
    return progress.tokens / max(progress.stopwatch.elapsed_s, 1e-9)


def _evaluate(run: _Run, trainer: TrainerState, stop: Callable[[], bool]) -> EvalMetrics:
    """Score the evaluation set, log and report it; hold the state if it is the best so far."""
    progress = run.progress

    def stop_if_asked() -> None:
        if stop():
            raise _StopAsked

    try:
        with run.engine.averaged():
            if run.config.ngram_order and run.evaluation_set:
                _check_network(run, "validation loss", run.evaluation_set[0])
            if run.fits_share:
                fit_share(run.engine, run.evaluation_set)
            metrics = evaluate(
                run.engine, run.evaluation_set, run.token_bytes, progress.step, stop_if_asked
            )
    except _StopAsked:
        _stop(run, trainer)
    _check_loss(run, "validation loss", metrics.loss)
    progress.scored = None if metrics.loss is None else progress.step
    is_best = metrics.loss is not None and (
        progress.best is None or progress.best.loss is None or metrics.loss < progress.best.loss
    )
    mean = progress.interval_loss / progress.interval_steps if progress.interval_steps else None
    metrics = replace(
        metrics,
        train_loss=mean,
        tokens=progress.tokens,
        tokens_per_s=_tokens_per_s(progress) if progress.tokens else 0.0,
        elapsed_s=progress.stopwatch.elapsed_s,
        left_s=run.left_s,
        is_best=is_best,
    )
    progress.interval_loss, progress.interval_steps = 0.0, 0
    record = {"kind": "eval", "step": metrics.step, "val_loss": metrics.loss}
    record |= {"val_bpb": metrics.bpb, "tokens": progress.tokens, "elapsed_s": metrics.elapsed_s}
    if run.fits_share:
        record |= {"share_scale": run.engine.share.scale, "share_offset": run.engine.share.offset}
    run.log.write(record)
    if is_best:
        progress.best, progress.misses = Best(metrics.step, metrics.loss), 0
        run.saver.hold_best(trainer, progress.best)
    else:
        progress.misses += 1
    run.observer.evaluated(metrics)
    return metrics


def _trainer_state(run: _Run) -> TrainerState:
    progress = run.progress
    return TrainerState(
        step=progress.step,
        last_losses=progress.recent.values,
        tokens=progress.tokens,
        elapsed_s=progress.stopwatch.elapsed_s,
        metrics_length=run.log.length,
        best_step=progress.best.step if progress.best else None,
        best_loss=progress.best.loss if progress.best else None,
        misses=progress.misses,
        interval_loss=progress.interval_loss,
        interval_steps=progress.interval_steps,
        processes=run.world,
    )


def _result(run: _Run, evaluation: EvalMetrics) -> LoopResult:
    progress = run.progress
    losses = progress.recent.values
    assert progress.best is not None
    return LoopResult(
        evaluation=evaluation,
        best=progress.best,
        final_loss=losses[-1] if losses else None,
        mean_loss_last_50=progress.recent.mean,
        steps=progress.step,
        tokens=progress.tokens,
        elapsed_s=progress.stopwatch.elapsed_s,
        stopped_early=_is_out_of_patience(run),
        was_ended=progress.was_ended,
    )

"""What `nanochat.train` returns and tells while it trains: evaluations, losses, the curve.

Everything is read from the run folder when it is first asked for: most runs are never asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import shown
from nanochat.errors import CheckpointError, ConfigError
from nanochat.output.loss_curve import LossCurve
from nanochat.output.progress import SampleText
from nanochat.runs.folder import RunFolder
from nanochat.system import processes
from nanochat.system.plain_files import read_plain
from nanochat.training.log_records import LogRecord, figure, log_records
from nanochat.training.loop import EvalMetrics

__all__ = ["Evaluation", "OnEvaluation", "TrainResult", "Watch", "check_on_evaluation"]

SAMPLE_COLUMNS = 72  # of the sample in an Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures after `step` steps, as a row of the terminal. The losses are per token."""

    step: int
    train_loss: float | None  # nats, mean since the evaluation before; None before training
    val_loss: float | None  # nats, of the evaluation set; None without validation text
    val_bpb: float | None  # bits per byte of raw text
    tokens: int  # trained on so far
    elapsed_s: float  # of training alone
    sample: str | None = None  # the beginning of a sample, if there was time to draw one


OnEvaluation = Callable[[Evaluation], Any]


class Watch:
    """Calls `on_evaluation` after each evaluation. The progress shows the same sample."""

    def __init__(self, on_evaluation: OnEvaluation | None, draw: SampleText) -> None:
        self._on_evaluation, self._draw = on_evaluation, draw
        self._drawn: str | None = None

    def sample(self, columns: int) -> str:
        """Draw the sample of this evaluation. A longer one serves on_evaluation too."""
        if self._on_evaluation is not None:
            columns = max(columns, SAMPLE_COLUMNS)
        self._drawn = self._draw(columns)
        return self._drawn

    def goes_on(self, metrics: EvalMetrics) -> bool:
        """Return whether to go on: unless on_evaluation returned False."""
        if self._on_evaluation is None:
            return True
        text = self.sample(SAMPLE_COLUMNS) if self._drawn is None else self._drawn
        self._drawn = None
        evaluation = Evaluation(
            step=metrics.step, train_loss=metrics.train_loss, val_loss=metrics.loss,
            val_bpb=metrics.bpb, tokens=metrics.tokens, elapsed_s=metrics.elapsed_s,
            sample=text.strip() or None,
        )  # fmt: skip
        return self._on_evaluation(evaluation) is not False


def check_on_evaluation(on_evaluation: OnEvaluation | None) -> None:
    """Raise ConfigError unless it can be called, in a single process."""
    if on_evaluation is None:
        return
    if not callable(on_evaluation):
        raise ConfigError(f"on_evaluation must be a function, got {shown(on_evaluation)}")
    if processes.world() > 1:
        raise ConfigError(
            f"on_evaluation needs a single process, got {processes.world()} processes; leave it out"
        )


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The outcome of a finished run. A notebook shows it as a table with the loss curve."""

    metrics: Mapping[str, Any]  # training.metrics.METRIC_KEYS
    samples: Sequence[str]
    run: Path  # the run's folder; of several processes only rank 0 knows its full name

    @property
    def folder(self) -> Path:
        """The run's folder, as `run`."""
        return self.run

    @property
    def losses(self) -> NDArray[np.float64]:
        """(steps,) training loss of each step, in nats per token; step s is at index s − 1.

        Raises CheckpointError if the folder's metrics.jsonl cannot be read.
        """
        return self._log[0]

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations in order, without samples. Raises CheckpointError as `losses` does."""
        return self._log[1]

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest validation loss, whose weights are kept as `best`.

        None without validation text. Raises CheckpointError as `losses` does.
        """
        scored = [e for e in self.evaluations if e.val_loss is not None and np.isfinite(e.val_loss)]
        return min(scored, key=lambda e: e.val_loss or 0.0, default=None)

    def plot(self) -> LossCurve:
        """Return the loss curve, which notebooks show and `.save(path)` writes.

        Raises CheckpointError if the folder's loss.svg cannot be read.
        """
        path = RunFolder(self.run).plot
        with _refusals(path):
            return LossCurve(read_plain(path).decode())

    @cached_property
    def _log(self) -> tuple[NDArray[np.float64], tuple[Evaluation, ...]]:
        metrics = RunFolder(self.run).metrics
        with _refusals(metrics):
            return _losses_and_evaluations(log_records(metrics))

    def __repr__(self) -> str:
        rows = "".join(f"  {f'{name}:':<14} {text}\n" for name, text in self._rows())
        return f"TrainResult(\n{rows})"

    def _repr_html_(self) -> str:
        """Return a table of the result and the loss curve. Never raises: files may be gone."""
        import html  # only notebooks need it

        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._rows()
        )
        return f"<table>{rows}</table>{self._picture()}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        metrics = self.metrics
        yield "run", str(self.run)
        yield (
            "model",
            f"{metrics['model_kind']}, {metrics['params']:,} parameters, {metrics['mode']} engine",
        )
        yield "steps", f"{metrics['steps']:,} (best: {metrics['best_step']:,})"
        yield "tokens", f"{metrics['train_tokens']:,} ({metrics['tokens_per_sec']:,.0f}/s)"
        name = "training text" if metrics["val_source"] == "train" else "validation"
        yield name, _score(metrics["val_loss"], metrics["val_bpb"])
        counted = self._counted()
        if counted is not None:
            yield "counting", counted

    def _counted(self) -> str | None:
        """Return the score of the counted n-grams, if the run has one."""
        try:
            record = json.loads(read_plain(RunFolder(self.run).result))
            return _score(figure(record["baseline_loss"]), figure(record["baseline_bpb"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _picture(self) -> str:
        """Return the curve as an image, in which no script of an edited file can run."""
        import base64

        try:
            svg = self.plot().svg
        except CheckpointError:
            return ""
        data = base64.b64encode(svg.encode("utf-8")).decode("ascii")
        return (
            f'<img alt="loss curve" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'
        )


def _score(loss: float | None, bpb: float | None) -> str:
    figures = [f"{loss:.4f} nats per token"] if loss is not None else []
    figures += [f"{bpb:.4f} bits per byte"] if bpb is not None else []
    return ", ".join(figures) or "none"


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn the error of a file that cannot be read into a CheckpointError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"cannot read {path}: {reason}; of several processes only rank 0 knows the run's folder"
            if processes.rank() != 0
            else f"cannot read {path}: {reason}; the run's folder must stay where it was"
        ) from error


def _losses_and_evaluations(
    records: Iterator[LogRecord],
) -> tuple[NDArray[np.float64], tuple[Evaluation, ...]]:
    losses, evaluations = list[float](), list[Evaluation]()
    total, steps = 0.0, 0  # since the evaluation before
    for record in records:
        if record["kind"] == "step":
            losses.append(math.nan if record["loss"] is None else record["loss"])
            total, steps = total + losses[-1], steps + 1
        elif record["kind"] == "eval":
            evaluations.append(
                Evaluation(
                    step=record["step"],
                    train_loss=total / steps if steps else None,
                    val_loss=record["val_loss"],
                    val_bpb=record.get("val_bpb"),
                    tokens=int(figure(record.get("tokens")) or 0),  # older logs lack it
                    elapsed_s=figure(record.get("elapsed_s")) or 0.0,
                )
            )
            total, steps = 0.0, 0
    array = np.array(losses, dtype=np.float64)
    array.flags.writeable = False
    return array, tuple(evaluations)

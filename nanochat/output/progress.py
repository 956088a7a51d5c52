"""The progress of a run on stderr: a line per evaluation, and on a terminal a bar below the lines.

Owns the wording and the columns. An observer only receives figures and cannot change the run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nanochat.output.text import duration, fit_in_line, terminal_width
from nanochat.system.streams import PROGRESS, write_progress

if TYPE_CHECKING:  # the loop imports NumPy, which `info` starts without
    from nanochat.training.loop import EvalMetrics

__all__ = [
    "Lines",
    "NoProgress",
    "SampleText",
    "Screen",
    "TimeLeft",
    "evaluation_line",
    "evaluation_row",
    "row_header",
    "row_width",
    "sample_line",
]

SampleText = Callable[[int], str]  # columns → a text of about that length, or nothing
TimeLeft = Callable[[], float]  # seconds until the end of a time budget

_MARK = "best"
_CLOCK_STEP_WIDTH = 7  # of step numbers in a run that a clock ends
_COLUMNS = (("train loss", 10), ("val loss", 8), ("bits/byte", 9), ("tokens/s", 10), ("left", 8))


def evaluation_line(metrics: EvalMetrics, steps: int | None) -> str:
    """Return an evaluation as labeled figures on one line; figures that are None are left out.

    `steps` is None in a run that a clock ends: nobody knows its number of steps before.
    """
    return "  ".join(_labeled(metrics, steps))


def _labeled(metrics: EvalMetrics, steps: int | None) -> list[str]:
    fields = [f"step {_of(metrics.step, steps)}"]
    if metrics.train_loss is not None:
        fields.append(f"train loss {metrics.train_loss:.4f}")
    if metrics.loss is not None:
        fields.append(f"val loss {metrics.loss:.4f}")
    if metrics.bpb is not None:
        fields.append(f"{metrics.bpb:.4f} bits/byte")
    if metrics.tokens_per_s:
        fields.append(f"{metrics.tokens_per_s:,.0f} tokens/s")
    if metrics.left_s is not None:
        fields.append(f"{duration(metrics.left_s)} left")
    if metrics.is_best:
        fields.append(_MARK)
    return fields


def row_header(steps: int | None) -> str:
    """Return the names of the columns of evaluation_row."""
    names = (f"{name:>{width}}" for name, width in _COLUMNS)
    return "  ".join([f"{'step':>{_step_width(steps)}}", *names])


def evaluation_row(metrics: EvalMetrics, steps: int | None) -> str:
    """Return an evaluation as a row of columns; None is shown as a dash."""
    left = None if metrics.left_s is None else duration(metrics.left_s)
    figures = (
        _figure(metrics.train_loss, ".4f"), _figure(metrics.loss, ".4f"),
        _figure(metrics.bpb, ".4f"), _figure(metrics.tokens_per_s or None, ",.0f"), left or "-",
    )  # fmt: skip
    cells = [_of(metrics.step, steps).rjust(_step_width(steps))]
    cells += [text.rjust(width) for text, (_, width) in zip(figures, _COLUMNS, strict=True)]
    return "  ".join([*cells, *([_MARK] if metrics.is_best else [])])


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _of(step: int, steps: int | None) -> str:
    return str(step) if steps is None else f"{step}/{steps}"


def _step_width(steps: int | None) -> int:
    return _CLOCK_STEP_WIDTH if steps is None else max(2 * len(str(steps)) + 1, len("step"))


def row_width(steps: int | None) -> int:
    """Return the columns of the longest row."""
    return len(row_header(steps)) + 2 + len(_MARK)


def sample_line(sample: SampleText | None, width: int, encoding: str) -> str:
    """Return the line of a sample under its evaluation; empty if there is none."""
    if sample is None:
        return ""
    room = max(width - len("  > "), 8)
    text = fit_in_line(sample(room), room, encoding)
    return f"  > {text}" if text else ""


def _packed(fields: list[str], width: int) -> list[str]:
    """Return the fields on as few lines of `width` columns as hold them."""
    lines: list[str] = []
    for field in fields:
        if lines and len(lines[-1]) + 2 + len(field) <= width:
            lines[-1] += f"  {field}"
        else:
            lines.append(f"  {field}" if lines else field)
    return lines


class NoProgress:
    """An observer that shows nothing."""

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        pass

    def evaluated(self, metrics: EvalMetrics) -> None:
        pass


class Lines(NoProgress):
    """One line per evaluation, for logs and pipes."""

    def __init__(self, steps: int | None) -> None:
        self._steps = steps

    def evaluated(self, metrics: EvalMetrics) -> None:
        write_progress(evaluation_line(metrics, self._steps))


class Screen:
    """A terminal: each evaluation stays, with a short sample under it; a bar is at the bottom.

    Importing rich takes longer than training a small model, so the bar appears only in runs that
    last. It shows the share of the steps, or of the time in a run that a clock ends.
    """

    AFTER_S, EVERY_S = 0.5, 0.1

    def __init__(
        self,
        steps: int,
        done: int,
        sample: SampleText | None,
        time_left_s: TimeLeft | None = None,  # of a run that a clock ends; `steps` is an estimate
    ) -> None:
        self._steps = steps if time_left_s is None else None
        self._done, self._sample, self._time_left_s = done, sample, time_left_s
        self._total = float(steps) if time_left_s is None else time_left_s()
        self._next_s = time.monotonic() + self.AFTER_S
        self._progress: Any = None
        self._task: Any = None
        self._has_header = False

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        self._done = step
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + self.EVERY_S
            self._refresh(f"step {_of(step, self._steps)}  loss {loss:.4f}", tokens_per_s)

    def evaluated(self, metrics: EvalMetrics) -> None:
        width = terminal_width(PROGRESS)
        if width >= row_width(self._steps):
            if not self._has_header:
                self._has_header = True
                self.show(row_header(self._steps))
            self.show(evaluation_row(metrics, self._steps))
        else:
            for line in _packed(_labeled(metrics, self._steps), width):
                self.show(line)
        encoding = getattr(PROGRESS, "encoding", None) or "utf-8"
        line = sample_line(self._sample, width, encoding)
        if line:
            self.show(line)

    def show(self, line: str) -> None:
        """Write a line that stays, above the bar."""
        if self._progress is None:
            write_progress(line)
        else:
            self._progress.console.print(
                line, markup=False, highlight=False, emoji=False, soft_wrap=True
            )

    def _refresh(self, description: str, tokens_per_s: float) -> None:
        if self._progress is None:
            self._progress = _new_progress(estimates_left=self._time_left_s is None)
            self._task = self._progress.add_task(description, total=self._total, speed="")
            self._progress.start()
        speed = f"{tokens_per_s:,.0f} tokens/s"
        done: float = self._done
        if self._time_left_s is not None:
            left = self._time_left_s()
            done, speed = self._total - left, f"{speed}  {duration(left)}"
        self._progress.update(self._task, completed=done, description=description, speed=speed)

    def close(self) -> None:
        """Remove the bar; the lines stay."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _new_progress(*, estimates_left: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # rich would believe a COLUMNS of 0, and fails on others that are no number.
    width = terminal_width(PROGRESS) if "COLUMNS" in os.environ else None
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}

    def column() -> Column:
        return Column(no_wrap=True, overflow="crop")  # an ellipsis is not in every encoding

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=column()),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
        TextColumn("{task.fields[speed]}", table_column=column()),
        *([TimeRemainingColumn(compact=True, table_column=column())] if estimates_left else []),
        TextColumn("left", table_column=column()),
        console=Console(file=PROGRESS, width=width, _environ=environment),
        refresh_per_second=8,
        transient=True,
        # rich would write past PROGRESS to the stream that it redirects, which may be gone.
        redirect_stdout=False,
        redirect_stderr=False,
    )

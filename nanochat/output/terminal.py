"""What a person sees: results on stdout, progress and notes on stderr.

Any of it may be silenced, and none of it changes what is computed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nanochat.system.json_text import strict_json
from nanochat.system.streams import PROGRESS, write_progress, write_result

if TYPE_CHECKING:  # the loop imports numpy, which `info` starts without
    from nanochat.training.loop import EvalMetrics, Observer

__all__ = ["SILENT", "Terminal"]


class Terminal:
    """`quiet` leaves out progress and notes; `as_json` makes stdout one JSON object."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.as_json = as_json
        self.silent = silent

    def note(self, text: str) -> None:
        """Write a line for a person to stderr."""
        if not self.quiet:
            write_progress(text)

    def warn(self, text: str) -> None:
        """Write a line to stderr that `--quiet` does not hide."""
        if not self.silent:
            write_progress(f"warning: {text}")

    def result(self, text: str, *, end: str = "\n") -> None:
        """Write a piece of the result to stdout; with --json, json_result writes all of it.

        Raises OutputError if it cannot be written.
        """
        if not (self.silent or self.as_json):
            write_result(f"{text}{end}")

    def json_result(self, record: Mapping[str, Any]) -> None:
        """Write the result as one JSON object if --json was given. Raises OutputError."""
        if self.as_json and not self.silent:
            write_result(f"{strict_json(record)}\n")

    @contextmanager
    def progress(self, steps: int, done: int) -> Iterator[Observer]:
        """Yield an observer of the training loop: a bar on a terminal, lines elsewhere."""
        if self.quiet:
            yield _NoProgress()
        elif PROGRESS.isatty():
            bar = _Bar(steps, done)
            try:
                yield bar
            finally:
                bar.close()
        else:
            yield _Lines(steps)


SILENT = Terminal(silent=True)


class _NoProgress:
    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        pass

    def evaluated(self, metrics: EvalMetrics) -> None:
        pass


class _LatestFigures:
    """The latest figures of a run, in the wording that bar and lines share."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self.loss: float | None = None
        self.val_loss: float | None = None
        self.tokens_per_s = 0.0
        self._first: tuple[int, float] | None = None  # step and time of the first step reported

    def _update(self, step: int, loss: float, tokens_per_s: float) -> None:
        self.step, self.loss, self.tokens_per_s = step, loss, tokens_per_s
        if self._first is None:
            self._first = (step, time.monotonic())

    def left_s(self) -> float | None:
        """Seconds to the last step at the average pace so far, evaluations included."""
        if self._first is None or self.step <= self._first[0]:
            return None
        pace = (time.monotonic() - self._first[1]) / (self.step - self._first[0])
        return (self.steps - self.step) * pace

    def __str__(self) -> str:
        parts = [f"step {self.step}/{self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.val_loss is not None:
            parts.append(f"val loss {self.val_loss:.4f}")
        if self.tokens_per_s:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        return "  ".join(parts)


class _Lines(_LatestFigures):
    """One line per evaluation, for logs and pipes."""

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        self._update(step, loss, tokens_per_s)

    def evaluated(self, metrics: EvalMetrics) -> None:
        self.step, self.val_loss = metrics.step, metrics.loss
        left = self.left_s()
        write_progress(str(self) if left is None else f"{self}  {left:.0f} s left")


class _Bar(_LatestFigures):
    """A bar for runs that last. Importing rich takes longer than training a small model, so a run
    that ends at once leaves a line instead."""

    AFTER_S, EVERY_S = 0.5, 0.1

    def __init__(self, steps: int, done: int) -> None:
        super().__init__(steps)
        self.step = done
        self._next_s = time.monotonic() + self.AFTER_S
        self._progress: Any = None
        self._task: Any = None

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        self._update(step, loss, tokens_per_s)
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + self.EVERY_S
            self._refresh()

    def evaluated(self, metrics: EvalMetrics) -> None:
        self.step, self.val_loss = metrics.step, metrics.loss
        if self._progress is not None:
            self._refresh()

    def _refresh(self) -> None:
        if self._progress is None:
            self._progress = _new_progress()
            self._task = self._progress.add_task("", total=self.steps, completed=self.step)
            self._progress.start()
        self._progress.update(self._task, completed=self.step, description=str(self))

    def close(self) -> None:
        """Leave the last figures on the terminal, as a bar or, if there was none, as a line."""
        if self._progress is None:
            write_progress(str(self))
        else:
            self._refresh()
            self._progress.stop()


def _new_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(file=PROGRESS),
        refresh_per_second=8,
    )

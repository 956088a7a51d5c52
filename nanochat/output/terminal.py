"""What a person sees: results on stdout, progress and notes on stderr.

Everything here may be silent; nothing here changes what is computed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nanochat.system.json_text import strict_json

if TYPE_CHECKING:  # the loop brings numpy, which `info` starts without
    from nanochat.training.loop import Evaluation, Observer

__all__ = ["SILENT", "Terminal"]


class Terminal:
    """`quiet` leaves out progress and notes; `as_json` makes stdout one JSON object."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.as_json = as_json
        self.silent = silent

    def note(self, text: str) -> None:
        """A line for a person, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A line on stderr that `--quiet` does not hide."""
        if not self.silent:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def result(self, text: str, *, end: str = "\n") -> None:
        """A piece of the result, on stdout; with --json the object at the end says it all."""
        if not (self.silent or self.as_json):
            print(text, end=end, flush=True)

    def json_result(self, record: Mapping[str, Any]) -> None:
        if self.as_json and not self.silent:
            print(strict_json(record), flush=True)

    @contextmanager
    def progress(self, steps: int, done: int) -> Iterator[Observer]:
        """An observer of the training loop: a bar on a terminal, lines elsewhere."""
        if self.quiet:
            yield _Unseen()
        elif sys.stderr.isatty():
            bar = _Bar(steps, done)
            try:
                yield bar
            finally:
                bar.close()
        else:
            yield _Lines(steps)


SILENT = Terminal(silent=True)


class _Unseen:
    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        pass

    def evaluated(self, evaluation: Evaluation) -> None:
        pass


class _Figures:
    """The latest figures of a run, in the one wording that bar and lines share."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self.loss: float | None = None
        self.tokens_per_s = 0.0
        self.evaluation: Evaluation | None = None
        self._first: tuple[int, float] | None = None  # step and time of the first one seen

    def _took(self, step: int, loss: float, tokens_per_s: float) -> None:
        self.step, self.loss, self.tokens_per_s = step, loss, tokens_per_s
        if self._first is None:
            self._first = (step, time.monotonic())

    def left_s(self) -> float | None:
        """Seconds to the last step at the pace so far, evaluations included."""
        if self._first is None or self.step <= self._first[0]:
            return None
        pace = (time.monotonic() - self._first[1]) / (self.step - self._first[0])
        return (self.steps - self.step) * pace

    def __str__(self) -> str:
        parts = [f"step {self.step}/{self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.evaluation is not None and self.evaluation.loss is not None:
            parts.append(f"val loss {self.evaluation.loss:.4f}")
        if self.tokens_per_s:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        return "  ".join(parts)


class _Lines(_Figures):
    """One line an evaluation, for logs and pipes."""

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        self._took(step, loss, tokens_per_s)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.step, self.evaluation = evaluation.step, evaluation
        left = self.left_s()
        end = "" if left is None else f"  {left:.0f} s left"
        print(f"{self}{end}", file=sys.stderr, flush=True)


class _Bar(_Figures):
    """A bar for runs that last: its library takes longer to import than a small model to train."""

    AFTER_S, EVERY_S = 0.5, 0.1

    def __init__(self, steps: int, done: int) -> None:
        super().__init__(steps)
        self.step = done
        self._next_s = time.monotonic() + self.AFTER_S
        self._progress: Any = None
        self._task: Any = None

    def stepped(self, step: int, loss: float, tokens_per_s: float) -> None:
        self._took(step, loss, tokens_per_s)
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + self.EVERY_S
            self._draw()

    def evaluated(self, evaluation: Evaluation) -> None:
        self.step, self.evaluation = evaluation.step, evaluation
        if self._progress is not None:
            self._draw()

    def _draw(self) -> None:
        if self._progress is None:
            self._progress = _new_progress()
            self._task = self._progress.add_task("", total=self.steps, completed=self.step)
            self._progress.start()
        self._progress.update(self._task, completed=self.step, description=str(self))

    def close(self) -> None:
        """The last figures stay, as a bar or, if there was none, as a line."""
        if self._progress is None:
            print(self, file=sys.stderr, flush=True)
        else:
            self._draw()
            self._progress.stop()


def _new_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(stderr=True),
        refresh_per_second=8,
    )

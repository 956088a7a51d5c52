"""The progress of a run in plain lines on stdout, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nanochat.output.progress import (
    NoProgress,
    SampleText,
    TimeLeft,
    evaluation_row,
    row_header,
    row_width,
    sample_line,
)
from nanochat.output.terminal import Terminal
from nanochat.output.text import escaped

if TYPE_CHECKING:
    from nanochat.training.loop import EvalMetrics

__all__ = ["PrintedTerminal"]


class PrintedTerminal(Terminal):
    """Prints notes, warnings and the rows of a terminal, and no results: the caller gets those."""

    def _tell(self, line: str) -> None:
        _print(escaped(line))

    @property
    def is_for_people(self) -> bool:
        return False  # nobody sees the results as text

    def result(self, text: str, *, end: str = "\n", styled: bool = False) -> None:
        pass

    def json_result(self, record: Any) -> None:
        pass

    @contextmanager
    def progress(
        self,
        steps: int,
        done: int,
        sample: SampleText | None = None,
        time_left_s: TimeLeft | None = None,
    ) -> Iterator[NoProgress]:
        yield _Rows(steps if time_left_s is None else None, sample)


class _Rows(NoProgress):
    """A row per evaluation, with a short sample under it."""

    def __init__(self, steps: int | None, sample: SampleText | None) -> None:
        self._steps, self._sample = steps, sample
        self._has_header = False

    def evaluated(self, metrics: EvalMetrics) -> None:
        if not self._has_header:
            self._has_header = True
            _print(row_header(self._steps))
        _print(evaluation_row(metrics, self._steps))
        line = sample_line(self._sample, row_width(self._steps), "utf-8")
        if line:
            _print(line)


def _print(line: str) -> None:
    """Print a line at once, or drop it: progress must never end a run."""
    with suppress(OSError, ValueError):  # UnicodeEncodeError is a ValueError
        print(line, flush=True)

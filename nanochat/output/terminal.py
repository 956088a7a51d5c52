"""What a person sees: results on stdout, progress and notes on stderr.

Any of it may be silenced, and none of it changes what is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nanochat.output.progress import Lines, NoProgress, SampleText, Screen, TimeLeft
from nanochat.output.text import escaped, terminal_width, wrapped
from nanochat.system.json_text import strict_json
from nanochat.system.streams import PROGRESS, write_progress, write_result

if TYPE_CHECKING:  # the loop imports numpy, which `info` starts without
    from nanochat.output.ablation_report import Report
    from nanochat.training.loop import Observer

__all__ = ["SILENT", "Terminal", "sample_rule"]


class Terminal:
    """`quiet` leaves out progress and notes; `as_json` makes stdout one JSON object."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.as_json = as_json
        self.silent = silent
        self._screen: Screen | None = None  # while a run shows its progress

    @property
    def is_for_people(self) -> bool:
        """Whether the results go to a terminal, as text."""
        return not (self.silent or self.as_json) and _is_terminal(sys.stdout)

    def note(self, text: str) -> None:
        """Write a line for a person to stderr."""
        if not self.quiet:
            self._tell(text)

    def warn(self, text: str) -> None:
        """Write a line to stderr that `--quiet` does not hide."""
        if not self.silent:
            self._tell(f"warning: {text}")

    def _tell(self, line: str) -> None:
        if PROGRESS.isatty():
            line = wrapped(escaped(line), terminal_width(PROGRESS))
        if self._screen is None:
            write_progress(line)
        else:
            self._screen.show(line)

    def result(self, text: str, *, end: str = "\n", styled: bool = False) -> None:
        """Write a piece of the result to stdout; with --json, json_result writes all of it.

        styled: the text has colors, and everything else in it is escaped already. Raises
        OutputError if it cannot be written.
        """
        if not (self.silent or self.as_json):
            shown = escaped(text) if _is_terminal(sys.stdout) and not styled else text
            write_result(f"{shown}{end}")

    def samples(self, texts: Sequence[str]) -> None:
        """Write samples to stdout under their numbers; on a terminal, a rule precedes each sample
        if any has several lines. Raises OutputError."""
        has_rules = self.is_for_people and any("\n" in text for text in texts)
        for number, text in enumerate(texts, start=1):
            self.result(
                f"{sample_rule(number)}\n{text}" if has_rules else f"sample {number}: {text}"
            )

    def ablation(self, report: Report) -> None:
        """Write the table of an ablation to stdout: Markdown, on a terminal columns. Raises
        OutputError."""
        if not self.is_for_people:
            self.result(report.markdown())
            return
        from nanochat.output.ablation_table import ablation_table

        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self.result(ablation_table(report, terminal_width(sys.stdout), encoding))

    def json_result(self, record: Mapping[str, Any]) -> None:
        """Write the result as one JSON object if --json was given. Raises OutputError."""
        if self.as_json and not self.silent:
            write_result(f"{strict_json(record)}\n")

    @contextmanager
    def progress(
        self,
        steps: int,
        done: int,
        sample: SampleText | None = None,  # shown under each evaluation, on a terminal only
        time_left_s: TimeLeft | None = None,  # of a run that a clock ends; `steps` is an estimate
    ) -> Iterator[Observer]:
        """Yield an observer of the training loop: lines, and a bar below them on a terminal."""
        if self.quiet:
            yield NoProgress()
        elif not PROGRESS.isatty():
            yield Lines(steps if time_left_s is None else None)
        else:
            self._screen = Screen(steps, done, None if self.as_json else sample, time_left_s)
            try:
                yield self._screen
            finally:
                self._screen.close()
                self._screen = None


SILENT = Terminal(silent=True)


def sample_rule(number: int) -> str:
    """Return the line above a sample that may have several lines."""
    return f"--- sample {number} ---"


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:  # closed
        return False

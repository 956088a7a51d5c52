"""The folder of a run: its path, the files in it, how it is created and locked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.config.options import CHECKPOINTS_DIR, RUNS_DIR
from nanochat.data.sources.fetching import SOURCES_DIR
from nanochat.errors import OutputError
from nanochat.runs.lock import LOCK, locked
from nanochat.system.durable import output_error
from nanochat.system.json_text import strict_json

__all__ = ["RUN_FILES", "RunFolder", "new_run", "refuse_used"]

CONFIG, ENVIRONMENT, METRICS, PLOT, RESULT, EVENTS = (
    "config.toml", "environment.json", "metrics.jsonl", "loss.svg", "result.json", "tensorboard",
)  # fmt: skip


# Every name that a run writes at the top of its folder; the hidden ones only while it writes.
RUN_FILES = {CONFIG, ENVIRONMENT, METRICS, PLOT, RESULT, EVENTS}
COUNTS_DIR = "counts"  # of n-grams that the network is mixed with
RUN_FILES |= {CHECKPOINTS_DIR, COUNTS_DIR, LOCK, SOURCES_DIR}
RUN_FILES |= {f".{name}.tmp" for name in (CONFIG, ENVIRONMENT, RESULT)}


class RunFolder:
    """Paths inside one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.environment = path / ENVIRONMENT
        self.metrics = path / METRICS
        self.plot = path / PLOT
        self.result = path / RESULT
        self.events = path / EVENTS
        self.checkpoints = path / CHECKPOINTS_DIR
        self.counts = path / COUNTS_DIR

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as a file that `--config` takes.

        TOML has no None. The folder itself is left out, so that the file can start another run.
        """
        import tomli_w

        known = {
            key: value
            for key, value in config.items()
            if value is not None and key not in ("out", "resume")
        }
        self._write(self.config, tomli_w.dumps(known))

    def write_json(self, path: Path, record: Mapping[str, Any]) -> None:
        self._write(path, strict_json(record, indent=2) + "\n")

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise output_error(path, error) from error


@contextmanager
def new_run(out: str | None, name: str) -> Iterator[RunFolder]:
    """Create a run's folder and lock it: `out`, or runs/<time>-<name>.

    Raises OutputError if it cannot be created, holds anything, or another process writes to it.
    """
    path = Path(RUNS_DIR) / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}" if out is None else Path(out)
    try:
        if out is None:
            path = _make_unused(path)
        else:
            refuse_used(path)
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    with locked(path):
        refuse_used(path, locked_here=True)  # another process may have been faster
        try:
            (path / CHECKPOINTS_DIR).mkdir()
        except OSError as error:
            raise output_error(path, error) from error
        yield RunFolder(path)


def refuse_used(path: Path, *, locked_here: bool = False) -> None:
    """Raise OutputError if `path` holds anything apart from this process's lock."""
    try:
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        is_file = path.exists() and not path.is_dir()
    except OSError as error:
        raise output_error(path, error) from error
    if LOCK in names and not locked_here:
        with locked(path):  # raises if its owner is running
            pass
    if CONFIG in names:
        checkpoints = path / CHECKPOINTS_DIR
        way_out = "add --resume to continue it, or choose another out"
        if not any(checkpoints.glob("*step-*")):
            way_out = "it ended before its first checkpoint; remove it or choose another out"
        raise OutputError(f"out {path} already holds a run; {way_out}")
    if is_file or names - {LOCK}:
        raise OutputError(f"out {path} must be a new or an empty folder; choose another out")


def _make_unused(path: Path) -> Path:
    """Create the folder, or path-2, path-3, … if runs start within the same second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unused, suffix = path, 2
    while True:
        try:
            unused.mkdir()
        except FileExistsError:
            unused, suffix = path.with_name(f"{path.name}-{suffix}"), suffix + 1
        else:
            return unused

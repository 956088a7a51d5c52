"""The folder of a run: its path, the files in it, how it is created and locked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nanochat.config.option import defaults_of
from nanochat.config.options import BEST, CHECKPOINTS_DIR, RUNS_DIR, TrainConfig
from nanochat.config.unsupported import without_effect
from nanochat.data.sources.fetching import SOURCES_DIR
from nanochat.errors import OutputError
from nanochat.runs.lock import LOCK, Lock, locked
from nanochat.system.durable import ensure_folder, make_folder, output_error, replace_durably
from nanochat.system.json_text import strict_json
from nanochat.system.plain_files import remove_entry

__all__ = ["HISTORY", "RUN_FILES", "RunFolder", "new_run", "refuse_links", "refuse_used"]

CONFIG, ENVIRONMENT, METRICS, PLOT, RESULT, EVENTS, NONFINITE, HISTORY, MODEL = (
    "config.toml", "environment.json", "metrics.jsonl", "loss.svg", "result.json", "tensorboard",
    "nonfinite.json", "history.safetensors", "model.py",
)  # fmt: skip


# Every name that a run writes at the top of its folder; the hidden ones only while it writes.
RUN_FILES = {CONFIG, ENVIRONMENT, METRICS, PLOT, RESULT, EVENTS, NONFINITE, HISTORY, MODEL}
COUNTS_DIR = "counts"  # of n-grams that the network is mixed with
RUN_FILES |= {CHECKPOINTS_DIR, COUNTS_DIR, LOCK, SOURCES_DIR}
RUN_FILES |= {
    f".{name}.tmp" for name in (CONFIG, ENVIRONMENT, RESULT, PLOT, NONFINITE, HISTORY, MODEL)
}
# What a run may leave that ends before its first checkpoint. SOURCES_DIR may hold the only copy of
# standard input; a result is that of a finished run.
_REMAINS = RUN_FILES - {SOURCES_DIR, RESULT}
# The same before ENVIRONMENT, the first file that a run writes. Without it, a CONFIG or a folder of
# another name above may be the user's.
_FIRST_REMAINS = {LOCK, CHECKPOINTS_DIR, f".{ENVIRONMENT}.tmp"}


class RunFolder:
    """Paths inside one run's folder."""

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        self.path = path
        self._lock = lock  # of a process that writes to it
        self.config = path / CONFIG
        self.environment = path / ENVIRONMENT
        self.metrics = path / METRICS
        self.plot = path / PLOT
        self.result = path / RESULT
        self.events = path / EVENTS
        self.nonfinite = path / NONFINITE  # of a run that NonFiniteStep has ended
        self.model = path / MODEL  # copy of the model file; no command runs it unless it is named
        self.checkpoints = path / CHECKPOINTS_DIR
        self.counts = path / COUNTS_DIR

    def check_in_place(self) -> None:
        """Raise OutputError if the path does not lead to the locked folder anymore, before a write
        that would begin another folder."""
        if self._lock is not None:
            self._lock.check()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config as a file that `--config` takes.

        TOML has no None. Also left out are the folder itself, because the file may start another
        run, and options without an effect, which a run refuses.
        """
        import tomli_w

        complete = SimpleNamespace(**{**defaults_of(TrainConfig, {}), **config})
        left_out = {"out", "resume", *without_effect(complete)}
        known = {
            key: value for key, value in config.items() if value is not None and key not in left_out
        }
        self._write(self.config, tomli_w.dumps(known))

    def write_model(self, source: bytes) -> None:
        """Write the copy of the model file."""
        self.check_in_place()
        replace_durably(self.model, source)

    def write_json(self, path: Path, record: Mapping[str, Any]) -> None:
        self._write(path, strict_json(record, indent=2) + "\n")

    def _write(self, path: Path, text: str) -> None:
        self.check_in_place()
        replace_durably(path, text.encode())


@contextmanager
def new_run(out: str | None, name: str) -> Iterator[RunFolder]:
    """Create a run's folder and lock it: `out`, or runs/<time>-<name>.

    What a run has left that ended before its first checkpoint is removed. Raises OutputError if the
    folder cannot be created, holds anything else, or another process writes to it.
    """
    path = Path(RUNS_DIR) / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}" if out is None else Path(out)
    try:
        if out is None:
            path = _make_unused(path)
        else:
            refuse_used(path)
            with suppress(FileExistsError):
                make_folder(path)
    except OSError as error:
        raise output_error(path, error) from error
    with locked(path) as lock:
        refuse_used(path, locked_here=True)  # another process may have been faster
        try:
            _clear_remains(path)
            ensure_folder(path / CHECKPOINTS_DIR)  # not its parent: the folder may have been moved
        except OSError as error:
            raise output_error(path, error) from error
        yield RunFolder(path, lock)


def refuse_used(path: Path, *, locked_here: bool = False) -> None:
    """Raise OutputError if a run cannot begin in `path`.

    It can in a new folder, an empty one, and one that holds only what a run writes before its first
    checkpoint, apart from a text that only this folder may hold.
    """
    checkpoints = path / CHECKPOINTS_DIR
    try:
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        is_file = path.exists() and not path.is_dir()
        saved = {entry.name for entry in checkpoints.iterdir()} if CHECKPOINTS_DIR in names else ()
    except OSError as error:
        raise output_error(path, error) from error
    if LOCK in names and not locked_here:
        with locked(path):  # raises if its owner is running
            pass
    has_checkpoint = any(map(_is_checkpoint, saved))
    if CONFIG in names and (has_checkpoint or RESULT in names):
        way_out = "add --resume to continue it, or choose another out"
        raise OutputError(f"out {path} already holds a run; {way_out}")
    if CONFIG in names and SOURCES_DIR in names:
        raise OutputError(
            f"out {path} already holds a run; it ended before its first checkpoint, and"
            f" {path / SOURCES_DIR} has a copy of its text; remove it or choose another out"
        )
    others = names - (_REMAINS if ENVIRONMENT in names else _FIRST_REMAINS)
    others |= {name for name in saved if not name.startswith(".") and name != BEST}
    if is_file or others or has_checkpoint or checkpoints.is_symlink():
        raise OutputError(f"out {path} must be a new or an empty folder; choose another out")


def refuse_links(path: Path) -> None:
    """Raise OutputError if the run would write through a link, out of its folder."""
    for name in sorted(RUN_FILES):
        if os.path.islink(path / name):
            raise OutputError(
                f"{path / name} is a link, through which no run writes; replace it by what it"
                " leads to"
            )


def _is_checkpoint(name: str) -> bool:
    """Whether it is the name of a step folder, not of one whose save was cut off."""
    return name.startswith(("step-", ".replaced-"))


def _clear_remains(path: Path) -> None:
    """Remove what a run has left that ended before its first checkpoint."""
    for name in sorted(_REMAINS - {LOCK}):
        if os.path.lexists(path / name):
            remove_entry(path / name)


def _make_unused(path: Path) -> Path:
    """Create the folder, or path-2, path-3, … if runs start within the same second."""
    unused, suffix = path, 2
    while True:
        try:
            make_folder(unused)
        except FileExistsError:
            unused, suffix = path.with_name(f"{path.name}-{suffix}"), suffix + 1
        else:
            return unused

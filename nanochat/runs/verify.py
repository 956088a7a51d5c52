"""Whether every part of a run folder is what a run of this version wrote.

Reads all checkpoints, the counts of their n-grams and the small files, and changes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.errors import CheckpointError
from nanochat.model.model_file import short
from nanochat.runs.best import BEST, read_best
from nanochat.runs.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from nanochat.runs.counts import counts_of
from nanochat.runs.find import checkpoint_folders, holds_run
from nanochat.runs.folder import HISTORY, RUN_FILES, RunFolder
from nanochat.runs.history import history_of
from nanochat.runs.summary import summarize
from nanochat.system.plain_files import read_plain

__all__ = ["Verdict", "verdicts"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one part of a run."""

    path: Path
    problem: str | None  # None: it is as it was written


def verdicts(run: Path) -> list[Verdict]:
    """Return a verdict about each part of a run or of a folder of checkpoints, or of one
    checkpoint."""
    if not holds_run(run):
        return [_verdict(run, _read_with_counts, run)]
    folder = RunFolder(run)
    links = [run / name for name in sorted(RUN_FILES) if os.path.islink(run / name)]
    found = [Verdict(path, f"{path} is a link, which no run folder holds") for path in links]
    if folder.config.exists() and (problem := summarize(run).problem):
        found.append(Verdict(run, f"{run}: {problem}"))
    directory = folder.checkpoints if folder.checkpoints.is_dir() else run
    if directory not in links:
        found += _checkpoints(directory)
    history = run / HISTORY
    if history.exists() and history not in links:
        found.append(_verdict(history, _read_history, run))
    return found


def _checkpoints(directory: Path) -> Iterator[Verdict]:
    try:
        folders = checkpoint_folders(directory)
    except CheckpointError as error:
        yield Verdict(directory, str(error))
        return
    for path in folders.values():
        yield _verdict(path, _read_with_counts, path)
    if os.path.lexists(directory / BEST):
        yield _verdict(directory / BEST, read_best, directory)


def _read_history(run: Path) -> None:
    history_of(newest_checkpoint(RunFolder(run).checkpoints)[0])


def _read_with_counts(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    counts_of(checkpoint)
    _check_model_copy(checkpoint)


def _check_model_copy(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the copy of the model file is another one; it is not run."""
    copy, record = RunFolder(checkpoint.run_folder).model, checkpoint.data.get("model_file")
    if record is None or not os.path.lexists(copy):
        return
    try:
        found = hashlib.sha256(read_plain(copy)).hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {copy}: {error.strerror or error}") from error
    if found != record["sha256"]:
        raise CheckpointError(
            f"{copy} is damaged: it must have the SHA-256 {short(record['sha256'])} of the file"
            f" that {checkpoint.path} was trained with, got {short(found)}"
        )


def _verdict(path: Path, read: Callable[[Path], object], argument: Path) -> Verdict:
    try:
        read(argument)
    except CheckpointError as error:
        return Verdict(path, str(error))
    return Verdict(path, None)

"""Which checkpoints a run keeps: the newest ones, and always the best one.

checkpoint.py owns how a checkpoint is written and removed.
"""

from __future__ import annotations

from pathlib import Path

from nanochat.config.keep import Keep
from nanochat.errors import CheckpointError
from nanochat.runs.checkpoint import (
    load_checkpoint,
    read_best,
    remove_checkpoint,
    step_folders,
)

__all__ = ["prune_checkpoints"]


def prune_checkpoints(directory: Path, keep: Keep, *, whole: Path | None = None) -> list[Path]:
    """Remove the step folders that `keep` does not name and return them, oldest first.

    Never removes the best checkpoint, nor the newest one that verifies; if none does, nothing is
    removed. `whole` is a folder that was written just now, which saves reading the newest one.
    Raises OutputError, and CheckpointError if the directory cannot be read.
    """
    if keep.last is None:
        return []
    newest_first = [folder for _, folder in sorted(step_folders(directory), reverse=True)]
    candidates = newest_first[keep.last :]
    if not candidates:
        return []
    kept = {whole if whole is not None else _newest_whole(newest_first), _best(directory)}
    if kept == {None}:
        return []
    removed = [folder for folder in reversed(candidates) if folder not in kept]
    for folder in removed:
        remove_checkpoint(folder)
    return removed


def _newest_whole(newest_first: list[Path]) -> Path | None:
    for folder in newest_first:
        try:
            return load_checkpoint(folder).path
        except CheckpointError:
            continue
    return None


def _best(directory: Path) -> Path | None:
    """Return the folder that `best` names, or None."""
    try:
        step = read_best(directory).step
    except CheckpointError:
        return None
    return dict(step_folders(directory)).get(step)

"""Which checkpoints of a run stay, while it trains and when `nanochat runs prune` cleans up.

checkpoint.py owns how a checkpoint is written, verified and removed; it imports NumPy, so this file
imports it only to use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nanochat.config.keep import Keep
from nanochat.errors import CheckpointError
from nanochat.runs.best import read_best
from nanochat.runs.find import checkpoint_folders

__all__ = ["kept_steps", "newest_verified", "prune_checkpoints"]


def kept_steps(
    steps: Iterable[int],
    keep: Keep,
    *,
    newest: int | None,  # the newest step that verifies; None: none does
    best: int | None,
) -> set[int]:
    """Return the steps that stay: the last ones, the best one, and all if none verifies.

    The last ones are counted from the newest one that verifies. Newer ones are damaged, and stay
    for a person to look at.
    """
    every = sorted(steps)
    if newest is None or keep.last is None:
        return set(every)
    last = [step for step in every if step <= newest][-keep.last :]
    damaged = [step for step in every if step > newest]
    return {*last, *damaged, *(step for step in every if step == best)}


def newest_verified(folders: Mapping[int, Path]) -> tuple[int | None, list[str]]:
    """Return the newest step that verifies, and what is wrong with newer ones."""
    from nanochat.runs.checkpoint import load_checkpoint

    problems = []
    for step in sorted(folders, reverse=True):
        try:
            load_checkpoint(folders[step])
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return step, problems
    return None, problems


def prune_checkpoints(directory: Path, keep: Keep, *, whole: Path | None = None) -> list[Path]:
    """Remove the step folders that do not stay and return them, oldest first.

    `whole` is a folder that was written just now, which saves reading it. Raises OutputError, and
    CheckpointError if the directory cannot be read.
    """
    from nanochat.runs.checkpoint import remove_checkpoint

    if keep.last is None:
        return []
    folders = checkpoint_folders(directory)
    if len(folders) <= keep.last:
        return []
    newest = next((step for step, folder in folders.items() if folder == whole), None)
    if newest is None:
        newest, _ = newest_verified(folders)
    kept = kept_steps(folders, keep, newest=newest, best=_best(directory))
    removed = [folder for step, folder in folders.items() if step not in kept]
    for folder in removed:
        remove_checkpoint(folder)
    return removed


def _best(directory: Path) -> int | None:
    """Return the step that the file `best` names, or None."""
    try:
        return read_best(directory).step
    except CheckpointError:
        return None

"""Removing runs and old checkpoints from the disk.

Owns what may be removed: only what a run wrote, never through a link, and never while a process
writes to the run. retention.py decides which checkpoints stay.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nanochat.config.keep import Keep
from nanochat.config.option import closest, shown
from nanochat.errors import OutputError
from nanochat.runs.find import run_names, step_folders
from nanochat.runs.folder import CONFIG, RUN_FILES
from nanochat.runs.lock import LOCK, locked
from nanochat.runs.retention import kept_steps, newest_verified
from nanochat.runs.summary import best_step, folder_bytes
from nanochat.system.plain_files import remove_entry

__all__ = ["Pruned", "prune_run", "removable_run", "remove_run"]

_DESKTOP_FILES = {".DS_Store"}  # that a file manager leaves in every folder


# ------------------------------------------------------------------------------------------- runs


def removable_run(name: str, runs_dir: Path) -> Path:
    """Return the folder of a run that a user names, by path or by its name in `runs_dir`.

    Raises OutputError for anything that is not a run folder, and for a link.
    """
    candidates = [Path(name), runs_dir / name]
    path = next((p for p in candidates if os.path.lexists(p) and _looks_like_run(p)), None)
    path = path or next((p for p in candidates if os.path.lexists(p)), None)
    if path is None:
        near = closest(name, run_names(runs_dir)) or "; `nanochat runs` lists the runs"
        raise OutputError(f"no run {shown(name)} here or in {runs_dir}{near}")
    if path.is_symlink():
        raise OutputError(
            f"{shown(str(path))} is a link to {shown(os.readlink(path))}; name that folder, or"
            " remove the link with rm"
        )
    path = path.resolve() if path.name in ("", "..") else path  # `.` has no name to remove
    if not _looks_like_run(path):
        raise OutputError(f"{shown(str(path))} is not a run folder, so it is not removed")
    _refuse_foreign(path)
    return path


def _looks_like_run(path: Path) -> bool:
    return path.is_dir() and (os.path.lexists(path / CONFIG) or bool(_run_entries(path)))


def _run_entries(path: Path) -> set[str]:
    return _entries(path) & (RUN_FILES - {LOCK})


def _entries(path: Path) -> set[str]:
    try:
        return set(os.listdir(path))
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error


def _refuse_foreign(path: Path) -> None:
    foreign = sorted(_entries(path) - RUN_FILES - _DESKTOP_FILES)
    if foreign:
        raise OutputError(
            f"{path} holds {shown(foreign[0])}, which no run wrote; move it elsewhere first"
        )


def remove_run(path: Path) -> int:
    """Remove a run folder that removable_run returned; return the bytes that this freed.

    Links inside it are removed, never followed. Raises OutputError if a process writes to it or
    the file system refuses.
    """
    freed = folder_bytes(path)
    try:
        with locked(path):
            _refuse_foreign(path)
            # The config goes last: a removal that is cut short leaves a folder that still looks
            # like a run and can be removed again.
            for name in sorted(_entries(path) - {LOCK}, key=lambda name: (name == CONFIG, name)):
                remove_entry(path / name)
        os.rmdir(path)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error
    return freed


# ------------------------------------------------------------------------------------ checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What pruning did to one run."""

    run: Path
    removed: list[int]  # steps
    kept: list[int]
    freed_bytes: int
    problems: list[str]  # damaged checkpoints, which stay where they are


def prune_run(run: Path, keep: Keep) -> Pruned:
    """Remove the checkpoints of a run that do not stay; see retention.kept_steps.

    Raises OutputError if a process writes to the run or the file system refuses.
    """
    from nanochat.runs.checkpoint import remove_checkpoint  # imports NumPy

    with locked(run):
        steps = step_folders(run)
        newest, problems = newest_verified(steps)
        kept = kept_steps(steps, keep, newest=newest, best=best_step(run))
        removed = [step for step in steps if step not in kept]
        freed = 0
        for step in removed:
            freed += folder_bytes(steps[step])
            remove_checkpoint(steps[step])
    return Pruned(run=run, removed=removed, kept=sorted(kept), freed_bytes=freed, problems=problems)

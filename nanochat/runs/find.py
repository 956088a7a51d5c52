"""Which run, and which of its checkpoints, a user means.

Owns the search by name and path. Looks only at names and times of files: it reads no weights and
imports no NumPy, because `nanochat runs` must start at once.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nanochat.config.option import closest, shown
from nanochat.config.options import CHECKPOINTS_DIR
from nanochat.errors import CheckpointError
from nanochat.runs.best import read_best
from nanochat.runs.folder import CONFIG, RESULT

__all__ = [
    "WEIGHTS",
    "checkpoint_folders",
    "find_run",
    "holds_run",
    "is_checkpoint",
    "marked_step",
    "newest_finished_run",
    "run_names",
    "step_folders",
    "weights_bytes",
]

_STEP = re.compile(r"step-(\d+)")
# Files of runs/checkpoint.py
WEIGHTS, _MANIFEST = "weights.safetensors", "manifest.json"
REPLACED = ".replaced-"  # before the name of a step folder, while a save replaces it


def find_run(name: str | None, runs_dir: Path) -> Path:
    """Return the folder that a user names: a path, or the name of a run in `runs_dir`.

    The folder may also be a checkpoint. None means the newest finished run. Raises
    CheckpointError.
    """
    if name is None:
        return newest_finished_run(runs_dir)
    given, below = Path(name), runs_dir / name
    for path in (given, below):
        if holds_run(path) or is_checkpoint(path):
            return path
    for path in (given, below):
        if _is_folder(path):
            raise CheckpointError(
                f"{shown(str(path))} holds no run and no checkpoint; `nanochat runs` lists the runs"
            )
    if os.path.exists(given):
        raise CheckpointError(
            f"{shown(name)} is not a nanochat checkpoint folder; name the folder of a run (pickle"
            " files are never read)"
        )
    raise CheckpointError(f"no run {shown(name)} here or in {runs_dir}{_way_out(name, runs_dir)}")


def _way_out(name: str, runs_dir: Path) -> str:
    names = run_names(runs_dir)
    if near := closest(os.path.basename(name.rstrip("/")), names):
        return near
    if not names:
        return "; train one first with `nanochat train`"
    return "; `nanochat runs` lists the runs"


def newest_finished_run(runs_dir: Path) -> Path:
    """Return the run whose result was written last; equal times are decided by name.

    Raises CheckpointError if no run has a result and a checkpoint.
    """
    finished, unfinished = [], []
    for name in run_names(runs_dir):
        run = runs_dir / name
        if not step_folders(run):
            continue
        result = run / RESULT
        try:
            finished.append((result.stat().st_mtime_ns, run))
        except OSError:
            unfinished.append((run.stat().st_mtime_ns, run))
    if finished:
        return max(finished)[1]
    if unfinished:
        run = max(unfinished)[1]
        raise CheckpointError(
            f"{runs_dir} holds no finished run; name the unfinished run {run.name}, or finish it"
            f" with `nanochat train --resume --out {run}`"
        )
    raise CheckpointError(
        f"{runs_dir} holds no run with a checkpoint; train one first or name a checkpoint"
    )


def run_names(runs_dir: Path) -> list[str]:
    """Return the names of the folders in `runs_dir`, hidden ones left out; none if it is absent.

    Raises CheckpointError if it cannot be read.
    """
    if not os.path.isdir(runs_dir):
        return []
    try:
        with os.scandir(runs_dir) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise CheckpointError(f"cannot read {runs_dir}: {error.strerror or error}") from error


def holds_run(path: Path) -> bool:
    """Return whether the folder holds a run, or checkpoints that were copied from one."""
    if not _is_folder(path):
        return False
    return os.path.isfile(path / CONFIG) or bool(step_folders(path))


def is_checkpoint(path: Path) -> bool:
    """Return whether the folder is one checkpoint, complete or not."""
    if not _is_folder(path):
        return False
    return os.path.exists(path / _MANIFEST) or bool(_STEP.fullmatch(path.name))


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # unlike Path.is_dir, False for names that are too long


def step_folders(run: Path) -> dict[int, Path]:
    """Return the checkpoint folders of a run by step, the lowest first, complete or not.

    `run` may also be a folder of checkpoints. Folders that cannot be read hold none.
    """
    for directory in (run / CHECKPOINTS_DIR, run):
        try:
            if found := checkpoint_folders(directory):
                return found
        except CheckpointError:
            continue
    return {}


def checkpoint_folders(directory: Path) -> dict[int, Path]:
    """Return the checkpoint folders in a directory by step, the lowest first, complete or not.

    A crash between the two renames of a replacement leaves the previous folder under its temporary
    name; it still counts, and the next save restores its name. There are none in a directory that
    does not exist. Raises CheckpointError if it cannot be read, or for a link, which leads out of
    the run.
    """
    if not os.path.isdir(directory):
        return {}
    if directory.name == CHECKPOINTS_DIR:  # inside a run folder
        _refuse_link(directory)
    try:
        with os.scandir(directory) as entries:
            names = {entry.name for entry in entries if entry.is_dir()}
    except OSError as error:
        raise CheckpointError(f"cannot read {directory}: {error.strerror or error}") from error
    found = {}
    for name in names:
        final = name.removeprefix(REPLACED)
        matched = _STEP.fullmatch(final)
        if matched and (name == final or final not in names):
            _refuse_link(directory / name)
            found[int(matched[1])] = directory / name
    return dict(sorted(found.items()))


def _refuse_link(folder: Path) -> None:
    if os.path.islink(folder):
        raise CheckpointError(
            f"{folder} is a link, which no run folder holds; replace it by the folder that it"
            " leads to"
        )


def weights_bytes(run: Path, step: int) -> int | None:
    """Return the size of the weights file of a checkpoint, or None if there is none."""
    folder = step_folders(run).get(step)
    try:
        return None if folder is None else (folder / WEIGHTS).stat().st_size
    except OSError:
        return None


def marked_step(run: Path) -> int | None:
    """Return the step of the checkpoint that the run marks as its best, or None.

    A damaged mark, or one whose checkpoint is gone, is none.
    """
    try:
        step = read_best(run / CHECKPOINTS_DIR).step
    except CheckpointError:
        return None
    return step if step in step_folders(run) else None

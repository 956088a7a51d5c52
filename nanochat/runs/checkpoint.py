"""Checkpoints: folders `step-000123/` that are whole or absent.

Owns the order of writes and the search for a checkpoint. reading.py reads and verifies one, best.py
reads the file `best`, and retention.py decides which checkpoints a run keeps.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import CHECKPOINTS_DIR
from nanochat.errors import CheckpointError, OtherVersion
from nanochat.model.state import TrainerState
from nanochat.runs.best import BEST, BEST_FORMAT, BEST_VERSION, BestMark, read_best
from nanochat.runs.find import REPLACED, checkpoint_folders
from nanochat.runs.reading import (
    CONFIG,
    DATA,
    FORMAT,
    MANIFEST,
    OPTIMIZER,
    SHARE,
    TOKENIZER,
    TRAINER,
    VERSION,
    WEIGHTS,
    Checkpoint,
    load_checkpoint,
    read_manifest,
)
from nanochat.system.durable import (
    ensure_folder,
    output_error,
    replace_durably,
    sync_folder,
    write_durably,
)
from nanochat.system.json_text import json_bytes
from nanochat.system.plain_files import is_folder, remove_entry
from nanochat.training.engine import EngineState

__all__ = [
    "BEST",
    "BestMark",
    "Checkpoint",
    "clear_leftovers",
    "find_checkpoint",
    "load_checkpoint",
    "mark_best",
    "newest_checkpoint",
    "newest_run",
    "read_best",
    "remove_checkpoint",
    "resolve_checkpoint",
    "save_checkpoint",
]

# Siblings of the step folders that exist only during a save, or after an interrupted one; so does
# the previous folder of the same step, REPLACED, until the new one has its name.
SAVING = ".saving-"  # being written
REMOVED = ".removed-"  # no longer kept, being deleted


# ----------------------------------------------------------------------------------------- saving


def save_checkpoint(
    directory: Path,
    *,
    config: dict[str, Any],
    tokenizer: dict[str, Any],
    data: dict[str, Any],
    trainer: TrainerState,
    state: EngineState,
) -> Path:
    """Write directory/step-NNNNNN and return it; replace a checkpoint of the same step.

    Raises OutputError if the file system refuses. A save that is interrupted at any point leaves
    only whole folders under final names.
    """
    contents = {
        WEIGHTS: _pack(state.weights),
        OPTIMIZER: _pack(state.optimizer),
        CONFIG: json_bytes(config),
        TOKENIZER: json_bytes(tokenizer),
        DATA: json_bytes(data),
        TRAINER: json_bytes({**asdict(trainer), SHARE: state.share._asdict()}),
    }
    contents[MANIFEST] = json_bytes(_manifest(contents))
    target = directory / f"step-{trainer.step:06d}"
    try:
        ensure_folder(directory)  # not its parents: the run's folder may have been moved
        _clear_leftovers(directory)
        _write_folder(target, contents)
    except OSError as error:
        raise output_error(target, error) from error
    return target


def clear_leftovers(directory: Path) -> None:
    """Undo or finish the saves that a crash has interrupted. Raises OutputError."""
    try:
        _clear_leftovers(directory)
    except OSError as error:
        raise output_error(directory, error) from error


def _manifest(contents: Mapping[str, bytes]) -> dict[str, Any]:
    # Hashed from memory, which saves reading the files back.
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in contents.items()
    }
    return {"format": FORMAT, "version": VERSION, "files": files}


def _pack(arrays: Mapping[str, NDArray[np.floating]]) -> bytes:
    from safetensors.numpy import save

    # safetensors reads the memory behind an array as if it were contiguous.
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def _write_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    """Write a sibling of the target, force it to disk, then rename it."""
    temporary = target.with_name(f"{SAVING}{target.name}")
    replaced = target.with_name(f"{REPLACED}{target.name}")
    try:
        temporary.mkdir()
        for name, content in contents.items():
            write_durably(temporary / name, content)
        sync_folder(temporary)
        if target.exists():
            os.rename(target, replaced)
        os.rename(temporary, target)
        sync_folder(target.parent)
    finally:
        # Also after a KeyboardInterrupt. The next save removes what cannot be removed now.
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
        for leftover in (temporary, replaced):
            if leftover.exists():
                remove_entry(leftover, ignore_errors=True)


def _clear_leftovers(directory: Path) -> None:
    for replaced in directory.glob(f"{REPLACED}step-*"):
        target = directory / replaced.name.removeprefix(REPLACED)
        if target.exists() or not is_folder(replaced):
            remove_entry(replaced)
        else:
            os.rename(replaced, target)
    for pattern in (f"{SAVING}step-*", f"{REMOVED}*step-*"):
        for leftover in directory.glob(pattern):
            remove_entry(leftover)
    for temporary in directory.glob(f".{BEST}.tmp"):
        remove_entry(temporary)


def mark_best(path: Path, val_loss: float | None) -> None:
    """Name a complete step folder as the best of its directory, durably and in one rename.

    Raises CheckpointError if the folder has no manifest, OutputError if the file system refuses.
    """
    record = {
        "format": BEST_FORMAT,
        "version": BEST_VERSION,
        "step": _step_of(path),
        "val_loss": val_loss,
        "weights_sha256": read_manifest(path)[WEIGHTS]["sha256"],
    }
    replace_durably(path.parent / BEST, json_bytes(record))


def remove_checkpoint(path: Path) -> None:
    """Delete a step folder. Raises OutputError.

    The folder first takes a name that no search finds, durably, so a deletion that is cut short
    leaves no damaged checkpoint. The next save removes the rest.
    """
    hidden = path.with_name(f"{REMOVED}{path.name}")
    try:
        if os.path.lexists(hidden):  # of a deletion that was cut short
            remove_entry(hidden)
        os.rename(path, hidden)
        sync_folder(path.parent)
        remove_entry(hidden)
    except OSError as error:
        raise output_error(path, error) from error


# ---------------------------------------------------------------------------------------- finding


def newest_checkpoint(directory: Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint of the most steps that verifies, and why newer ones were skipped.

    Raises CheckpointError if none does.
    """
    skipped: list[str] = []
    for folder in reversed(checkpoint_folders(directory).values()):
        try:
            return load_checkpoint(folder), skipped
        except OtherVersion:
            raise  # an older checkpoint of the run has the same config
        except CheckpointError as error:
            skipped.append(str(error))
    if skipped:
        raise CheckpointError(f"{directory} holds no complete checkpoint: {'; '.join(skipped)}")
    raise CheckpointError(
        f"{directory} holds no checkpoint; the run ended before its first one, so start it again"
        " without --resume"
    )


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if it does not exist."""
    if not os.path.isdir(folder):
        return []
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"cannot read {folder}: {error.strerror or error}") from error


def _step_of(path: Path) -> int:
    matched = re.fullmatch(r"step-(\d+)", path.name)
    assert matched is not None, path
    return int(matched[1])


def find_checkpoint(run: Path, which: str) -> Checkpoint:
    """Return a checkpoint of a run by name: `best`, `last`, a number of steps, or a path.

    `last` is the newest checkpoint that verifies. If `best` is missing or damaged, the newest one
    replaces it. `Checkpoint.skipped` says why a checkpoint was passed over, one sentence each. A
    path may name any step folder, run folder or file `best`; `run` does not matter then.

    Raises CheckpointError: no such run, no such step, nothing that verifies.
    """
    matched = re.fullmatch(r"(step-)?([0-9]{1,18})", which)
    is_path = which not in ("best", "last") and matched is None
    if is_path or (matched is not None and matched[1] and os.path.exists(which)):
        return _with_reasons(*resolve_checkpoint(Path(which), run.parent))
    if not os.path.isdir(run):
        raise CheckpointError(f"run {run} does not exist; give the folder of a run")
    directory = run / CHECKPOINTS_DIR
    if not os.path.isdir(directory):
        directory = run  # checkpoints that were copied from a run
    if matched:
        return _load_step(directory, int(matched[2]))
    if which == "last":
        return _with_reasons(*newest_checkpoint(directory))
    return _load_best(directory)


def _with_reasons(checkpoint: Checkpoint, skipped: list[str]) -> Checkpoint:
    checkpoint.skipped = skipped
    return checkpoint


def _load_step(directory: Path, step: int) -> Checkpoint:
    by_step = checkpoint_folders(directory)
    if step not in by_step:
        kept = ", ".join(map(str, by_step)) or "none"
        raise CheckpointError(
            f"{directory} must hold the checkpoint of step {step}, got steps {kept}; use one of"
            " them, best or last"
        )
    return load_checkpoint(by_step[step])


def _load_best(directory: Path) -> Checkpoint:
    """Load the checkpoint that `best` names, or else the newest, with the reason."""
    try:
        mark = read_best(directory)
        found = _load_step(directory, mark.step)
        if found.weights_sha256 != mark.weights_sha256:
            raise CheckpointError(f"{found.path} has other weights than {directory / BEST} names")
    except OtherVersion:
        raise
    except CheckpointError as error:
        found, skipped = newest_checkpoint(directory)
        reason = f"{error}; using the newest checkpoint instead, {found.path.name}"
        found.skipped = [reason, *skipped]
    return found


def resolve_checkpoint(path: Path | None, runs_dir: Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint that a user names, and why newer ones of the same run were skipped.

    A step folder names itself, a run folder its best checkpoint, a file `best` the checkpoint in
    it, None the best checkpoint of the run under `runs_dir` that saved last. Runs of older versions
    have no file `best`; their newest checkpoint is taken. Raises CheckpointError.
    """
    if path is None:
        path = newest_run(runs_dir)
    if not os.path.exists(path):
        raise CheckpointError(f"{path} does not exist; give a run folder or a checkpoint folder")
    if os.path.isfile(path) and path.name == BEST:
        read_best(path.parent)  # a named file must be sound
        found = _load_best(path.parent)
        return found, found.skipped
    if not os.path.isdir(path):
        raise CheckpointError(
            f"{path} is not a nanochat checkpoint folder; name the folder of a run (pickle files"
            " are never read)"
        )
    for directory in (path / CHECKPOINTS_DIR, path):
        if checkpoint_folders(directory):
            if not os.path.exists(directory / BEST):
                return newest_checkpoint(directory)
            found = _load_best(directory)
            return found, found.skipped
    if os.path.exists(path / MANIFEST) or re.fullmatch(r"step-\d+", path.name):
        return load_checkpoint(path), []
    raise CheckpointError(f"{path} holds no checkpoint; give a run folder or a checkpoint folder")


def newest_run(runs_dir: Path) -> Path:
    """Return the run whose newest step folder was written last; equal times are decided by name."""
    found = [
        (folder.stat().st_mtime_ns, run)
        for run in _entries(runs_dir)
        for folder in checkpoint_folders(run / CHECKPOINTS_DIR).values()
    ]
    if not found:
        raise CheckpointError(
            f"{runs_dir} holds no run with a checkpoint; train one first or name a checkpoint"
        )
    return max(found)[1]

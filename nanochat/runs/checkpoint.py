"""Checkpoints: folders `step-000123/` that are whole or absent, and verified before they are read.

Owns the layout, the manifest, the order of writes and the search for the newest checkpoint. The
caller knows what the config, tokenizer and data dictionaries mean. Weights are safetensors,
everything else is JSON: a pickle is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import CHECKPOINTS_DIR
from nanochat.errors import CheckpointError
from nanochat.model.state import TrainerState
from nanochat.system.durable import output_error, sync_folder, write_durably
from nanochat.training.engine import EngineState

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "newest_checkpoint",
    "newest_run",
    "resolve_checkpoint",
    "save_checkpoint",
]

FORMAT = "nanochat checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
CONFIG, TOKENIZER, DATA, TRAINER = "config.json", "tokenizer.json", "data.json", "trainer.json"
FILES = (WEIGHTS, OPTIMIZER, CONFIG, TOKENIZER, DATA, TRAINER)

# Siblings of the step folders that exist only during a save, or after an interrupted one.
SAVING = ".saving-"  # being written
REPLACED = ".replaced-"  # the previous folder of the same step, until the new one has its name


@dataclass
class Checkpoint:
    """A checkpoint folder that was read and verified."""

    path: Path
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    data: dict[str, Any]
    trainer: TrainerState
    state: EngineState

    @property
    def run_folder(self) -> Path:
        return self.path.parent.parent


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
        CONFIG: _dump(config),
        TOKENIZER: _dump(tokenizer),
        DATA: _dump(data),
        TRAINER: _dump(asdict(trainer)),
    }
    contents[MANIFEST] = _dump(_manifest(contents))
    target = directory / f"step-{trainer.step:06d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(directory)
        _write_folder(target, contents)
    except OSError as error:
        raise output_error(target, error) from error
    return target


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


def _dump(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


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
                _remove(leftover, ignore_errors=True)


def _remove(folder: Path, *, ignore_errors: bool = False) -> None:
    import shutil  # few saves have anything to remove

    shutil.rmtree(folder, ignore_errors=ignore_errors)


def _clear_leftovers(directory: Path) -> None:
    """Undo or finish the saves that a crash interrupted."""
    for replaced in directory.glob(f"{REPLACED}step-*"):
        target = directory / replaced.name.removeprefix(REPLACED)
        if target.exists():
            _remove(replaced)
        else:
            os.rename(replaced, target)
    for temporary in directory.glob(f"{SAVING}step-*"):
        _remove(temporary)


# ---------------------------------------------------------------------------------------- loading


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a step folder. Raises CheckpointError if its content differs from its manifest."""
    manifest = _read_manifest(path)
    contents = {name: _read_verified(path / name, manifest[name]) for name in FILES}
    try:
        return Checkpoint(
            path=path,
            config=json.loads(contents[CONFIG]),
            tokenizer=json.loads(contents[TOKENIZER]),
            data=json.loads(contents[DATA]),
            trainer=_trainer_state(contents[TRAINER]),
            state=EngineState(
                weights=_unpack(contents[WEIGHTS]), optimizer=_unpack(contents[OPTIMIZER])
            ),
        )
    except Exception as error:  # safetensors has its own exception classes
        raise CheckpointError(f"{path} was not written by nanochat: {error}") from error


def _trainer_state(content: bytes) -> TrainerState:
    saved = json.loads(content)
    saved.pop("extra", None)  # an empty field in older checkpoints
    return TrainerState(**saved)


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 by file name."""
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; {path} is not a complete checkpoint folder")
    content = _read(file)
    try:
        manifest = json.loads(content)
        kind, version, files = manifest["format"], manifest["version"], manifest["files"]
        sizes = {name: (files[name]["size"], files[name]["sha256"]) for name in FILES}
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} is damaged: it is not a checkpoint manifest") from error
    if kind != FORMAT or version != VERSION:
        raise CheckpointError(
            f"{file} must have format {FORMAT!r} version {VERSION}, got {kind!r} version"
            f" {version!r}"
        )
    if set(files) != set(sizes) or _dump(manifest) != content:
        raise CheckpointError(f"{file} is damaged: it differs from what nanochat wrote")
    return {str(name): dict(entry) for name, entry in files.items()}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error


def _read_verified(file: Path, expected: Mapping[str, Any]) -> bytes:
    content = _read(file)
    if len(content) != expected["size"]:
        raise CheckpointError(
            f"{file} is damaged: its manifest says {expected['size']} bytes, got {len(content)}"
        )
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 differs from its manifest")
    return content


def _unpack(content: bytes) -> dict[str, NDArray[np.floating]]:
    from safetensors.numpy import load

    # Views of bytes are read-only; copies are not.
    return {name: array.copy() for name, array in load(content).items()}


# ---------------------------------------------------------------------------------------- finding


def newest_checkpoint(directory: Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint of the most steps that verifies, and why newer ones were skipped.

    Raises CheckpointError if none does.
    """
    skipped: list[str] = []
    for _, folder in sorted(_step_folders(directory), reverse=True):
        try:
            return load_checkpoint(folder), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    reasons = f": {'; '.join(skipped)}" if skipped else ""
    raise CheckpointError(
        f"{directory} holds no {'complete ' if skipped else ''}checkpoint{reasons}"
    )


def _step_folders(directory: Path) -> Iterator[tuple[int, Path]]:
    """Yield (steps, folder) of every checkpoint, complete or not; nothing without a directory.

    A crash between the two renames of a replacement leaves the previous folder under its temporary
    name; it still counts, and the next save restores its name.
    """
    for entry in _entries(directory):
        matched = re.fullmatch(rf"({re.escape(REPLACED)})?step-(\d+)", entry.name)
        if not matched or not entry.is_dir():
            continue
        if matched[1] is None or not (directory / entry.name.removeprefix(REPLACED)).exists():
            yield int(matched[2]), entry


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if it does not exist."""
    if not os.path.isdir(folder):
        return []
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"cannot read {folder}: {error.strerror or error}") from error


def resolve_checkpoint(path: Path | None, runs_dir: Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint that a user names, and why newer ones of the same run were skipped.

    A step folder names itself, a run folder its newest checkpoint, None the newest checkpoint of
    the run under `runs_dir` that saved last. Raises CheckpointError.
    """
    if path is None:
        path = newest_run(runs_dir)
    if not os.path.exists(path):
        raise CheckpointError(f"{path} does not exist; give a run folder or a checkpoint folder")
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a nanochat checkpoint folder; pickle files are never read"
        )
    for directory in (path / CHECKPOINTS_DIR, path):
        if any(_step_folders(directory)):
            return newest_checkpoint(directory)
    if (path / MANIFEST).exists() or re.fullmatch(r"step-\d+", path.name):
        return load_checkpoint(path), []
    raise CheckpointError(f"{path} holds no checkpoint; give a run folder or a checkpoint folder")


def newest_run(runs_dir: Path) -> Path:
    """Return the run whose newest step folder was written last; equal times are decided by name."""
    found = [
        (folder.stat().st_mtime_ns, run)
        for run in _entries(runs_dir)
        for _, folder in _step_folders(run / CHECKPOINTS_DIR)
    ]
    if not found:
        raise CheckpointError(
            f"{runs_dir} holds no run with a checkpoint; train one first or name a checkpoint"
        )
    return max(found)[1]

"""Reading one checkpoint folder, which another person may have made.

Owns the order of the checks: sizes and types of files before their content, records before arrays,
the shapes of arrays before memory for them. Weights are safetensors, everything else is JSON: a
pickle is never read. checkpoint.py owns which checkpoint is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import shown
from nanochat.config.options import TrainConfig, merged_config, with_new_names
from nanochat.data.tokenizer import Tokenizer, tokenizer_from_dict
from nanochat.errors import CheckpointError, ConfigError, OtherVersion, TokenizerError
from nanochat.model.changes import check_changes
from nanochat.model.parameters import Changes
from nanochat.model.state import STEP, TrainerState, check_shapes, saved_shapes
from nanochat.ngram.share import Share
from nanochat.runs import schema
from nanochat.system.json_text import json_bytes
from nanochat.system.plain_files import plain_file, read_plain
from nanochat.system.tensor_file import MOST_HEADER, TensorEntry, read_header
from nanochat.training.engine import EngineState

__all__ = [
    "CONFIG",
    "DATA",
    "FORMAT",
    "MANIFEST",
    "OPTIMIZER",
    "SHARE",
    "TOKENIZER",
    "TRAINER",
    "VERSION",
    "WEIGHTS",
    "Checkpoint",
    "check_can_be_saved",
    "load_checkpoint",
    "read_manifest",
]

FORMAT = "nanochat checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
CONFIG, TOKENIZER, DATA, TRAINER = "config.json", "tokenizer.json", "data.json", "trainer.json"
SHARE = "share"  # of the engine's state, in TRAINER; older checkpoints lack it
FILES = (WEIGHTS, OPTIMIZER, CONFIG, TOKENIZER, DATA, TRAINER)

# Bytes of a file with a record. A tokenizer may have a million characters.
_MOST_BYTES = {MANIFEST: 1 << 16, CONFIG: 1 << 22, TOKENIZER: 1 << 26, DATA: 1 << 19}
_MOST_BYTES[TRAINER] = 1 << 16
_WEIGHT, _STATE = "weight", "optimizer state"
_CHUNK = 1 << 20
_MOST_HASHED = 1 << 28  # bytes that are read only to tell a damaged file from another model's
_FOLDER = re.compile(r"(?:\.replaced-)?step-([0-9]+)")


@dataclass
class Checkpoint:
    """A checkpoint folder that was read and verified."""

    path: Path
    config: dict[str, Any]  # as saved, with the names and the options of this version
    options: TrainConfig  # the same
    tokenizer: dict[str, Any]
    data: dict[str, Any]
    trainer: TrainerState
    state: EngineState
    weights_sha256: str  # of the file
    skipped: list[str] = field(default_factory=list)  # why another checkpoint was not taken

    def built_tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raises CheckpointError, and MissingDependency for bpe."""
        try:
            return tokenizer_from_dict(self.tokenizer)
        except TokenizerError as error:
            raise CheckpointError(f"{self.path} has no sound tokenizer: {error}") from error

    @property
    def changes(self) -> Changes:
        """What the model file of the run changed of the matrices, as it was recorded."""
        return _changes(self.data)

    @property
    def run_folder(self) -> Path:
        return self.path.parent.parent


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a step folder.

    Nothing is allocated or built before it is known to be right: the files are those of the
    manifest, the records those of `schema`, and the arrays those of the config's model. Raises
    CheckpointError, and OtherVersion for a config that this version does not know.
    """
    try:
        return _loaded(path)
    except MemoryError as error:
        size = sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path))
        raise CheckpointError(
            f"{path} does not fit in memory; its files have {size:,} bytes"
        ) from error


def _loaded(path: Path) -> Checkpoint:
    manifest = read_manifest(path)
    contents = {
        name: _read_verified(path / name, manifest[name], most)
        for name, most in _MOST_BYTES.items()
        if name != MANIFEST
    }
    with _not_ours(path):
        saved = schema.parse_record(contents[TRAINER], TRAINER, schema.TRAINER)
        tokenizer = schema.parse_record(contents[TOKENIZER], TOKENIZER, schema.TOKENIZER)
        data = schema.parse_record(contents[DATA], DATA, schema.DATA)
        config = with_new_names(schema.parse_record(contents[CONFIG], CONFIG, schema.OBJECT))
        config |= {name: value for name, value in schema.ADDED.items() if name not in config}
    options = _options(path, config)
    vocab_size = schema.vocab_size_of(tokenizer)
    with _not_ours(path):
        _check_agreement(path, options, saved, tokenizer, data)
    saved.pop("extra", None)  # an empty field in older checkpoints
    share = Share(**{name: float(value) for name, value in saved.pop(SHARE, {}).items()})
    expected = saved_shapes(options, vocab_size, _changes(data))
    shapes = dict(zip((WEIGHTS, OPTIMIZER), expected, strict=True))
    for name in shapes:
        _check_arrays(path, name, manifest[name], shapes[name], options)
    arrays = {name: _read_arrays(path / name, manifest[name]) for name in shapes}
    trainer = TrainerState(**saved)
    _check_values(path, arrays[WEIGHTS], arrays[OPTIMIZER], trainer.step)
    return Checkpoint(
        path=path, config=config, options=options, tokenizer=tokenizer, data=data, trainer=trainer,
        state=EngineState(weights=arrays[WEIGHTS], optimizer=arrays[OPTIMIZER], share=share),
        weights_sha256=str(manifest[WEIGHTS]["sha256"]),
    )  # fmt: skip


def _changes(data: Mapping[str, Any]) -> Changes:
    """Return what the model file of the run changed of the matrices, from the record of it."""
    recorded = data.get("model_file", {}).get("parameters", {})
    return {name: shape and (shape[0], shape[1]) for name, shape in recorded.items()}


@contextmanager
def _not_ours(path: Path) -> Iterator[None]:
    """Turn the ValueError of a check into the error that names the checkpoint."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{path} was not written by nanochat: {error}") from error


# ------------------------------------------------------------------------------------------- files


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of a checkpoint's files by name. Raises CheckpointError."""
    file = path / MANIFEST
    if not os.path.lexists(file):
        raise CheckpointError(f"{file} is missing; {path} is not a complete checkpoint folder")
    content = _read(file, _MOST_BYTES[MANIFEST])
    try:
        manifest = schema.parse_record(content, MANIFEST, schema.MANIFEST)
        files = {name: manifest["files"][name] for name in FILES}
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is damaged: it is not a checkpoint manifest") from error
    kind, version = manifest["format"], manifest["version"]
    if kind != FORMAT or version != VERSION:
        raise CheckpointError(
            f"{file} must have format {FORMAT!r} version {VERSION}, got {kind!r:.60} version"
            f" {version!r}; use the nanochat that saved it"
        )
    if set(manifest["files"]) != set(files) or json_bytes(manifest) != content:
        raise CheckpointError(f"{file} is damaged: it differs from what nanochat wrote")
    return files


def _read(file: Path, most: int) -> bytes:
    with _readable(file):
        return read_plain(file, most)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error


@contextmanager
def _sized(file: Path, entry: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """Open a file of the size that the manifest says."""
    with _readable(file), plain_file(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != entry["size"]:
            raise CheckpointError(
                f"{file} is damaged: its manifest says {entry['size']} bytes, got {size}"
            )
        yield opened


def _read_verified(file: Path, entry: Mapping[str, Any], most: int) -> bytes:
    with _sized(file, entry) as opened:
        if entry["size"] > most:
            raise CheckpointError(f"{file} must have at most {most:,} bytes, got {entry['size']:,}")
        content = opened.read()
    _check_hash(file, hashlib.sha256(content), entry)
    return content


def _check_hash(file: Path, found: Any, entry: Mapping[str, Any]) -> None:
    if found.hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{file} is damaged: its SHA-256 differs from its manifest")


# ----------------------------------------------------------------------------------------- records


def check_can_be_saved(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Raise ConfigError for records that no command would read again, before a run is trained."""
    config = {**config, **schema.NOT_SAVED}
    for name, record, check, way_out in (
        (CONFIG, config, schema.CONFIG, "name a folder instead of very many files"),
        (TOKENIZER, tokenizer, schema.TOKENIZER, "use tokenizer byte"),
    ):
        content, most = json_bytes(record), _MOST_BYTES[name]
        try:
            if len(content) > most:
                raise ValueError(f"{name} must have at most {most:,} bytes, got {len(content):,}")
            schema.parse_record(content, name, check)
        except ValueError as error:
            raise ConfigError(
                f"cannot save this run in a checkpoint: {error}; {way_out}"
            ) from error


def _options(path: Path, config: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a checkpoint. Raises OtherVersion."""
    try:
        schema.CONFIG(CONFIG, config)
        return merged_config(config)
    except (ValueError, ConfigError) as error:
        raise OtherVersion(
            f"{path} has a config of another version: {error}; use the version of nanochat that"
            " trained it, or train again"
        ) from error


def _check_agreement(
    path: Path,
    options: TrainConfig,
    trainer: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    data: Mapping[str, Any],
) -> None:
    """Raise ValueError if two files contradict each other."""
    step, named = trainer["step"], _FOLDER.fullmatch(path.name)
    if named and int(named[1]) != step:
        raise ValueError(f"step of {TRAINER} must be {int(named[1])}, as its folder, got {step}")
    # A time budget goes on for as many steps as fit; its steps are an estimate.
    if trainer.get("budget") is None and step > options.steps:
        raise ValueError(
            f"step of {TRAINER} must be at most {options.steps}, the steps of {CONFIG}, got {step}"
        )
    if (options.model_file is None) != ("model_file" not in data):
        raise ValueError(f"model_file of {CONFIG} must have its record in {DATA}")
    try:
        check_changes(f"model_file of {DATA}", _changes(data), options)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if tokenizer["kind"] != options.tokenizer:
        raise ValueError(
            f"kind of {TOKENIZER} must be {options.tokenizer}, as in {CONFIG}, got"
            f" {tokenizer['kind']}"
        )
    vocab_size = schema.vocab_size_of(tokenizer)
    if (highest := max(data["start"])) >= vocab_size:
        raise ValueError(
            f"start of {DATA} must hold token ids below {vocab_size}, the size of the vocabulary,"
            f" got {highest}"
        )


# ------------------------------------------------------------------------------------------ arrays


def _check_arrays(
    path: Path,
    name: str,
    entry: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    options: TrainConfig,
) -> None:
    """Raise CheckpointError unless the file's arrays are those of the model, from its header."""
    types = {each: np.dtype(_dtype(each, options)) for each in shapes}
    size = sum(types[each].itemsize * int(np.prod(shapes[each])) for each in shapes)
    file = path / name
    with _sized(file, entry) as opened:
        try:
            if entry["size"] > size + MOST_HEADER:
                raise ValueError(
                    f"{name} must have {size:,} bytes of arrays, as the model of {CONFIG}, got a"
                    f" file of {entry['size']:,}"
                )
            header = _header(opened, name, entry)
            check_shapes(header, shapes, _WEIGHT if name == WEIGHTS else _STATE)
            for each, found in header.items():
                if found.dtype != types[each]:
                    raise ValueError(
                        f"{shown(each)} of {name} must be {types[each]}, got {found.dtype}"
                    )
        except (ValueError, CheckpointError) as error:
            if entry["size"] <= _MOST_HASHED:
                _check_hash(file, _hash(opened), entry)
            if isinstance(error, CheckpointError):
                raise CheckpointError(f"{path}: {error}") from error
            raise CheckpointError(f"{path} was not written by nanochat: {error}") from error


def _dtype(name: str, options: TrainConfig) -> str:
    """Return the type of a saved array: that of the master weights, apart from the step."""
    is_double = options.dtype == "float64" or name == STEP
    return "float64" if is_double else "float32"


def _header(file: BinaryIO, name: str, entry: Mapping[str, Any]) -> Mapping[str, TensorEntry]:
    try:
        return read_header(file, entry["size"])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _hash(file: BinaryIO) -> Any:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest


def _read_arrays(file: Path, entry: Mapping[str, Any]) -> dict[str, NDArray[np.floating]]:
    """Return the arrays of a file whose header was checked, read into their own memory."""
    arrays: dict[str, NDArray[np.floating]] = {}
    with _sized(file, entry) as opened, _not_ours(file):
        header = read_header(opened, entry["size"])
        opened.seek(0)
        first = min((each.start for each in header.values()), default=entry["size"])
        digest = hashlib.sha256(opened.read(first))
        for name, each in header.items():
            array = np.empty(each.shape, each.dtype)
            content = array.reshape(-1).view(np.uint8)
            if opened.readinto(content) != content.size:  # type: ignore[attr-defined]
                raise ValueError(f"{shown(name)} must be whole")
            digest.update(content.data)
            arrays[name] = array
    _check_hash(file, digest, entry)
    return arrays


def _check_values(
    path: Path,
    weights: Mapping[str, NDArray[np.floating]],
    optimizer: Mapping[str, NDArray[np.floating]],
    step: int,
) -> None:
    """Raise CheckpointError for values that no training leaves."""
    for what, arrays in ((_WEIGHT, weights), (_STATE, optimizer)):
        for name, array in arrays.items():
            _check_where(np.isfinite(array), array, f"{what} {shown(name)} of {path}", "be finite")
    for name, array in optimizer.items():
        if name.startswith("v."):
            what = f"{_STATE} {shown(name)} of {path}"
            _check_where(array >= 0, array, what, "be at least 0, as a mean of squares")
    if optimizer:
        updates = float(optimizer[STEP][0])
        if not (updates.is_integer() and 0 <= updates <= step):
            raise CheckpointError(
                f"{_STATE} {STEP} of {path} must be a whole number between 0 and {step}, got"
                f" {updates:g}"
            )


def _check_where(
    is_right: NDArray[np.bool_], array: NDArray[np.floating], what: str, rule: str
) -> None:
    if not is_right.all():
        index = np.unravel_index(int(np.argmin(is_right)), array.shape)
        place = [int(i) for i in index]
        raise CheckpointError(f"{what} must {rule}, got {array[index]} at {place}")

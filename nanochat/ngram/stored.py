"""Counts on disk: `ngram-<sha256>.safetensors`, named by its content and mapped into memory.

One file serves all checkpoints of a run. Its text is stored with it: counts of long contexts hold
most of the text anyway. Counts with a cut-off, of a long text, do not hold it, and have a format
with more arrays.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanochat.config.option import shown
from nanochat.errors import CheckpointError, KernelError
from nanochat.ngram.kneser_ney import COLUMNS, CUT_COLUMNS, KneserNey
from nanochat.ngram.mixing import FOLDS
from nanochat.system.durable import ensure_folder, output_error, replace_durably
from nanochat.system.plain_files import plain_file
from nanochat.system.tensor_file import TensorEntry, read_header

__all__ = ["load_counts", "save_counts"]

_SIZES, _TRAIN = "sizes", "train"  # order, vocabulary and parts; the cross-fitted probabilities
_CHUNK = 1 << 20
_FORMAT, _WITH_CUTOFF = "format", 2  # without an entry, the format is 1: that of all n-grams


def save_counts(
    model: KneserNey,
    train: NDArray[np.float32],  # (pairs,) cross-fitted, for a resume
    folder: Path,
    parts: int = FOLDS,  # of `mixing.training_part`, which has these pairs
) -> str:
    """Write the counts into a folder and return the SHA-256 of the file. Raises OutputError."""
    from safetensors.numpy import save

    # Not as metadata, which the library writes in a random order.
    sizes = np.array([model.order, model.vocab_size, parts], dtype=np.uint32)
    arrays = {**model.views(), _SIZES: sizes, _TRAIN: train}
    if model.cutoff is not None:
        arrays[_FORMAT] = np.array([_WITH_CUTOFF], dtype=np.uint32)
    content = save(arrays)
    sha256 = hashlib.sha256(content).hexdigest()
    path = _path(folder, sha256)
    try:
        if not path.exists():
            ensure_folder(folder)
            replace_durably(path, content)
    except OSError as error:
        raise output_error(path, error) from error
    return sha256


def load_counts(folder: Path, sha256: str) -> tuple[KneserNey, NDArray[np.float32], int]:
    """Return model, probabilities and parts as `save_counts` wrote them, mapped into memory.

    Raises CheckpointError.
    """
    path = _path(folder, sha256)
    try:
        if os.path.islink(folder):
            raise OSError(errno.EINVAL, f"{folder} must be a folder, got a link")
        with plain_file(path) as file:
            content = np.memmap(file, dtype=np.uint8, mode="r")
            entries = _entries(file, len(content))
            file.seek(0)
            found = _hash(file)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} must hold the counts of the model, got: {reason}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} was not written by nanochat: {error}") from error
    if found != sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {found[:12]}…")
    arrays: dict[str, NDArray[Any]] = {
        name: content[each.start : each.stop].view(each.dtype).reshape(each.shape)
        for name, each in entries.items()
    }
    if _FORMAT in arrays and (number := int(arrays.pop(_FORMAT)[0])) != _WITH_CUTOFF:
        raise CheckpointError(
            f"{path} must have the format 1 or {_WITH_CUTOFF}, got {number};"
            " load it with the nanochat that wrote it"
        )
    (order, vocab_size, parts), train = arrays.pop(_SIZES).tolist(), arrays.pop(_TRAIN)
    try:
        if not 1 <= parts <= FOLDS:
            raise ValueError(f"parts must be between 1 and {FOLDS}, got {parts}")
        if not ((train >= 0) & (train <= 1)).all():
            raise ValueError(f"{_TRAIN} must hold probabilities")
        return KneserNey.open(order, vocab_size, arrays), train, parts
    except (ValueError, KernelError) as error:
        raise CheckpointError(f"{path} was not written by nanochat: {error}") from error


def _path(folder: Path, sha256: str) -> Path:
    return folder / f"ngram-{sha256}.safetensors"


def _entries(file: BinaryIO, size: int) -> Mapping[str, TensorEntry]:
    """Return the arrays of a file by name. Raises CheckpointError, and OSError."""
    try:
        entries = read_header(file, size)
    except ValueError as error:
        raise CheckpointError(f"it {error}") from error
    expected = _WITH_CUTOFF_LAYOUT if _FORMAT in entries else _LAYOUT
    for name in sorted({*expected, *entries}):
        if name not in entries:
            raise CheckpointError(f"it must have the array {name}, got none")
        if name not in expected:
            raise CheckpointError(f"it must not have the array {shown(name)}")
        found, (dtype, shape) = entries[name], expected[name]
        fits = len(found.shape) == len(shape) and all(
            wanted in (-1, length) for length, wanted in zip(found.shape, shape, strict=True)
        )
        if found.dtype != dtype or not fits:
            lengths = ", ".join("n" if length < 0 else str(length) for length in shape)
            raise CheckpointError(
                f"{name} must be {dtype} ({lengths}), got {found.dtype} {found.shape}"
            )
    return entries


def _layout(columns: Mapping[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of the arrays by name; a length of −1 may be any."""
    tables = {name: ("uint32", (-1, count)) for name, count in columns.items()}
    return {
        **tables, "discounts": ("float64", (-1, 2, 3)), _SIZES: ("uint32", (3,)),
        _TRAIN: ("float32", (-1,)),
    }  # fmt: skip


_LAYOUT = _layout(COLUMNS)
_WITH_CUTOFF_LAYOUT = {
    **_layout(CUT_COLUMNS), "counts_of_counts": ("int64", (-1, 2, 4)), "cut": ("int64", (3,)),
    _FORMAT: ("uint32", (1,)),
}  # fmt: skip


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()

"""Counts on disk: `ngram-<sha256>.safetensors`, named by its content and mapped into memory.

One file serves all checkpoints of a run. Its text is stored with it: counts of long contexts hold
most of the text anyway. Counts with a cut-off, of a long text, do not hold it, and have a format
with more arrays.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import CheckpointError, KernelError
from nanochat.ngram.kneser_ney import KneserNey
from nanochat.ngram.mixing import FOLDS
from nanochat.system.durable import output_error, write_durably

__all__ = ["load_counts", "save_counts"]

_SIZES, _TRAIN = "sizes", "train"  # order, vocabulary and parts; the cross-fitted probabilities
_TYPES: dict[str, Any] = {"U32": "<u4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
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
            folder.mkdir(exist_ok=True)
            write_durably(path, content)
    except OSError as error:
        raise output_error(path, error) from error
    return sha256


def load_counts(folder: Path, sha256: str) -> tuple[KneserNey, NDArray[np.float32], int]:
    """Return model, probabilities and parts as `save_counts` wrote them, mapped into memory.

    Raises CheckpointError.
    """
    path = _path(folder, sha256)
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise CheckpointError(f"{path} must hold the counts of the model, got: {error}") from error
    found = hashlib.sha256(content.data).hexdigest()
    if found != sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {found[:12]}…")
    try:
        arrays = _parsed(content)
        if _FORMAT in arrays and (number := int(arrays.pop(_FORMAT)[0])) != _WITH_CUTOFF:
            raise CheckpointError(
                f"{path} must have the format 1 or {_WITH_CUTOFF}, got {number};"
                " load it with the nanochat that wrote it"
            )
        (order, vocab_size, parts), train = arrays.pop(_SIZES).tolist(), arrays.pop(_TRAIN)
        return KneserNey.open(order, vocab_size, arrays), train, parts
    except (KeyError, ValueError, KernelError) as error:
        raise CheckpointError(f"{path} was not written by nanochat: {error}") from error


def _path(folder: Path, sha256: str) -> Path:
    return folder / f"ngram-{sha256}.safetensors"


def _parsed(content: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a safetensors file as views of its bytes; the library would copy them.

    Raises ValueError or KeyError for another file.
    """
    length = int(content[:8].view("<u8")[0])
    header = json.loads(content[8 : 8 + length].tobytes())
    arrays = {}
    for name, each in header.items():
        first, last = (8 + length + offset for offset in each["data_offsets"])
        arrays[name] = content[first:last].view(_TYPES[each["dtype"]]).reshape(each["shape"])
    return arrays

"""What a run with option record has kept, as one file of its folder: history.safetensors.

The file may come from another person, so its sizes are checked before anything is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import CheckpointError
from nanochat.model.parameters import GROUPS, Spec, parameter_specs
from nanochat.runs.checkpoint import Checkpoint
from nanochat.runs.folder import HISTORY
from nanochat.runs.schema import vocab_size_of
from nanochat.system.durable import replace_durably
from nanochat.system.plain_files import read_plain
from nanochat.system.tensor_file import MOST_HEADER, read_header
from nanochat.training.engine import RECORDED
from nanochat.training.history import MOST_NUMBERS, History, Table

__all__ = ["history_of", "read_history", "write_history"]

_CHOSEN, _EVERY, _SHA256 = "chosen", "every", "sha256"
_PARTS = ("indices", "steps", "rates", *RECORDED)
_MOST_BYTES = 3 * 8 * MOST_NUMBERS + MOST_HEADER


def write_history(folder: Path, history: History) -> None:
    """Write the history into a run's folder, durably and in one rename. Raises OutputError.

    Per table, `chosen` and `every`: the flat indices of the parameters, the steps, the learning
    rates of each group, and an array (steps, parameters) of each number in RECORDED.
    """
    from safetensors.numpy import save

    arrays = _arrays(_CHOSEN, history.chosen)
    if history.every is not None:
        arrays |= _arrays(_EVERY, history.every)
    replace_durably(folder / HISTORY, save({**arrays, _SHA256: _digest(arrays)}))


def history_of(checkpoint: Checkpoint) -> History | None:
    """Return what the run of a checkpoint has recorded, or None. Raises CheckpointError."""
    vocab_size = vocab_size_of(checkpoint.tokenizer)
    specs = parameter_specs(checkpoint.options, vocab_size, checkpoint.changes)
    return read_history(checkpoint.run_folder, specs)


def read_history(folder: Path, specs: Sequence[Spec]) -> History | None:
    """Return the history of a run with these parameters, or None if it has none.

    Raises CheckpointError for a file that is damaged or of another model.
    """
    path = folder / HISTORY
    try:
        content = read_plain(path, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return _parsed(content, specs, str(folder))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or of another model: it {error}") from error


def _arrays(name: str, table: Table) -> dict[str, NDArray[Any]]:
    columns = np.moveaxis(table.numbers, 2, 0)
    return {
        f"{name}.indices": table.indices,
        f"{name}.steps": table.steps,
        f"{name}.rates": table.rates,
        **{
            f"{name}.{part}": np.ascontiguousarray(column)
            for part, column in zip(RECORDED, columns, strict=True)
        },
    }


def _digest(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint32]:  # (8,)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return np.frombuffer(digest.digest(), dtype="<u4")


def _parsed(content: bytes, specs: Sequence[Spec], run: str) -> History:
    """Return the history in a file. Raises ValueError that can follow the word `it`."""
    import io

    entries = read_header(io.BytesIO(content), len(content))
    known = [f"{table}.{part}" for table in (_CHOSEN, _EVERY) for part in _PARTS]
    for name in entries:
        if name not in known and name != _SHA256:
            raise ValueError(f"must not have the array {name!r:.60}")
    arrays: dict[str, NDArray[Any]] = {
        name: np.frombuffer(content[each.start : each.stop], each.dtype).reshape(each.shape)
        for name, each in entries.items()
    }
    given = arrays.pop(_SHA256, None)
    if given is None or not np.array_equal(given, _digest(arrays)):
        raise ValueError("must have the SHA-256 of its arrays, got another")
    size = sum(spec.shape[0] * spec.shape[1] for spec in specs)
    chosen = _table(_CHOSEN, arrays, size, "float64")
    every = None
    if any(name.startswith(f"{_EVERY}.") for name in arrays):
        every = _table(_EVERY, arrays, size, "float32")
        if not np.array_equal(every.indices, np.arange(size)):
            raise ValueError(f"must have all {size:,} parameters of the model")
    return History(specs, chosen, every, run)


def _table(name: str, arrays: Mapping[str, NDArray[Any]], size: int, dtype: str) -> Table:
    """Return one table of a model with `size` parameters. Raises ValueError."""
    types = {"indices": "int64", "steps": "int64", "rates": "float64"}
    columns = []
    for part in _PARTS:
        array = arrays.get(f"{name}.{part}")
        if array is None:
            raise ValueError(f"must have the array {name}.{part}, got none")
        if array.dtype != types.get(part, dtype):
            raise ValueError(f"must have {name}.{part} of {types.get(part, dtype)}")
        columns.append(array)
    indices, steps, rates, *numbers = columns
    if indices.ndim != 1 or steps.ndim != 1 or not len(indices):
        raise ValueError(f"must have lists of {name}.indices and {name}.steps")
    shapes = [rates.shape, *(each.shape for each in numbers)]
    widths = [len(GROUPS)] + len(numbers) * [len(indices)]
    if shapes != [(len(steps), width) for width in widths]:
        raise ValueError(f"must have as many numbers as {name}.steps and {name}.indices say")
    if len(np.unique(indices)) != len(indices) or ((indices < 0) | (indices >= size)).any():
        raise ValueError(f"must have different {name}.indices below {size:,}")
    if len(steps) and (steps[0] < 1 or (steps[1:] <= steps[:-1]).any()):
        raise ValueError(f"must have increasing {name}.steps from 1")
    # An optimizer may have no second moment, and no other number may be missing.
    seconds = RECORDED.index("second_moment")
    for part, array in (("rates", rates), *zip(RECORDED, numbers, strict=True)):
        if part != RECORDED[seconds] and not np.isfinite(array).all():
            raise ValueError(f"must have finite numbers in {name}.{part}")
    return Table(indices, steps, rates, np.stack(numbers, axis=-1))

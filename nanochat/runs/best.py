"""The file `checkpoints/best`, which names the checkpoint of the lowest validation loss.

Owns its format and how it is read; checkpoint.py writes it. Imports no NumPy, because
`nanochat runs` must start at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nanochat.config.options import BEST
from nanochat.errors import CheckpointError

__all__ = ["BEST", "BEST_FORMAT", "BEST_VERSION", "BestMark", "read_best"]

# A JSON file works on every file system; some have no symbolic links.
BEST_FORMAT = "nanochat best checkpoint"
BEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class BestMark:
    """The content of `checkpoints/best`."""

    step: int
    val_loss: float | None  # nats per target of the evaluation set; None: there is no validation
    weights_sha256: str  # of the step folder's weights


def read_best(directory: Path) -> BestMark:
    """Read the file `best` of a checkpoints folder. Raises CheckpointError."""
    file = directory / BEST
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        record = json.loads(content)
        kind, version = record["format"], record["version"]
        mark = BestMark(record["step"], record["val_loss"], record["weights_sha256"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: it does not name a checkpoint") from error
    if kind != BEST_FORMAT or version != BEST_VERSION:
        raise CheckpointError(
            f"{file} must have format {BEST_FORMAT!r} version {BEST_VERSION}, got {kind!r} version"
            f" {version!r}; use the nanochat that saved it"
        )
    if type(mark.step) is not int or type(mark.weights_sha256) is not str:
        raise CheckpointError(f"{file} is damaged: it does not name a checkpoint")
    return mark

"""The file `checkpoints/best`, which names the checkpoint of the lowest validation loss.

Owns its format and how it is read; checkpoint.py writes it. Imports no NumPy, because
`nanochat runs` must start at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.config.options import BEST
from nanochat.errors import CheckpointError
from nanochat.runs import schema
from nanochat.system.plain_files import read_plain

__all__ = ["BEST", "BEST_FORMAT", "BEST_VERSION", "BestMark", "read_best"]

# A JSON file works on every file system; some have no symbolic links.
BEST_FORMAT = "nanochat best checkpoint"
BEST_VERSION = 1
_MOST_BYTES = 1 << 12


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
        content = read_plain(file, _MOST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        record = schema.parse_record(content, BEST, schema.BEST)
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: it does not name a checkpoint") from error
    kind, version = record["format"], record["version"]
    if kind != BEST_FORMAT or version != BEST_VERSION:
        raise CheckpointError(
            f"{file} must have format {BEST_FORMAT!r} version {BEST_VERSION}, got {kind!r:.60}"
            f" version {version!r}; use the nanochat that saved it"
        )
    return BestMark(record["step"], record["val_loss"], record["weights_sha256"])

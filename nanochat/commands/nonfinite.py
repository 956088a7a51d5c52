"""A run that ended because a loss or gradient was not finite: what repeats it, and going on.

Owns the file nonfinite.json in the folder of the run. The checks are in training/guards.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batcher
from nanochat.errors import NonFiniteStep
from nanochat.runs.folder import RunFolder
from nanochat.system.durable import output_error
from nanochat.training.blocks import step_settings
from nanochat.training.engine import Engine
from nanochat.training.pace import Pace

__all__ = ["forget_nonfinite", "may_be_lowered", "write_nonfinite"]

_RATES = ("lr", "matrix_lr", "head_lr", "grad_clip")


def write_nonfinite(
    folder: RunFolder, error: NonFiniteStep, batcher: Batcher, engine: Engine,
    config: TrainConfig, pace: Pace | None,
) -> None:  # fmt: skip
    """Write the step, its figures, learning rates and batch, and the norms of the weights now.

    The weights before the step follow from the last checkpoint, as every run is repeatable. Raises
    OutputError.
    """
    record: dict[str, Any] = {"message": str(error), "step": error.step, **error.figures}
    if error.step:
        record["lr"] = dict(step_settings(config, error.step - 1, pace=pace).lr)
        record["batch"] = [
            {
                "inputs": _rows(batch.inputs, batch.lengths),
                "targets": _rows(batch.targets, batch.lengths),
            }
            for batch in batcher.step(error.step - 1)
        ]
    weights = engine.state_dict().weights
    with np.errstate(all="ignore"):
        record["weight_norms"] = {
            name: float(np.linalg.norm(array.astype(np.float64))) for name, array in weights.items()
        }
    folder.write_json(folder.nonfinite, record)


def _rows(array: Any, lengths: Any) -> list[list[int]]:
    return [
        row[:length].tolist() for row, length in zip(array, lengths.tolist(), strict=True)
    ]  # the rest is padding


def forget_nonfinite(folder: RunFolder) -> bool:
    """Remove the record, as the run goes on; return whether there was one. Raises OutputError."""
    try:
        folder.nonfinite.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise output_error(folder.nonfinite, error) from error
    return True


def may_be_lowered(folder: RunFolder, name: str, saved: Mapping[str, Any], value: Any) -> bool:
    """Whether a resume may have this value: after such an end, lower learning rates and more
    clipping. Without them it would end at the same step again."""
    if name not in _RATES or not folder.nonfinite.exists():
        return False
    before = saved.get(name) or (np.inf if name == "grad_clip" else saved["lr"])
    return bool(0 < value < before)

"""The training state in a checkpoint, and the check that a saved state fits a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.errors import CheckpointError

__all__ = ["TrainerState", "check_shapes"]


@dataclass
class TrainerState:
    """Where the training loop was when a checkpoint was saved."""

    step: int  # finished steps
    last_losses: list[float]  # oldest first
    tokens: int  # trained so far
    elapsed_s: float  # of training alone
    metrics_length: int  # bytes of metrics.jsonl, to which a resume truncates it
    budget: Mapping[str, Any] | None = None  # of a run that a deadline will end: Deadline.state


def check_shapes(
    arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise CheckpointError unless the arrays have exactly the expected names and shapes."""
    for name in (*expected, *arrays):
        if name not in arrays:
            raise CheckpointError(f"checkpoint lacks {what} {name}; it belongs to another model")
        if name not in expected:
            raise CheckpointError(
                f"checkpoint has {what} {name}, which the model lacks; it belongs to another model"
            )
        if tuple(arrays[name].shape) != expected[name]:
            raise CheckpointError(
                f"{what} {name} must have shape {expected[name]}, got {tuple(arrays[name].shape)}"
            )

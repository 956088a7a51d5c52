"""The training state in a checkpoint, and the check that a saved state fits a model."""

from __future__ import annotations

import math
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
    # All of these are of the time before the evaluation of this step, which a resume repeats.
    # Older checkpoints lack them.
    best_step: int | None = None  # of the lowest validation loss
    best_loss: float | None = None
    misses: int = 0  # evaluations since then
    interval_loss: float = 0.0  # sum of the training losses since the last evaluation
    interval_steps: int = 0
    budget: Mapping[str, Any] | None = None  # of a run that a deadline will end: Deadline.state
    processes: int | None = None  # that trained together; older checkpoints lack it

    def check(self) -> None:
        """Raise ValueError for a field that no training loop writes."""
        for name in ("step", "tokens", "metrics_length", "misses", "interval_steps"):
            _check_count(name, getattr(self, name))
        if self.best_step is not None:
            _check_count("best_step", self.best_step)
        if self.processes is not None:
            _check_count("processes", self.processes)
        numbers = {"elapsed_s": self.elapsed_s, "interval_loss": self.interval_loss}
        if self.best_loss is not None:
            numbers["best_loss"] = self.best_loss
        if type(self.last_losses) is not list:
            raise ValueError(f"last_losses must be a list, got {self.last_losses!r:.40}")
        for name, number in (*numbers.items(), *(("last_losses", x) for x in self.last_losses)):
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {number!r:.40}")


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be an int of at least 0, got {value!r:.40}")


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

"""The training state in a checkpoint, and the check that a saved state fits a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.config.options import TrainConfig
from nanochat.errors import CheckpointError
from nanochat.model.parameters import Changes, Spec, parameter_specs

__all__ = [
    "AVERAGE",
    "STEP",
    "TrainerState",
    "check_shapes",
    "moment_specs",
    "saved_shapes",
]

# Names of saved optimizer states next to the moments.
AVERAGE = "average."  # before the name of a parameter, with option ema
STEP = "step"  # (1,) float64: updates so far


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


def moment_specs(optimizer: str, specs: Sequence[Spec]) -> dict[str, Sequence[Spec]]:
    """Return the moments that an optimizer keeps, by name, with the parameters of each.

    Muon updates the matrices of the blocks, which are the last parameters, and AdamW the others.
    """
    if optimizer == "sgd":
        return {"momentum": specs}
    if optimizer == "adamw":
        return {"m": specs, "v": specs}
    rest = [spec for spec in specs if spec.group != "matrix"]
    return {"m": rest, "v": rest, "momentum": [spec for spec in specs if spec.group == "matrix"]}


def saved_shapes(
    config: TrainConfig,
    vocab_size: int,
    changes: Changes | None = None,  # as the checkpoint records them
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the shapes of the arrays in a checkpoint by name: weights, and optimizer state.

    Counted n-grams alone have neither.
    """
    specs = parameter_specs(config, vocab_size, changes)
    weights: dict[str, tuple[int, ...]] = {spec.name: spec.shape for spec in specs}
    if not weights:
        return {}, {}
    optimizer: dict[str, tuple[int, ...]] = {
        f"{moment}.{spec.name}": spec.shape
        for moment, covered in moment_specs(config.optimizer, specs).items()
        for spec in covered
    }
    if config.ema:
        optimizer |= {f"{AVERAGE}{name}": shape for name, shape in weights.items()}
    return weights, {**optimizer, STEP: (1,)}


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

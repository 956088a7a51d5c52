"""What the training loop asks of an engine, and nothing that only one engine could answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import Batch

__all__ = [
    "Decoder",
    "Engine",
    "EngineState",
    "LossSums",
    "StepMetrics",
    "StepResult",
    "StepSettings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """Everything about one optimizer step that a schedule may change."""

    lr: Mapping[str, float]  # by parameter group
    weight_decay: Mapping[str, float]  # by parameter group, decoupled
    momentum: float  # beta1 of AdamW, momentum of SGD
    muon_momentum: float  # of Muon's matrices
    clip: float  # largest gradient norm; 0 is off


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step measured, before its update."""

    loss: float  # nats per target of the step
    grad_norm: float  # before clipping


class StepResult(Protocol):
    """A step that may still be running; reading waits for it."""

    def read(self) -> StepMetrics:
        """The step's metrics, finite or not. A step whose loss or gradient norm is not finite
        left weights and optimizer untouched, and so did every step since; the loop stops."""


class LossSums(NamedTuple):
    """Sums over the targets of one batch; bytes are those of the raw text."""

    nats: float  # over all targets, BOS included
    targets: int
    byte_nats: float  # over targets that stand for at least one byte
    bytes: int


class Decoder(Protocol):
    """Next-token logits of rows that grow together, one token a call."""

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        """(rows, vocab) logits of the next token of each row."""

    def advance(self, ids: Sequence[int]) -> None:
        """Append one token to each row. Past block_size the window slides: recomputed from its
        last block_size tokens with learned positions, rolling in the cache with RoPE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """Weights and optimizer state under canonical names; float32 or float64 arrays."""

    weights: Mapping[str, NDArray[np.floating]]  # by Spec.name
    optimizer: Mapping[
        str, NDArray[np.floating]
    ]  # adamw: m.<name> v.<name> step; sgd: momentum.<name> step


class Engine(Protocol):
    """One model with its optimizer."""

    mode: str  # scalar, tensor, …
    backend: str  # what computes: cpp-program, cpp-tape, torch
    device: str  # cpu, cuda, …

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """One optimizer step on the summed loss of the microbatches."""

    def sums(self, batch: Batch) -> LossSums:
        """The loss of one batch, without dropout and without gradients."""

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """A decoder that has read the prompts, all of one length ≥ 1."""

    def state_dict(self) -> EngineState:
        """A copy of everything that training changes."""

    def load_state_dict(self, state: EngineState) -> None:
        """Take a state of the same shapes; an empty optimizer mapping resets the optimizer.
        Raises CheckpointError if a name is missing or left over, or a shape differs."""

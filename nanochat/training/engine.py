"""What the training loop asks of an engine; nothing in it is specific to one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nanochat.data.batches import Batch, StepRows
from nanochat.ngram.share import PLAIN_SHARE, Share

__all__ = [
    "BlockEngine",
    "BlockMetrics",
    "Decoder",
    "Engine",
    "EngineState",
    "HasProgram",
    "RECORDED",
    "StepMetrics",
    "StepResult",
    "StepSettings",
]


# What a step gathers of each watched parameter: before the update, and after it.
RECORDED = ("weight", "gradient", "first_moment", "second_moment", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What may differ from one optimizer step to the next; everything else is in the config."""

    lr: Mapping[str, float]  # by parameter group
    stop: bool = False  # this process was asked to stop; engines of one process ignore it
    watched: NDArray[np.int64] | None = None  # flat indices of parameters, in the order of specs


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step measured, before its update."""

    loss: float  # nats per target of the step
    grad_norm: float  # before clipping
    stop: bool = False  # StepSettings.stop was true in at least one of several processes
    # (watched, len(RECORDED)); the gradient before clipping, NaN for a moment that there is not
    recorded: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMetrics:
    """What consecutive steps measured. Only the last one may be not finite: no step follows it."""

    losses: list[float]  # as in StepMetrics
    grad_norms: list[float]
    stop: bool = False
    recorded: NDArray[np.float64] | None = None  # (steps, watched, len(RECORDED))


class StepResult(Protocol):
    """A step that may still be running; reading waits for it."""

    def read(self) -> StepMetrics:
        """Return the step's metrics, finite or not. A step whose loss or gradient norm is not
        finite leaves weights and optimizer untouched, and so does every later step; the loop
        stops."""


class Decoder(Protocol):
    """Next-token logits of rows that grow together, one token per call."""

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        """(rows, vocab) logits of the next token of each row."""

    def advance(self, ids: Sequence[int]) -> None:
        """Append one token to each row. Past block_size the window slides: with learned positions
        it is recomputed from its last block_size tokens, with RoPE the cache rolls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """Weights and optimizer state under canonical names; float32 or float64 arrays."""

    weights: Mapping[str, NDArray[np.floating]]  # by Spec.name
    optimizer: Mapping[
        str, NDArray[np.floating]
    ]  # adamw: m.<name> v.<name> step; sgd: momentum.<name> step; with ema also average.<name>
    share: Share = PLAIN_SHARE  # as in Engine


class Engine(Protocol):
    """One model with its optimizer."""

    mode: str  # scalar, tensor, …
    backend: str  # what computes: cpp-program, cpp-tape, torch
    device: str  # cpu, cuda, …
    # Of a model that mixes with counts, where a text is scored or drawn, not in training. Set by
    # fit_share (share.py) or from the option ngram_share.
    share: Share

    def step(self, microbatches: Sequence[Batch], settings: StepSettings) -> StepResult:
        """Take one optimizer step on the summed loss of the microbatches."""

    def token_losses(self, batch: Batch) -> NDArray[np.float64]:
        """Return the loss of each target in nats, (rows, length) like batch.targets, 0 where the
        target is IGNORE. No dropout, no gradients."""

    def network_losses(self, batch: Batch) -> NDArray[np.float64]:
        """Return token_losses of the network alone, without the share of the counts. Only called
        for a model with ngram_order."""

    def mixture_parts(self, batch: Batch) -> NDArray[np.float64]:
        """Return the nats of each target by the network alone, and the gate before `share`, (rows,
        length, 2), for a model that mixes with counts. No dropout, no gradients."""

    def token_shares(self, batch: Batch) -> NDArray[np.float64]:
        """Return the shares of the prediction that go to each target by the network and to the
        counts, (rows, length, 2), for a model that mixes with counts. No dropout, no gradients."""

    def move_towards(self, weights: Mapping[str, NDArray[np.floating]], share: float) -> None:
        """Add to each weight a share of its difference from the given one."""

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block, token_losses and open_decoder use the average of the weights, if the
        option ema asks for one. No step may be taken there. Without the option it does nothing."""

    def notes(self) -> Sequence[str]:
        """Return what the user should know about how this engine runs, one line each."""

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder:
        """Return a decoder that has read the prompts, all of one length ≥ 1."""

    def state_dict(self) -> EngineState:
        """Return a copy of everything that training changes."""

    def load_state_dict(self, state: EngineState) -> None:
        """Load a state of the same shapes; an empty optimizer mapping resets the optimizer, and
        the average to the weights. Raises CheckpointError if a name is missing or unexpected,
        or a shape differs."""


@runtime_checkable
class HasProgram(Protocol):
    """An engine whose training step may be a recorded program."""

    def program_text(self) -> str | None:
        """Return a C program that trains from the present weights; None if there is none."""


@runtime_checkable
class BlockEngine(Engine, Protocol):
    """An engine that can take several steps per call."""

    def steps(
        self,
        rows: StepRows,
        rates: NDArray[np.float64],  # (steps, len(GROUPS)) learning rates
        watched: NDArray[np.int64] | None = None,  # as in StepSettings
    ) -> BlockMetrics:
        """Take the same steps as by calls of step(), up to the first that is not finite."""

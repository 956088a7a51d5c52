"""Small batches, configs and engines for the tests of the tensor engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.model.parameters import GROUPS
from nanochat.tensor.engine import TensorEngine
from nanochat.training.engine import StepSettings

VOCAB = 7


def small_config(**options: Any) -> TrainConfig:
    defaults: dict[str, Any] = {
        "n_embd": 8, "block_size": 8, "init_std": 0.3, "weight_decay": 0.0, "beta1": 0.9,
        "grad_clip": 0.0, "ngram_order": 0,
    }  # fmt: skip
    if options.get("model_kind") != "bigram":
        defaults |= {"n_layer": 2, "n_head": 2}
    return TrainConfig(mode="tensor", **{**defaults, **options})


def make_engine(config: TrainConfig, *, dtype: str = "float64", vocab: int = VOCAB) -> TensorEngine:
    return TensorEngine(config, vocab, device="cpu", dtype=dtype)


def settings(lr: Mapping[str, float] | None = None, *, stop: bool = False) -> StepSettings:
    return StepSettings(lr=lr or dict.fromkeys(GROUPS, 0.01), stop=stop)


def total_nats(engine: TensorEngine, batch: Batch) -> float:
    """The loss summed over all targets."""
    return math.fsum(engine.token_losses(batch).ravel())


def batch_of(rows: list[list[list[int]]], length: int, global_targets: int | None = None) -> Batch:
    """Make a batch of rows of segments. A segment is a list of tokens t₀…tₙ and gives n pairs."""
    shape = (len(rows), length)
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    positions, segments = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    lengths = np.zeros(len(rows), np.int64)
    for r, row in enumerate(rows):
        start = 0
        for s, tokens in enumerate(row):
            stop = start + len(tokens) - 1
            inputs[r, start:stop], targets[r, start:stop] = tokens[:-1], tokens[1:]
            positions[r, start:stop], segments[r, start:stop] = np.arange(stop - start), s
            start = stop
        lengths[r] = start
    count = int((targets != IGNORE).sum()) if global_targets is None else global_targets
    return Batch(
        inputs=inputs, targets=targets, positions=positions, segments=segments, lengths=lengths,
        global_targets=count,
    )  # fmt: skip


def windows(rows: int, length: int, *, seed: int = 0, vocab: int = VOCAB, **options: Any) -> Batch:
    """Make full rows of one segment each."""
    tokens = np.random.default_rng(seed).integers(0, vocab, (rows, length + 1)).tolist()
    return batch_of([[row] for row in tokens], length, **options)


def packed(seed: int = 0, **options: Any) -> Batch:
    """Make four rows of length 8: two and three segments, one segment with padding, one full."""
    draw = np.random.default_rng(seed)
    lengths = [[3, 4], [2, 3, 2], [4], [8]]
    rows = [[draw.integers(0, VOCAB, n + 1).tolist() for n in row] for row in lengths]
    return batch_of(rows, 8, **options)


def everything(engine: TensorEngine) -> dict[str, bytes]:
    """Return the bytes of every array that training changes."""
    state = engine.state_dict()
    arrays = (*state.weights.items(), *state.optimizer.items())
    return {name: array.tobytes() for name, array in arrays}

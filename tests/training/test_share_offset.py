"""The share of the counts: what is added to its logit, and what training takes from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.engines import build_engine
from nanochat.sampling.mixed import shares_of
from nanochat.training.engine import Engine, StepSettings

VOCAB = 7
NINE_TENTHS = math.log(9 * VOCAB)


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


def engine_with(mode: str, offset: float) -> Engine:
    config = TrainConfig(
        mode=mode, n_layer=1, n_embd=8, n_head=2, block_size=5, threads=1, dtype="float64",
        ngram_order=3, ngram_offset=offset, device="cpu", positions="learned", activation="relu",
    )  # fmt: skip
    return build_engine(config, VOCAB)


def rows(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    shape = (3, 5)
    return Batch(
        inputs=random.integers(1, VOCAB, shape), targets=random.integers(1, VOCAB, shape),
        positions=np.tile(np.arange(5), (3, 1)), segments=np.zeros(shape, np.int64),
        lengths=np.full(3, 5), global_targets=15,
        by_counts=random.random(shape, dtype=np.float32),
    )  # fmt: skip


def formula(engine: Engine, batch: Batch, offset: float) -> float:
    """The mean nats of the mixture, from the logits of the decoder, one target at a time."""
    total = 0.0
    for row in range(3):
        for column in range(5):
            prompt = batch.inputs[row, : column + 1].tolist()
            logits = engine.open_decoder([prompt]).logits[0].tolist()
            powers = [math.exp(logit) for logit in logits]
            powers[-1] *= math.exp(offset)
            counted = float(batch.by_counts[row, column]) * powers[-1]
            total -= math.log((powers[batch.targets[row, column]] + counted) / sum(powers))
    return total / 15


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_training_takes_the_offset_from_the_logit_and_scoring_does_not(
    mode: str, offset: float
) -> None:
    engine, batch = engine_with(mode, offset), rows(0)
    scored = engine.token_losses(batch).mean()
    assert scored == pytest.approx(formula(engine, batch, NINE_TENTHS), rel=1e-12)
    trained = formula(engine, batch, NINE_TENTHS - offset)
    step = engine.step([batch], StepSettings(lr={"embedding": 0, "matrix": 0, "head": 0}))
    assert step.read().loss == pytest.approx(trained, rel=1e-12)


def test_shares_of_batches_and_of_decoders_and_losses_agree(mode: str) -> None:
    engine, batch = engine_with(mode, 0.7), rows(1)
    shares, losses = engine.token_shares(batch), engine.token_losses(batch)
    mixed = shares[..., 0] + shares[..., 1] * batch.by_counts
    np.testing.assert_allclose(-np.log(mixed), losses, rtol=1e-12)
    network = engine.network_losses(batch)
    np.testing.assert_allclose(shares[..., 0] / (1 - shares[..., 1]), np.exp(-network), rtol=1e-12)
    decoder = engine.open_decoder(batch.inputs.tolist())
    last = shares_of(decoder)
    np.testing.assert_allclose(last[:, -1], shares[:, -1, 1], rtol=1e-12)
    chosen = last[np.arange(3), batch.targets[:, -1]]
    np.testing.assert_allclose(chosen, shares[:, -1, 0], rtol=1e-12)


def test_of_a_network_that_says_nothing_the_counts_get_nine_tenths(mode: str) -> None:
    engine, batch = engine_with(mode, 0.0), rows(2)
    state = engine.state_dict()
    weights = {name: np.zeros_like(values) for name, values in state.weights.items()}
    engine.load_state_dict(type(state)(weights=weights, optimizer={}))
    np.testing.assert_allclose(engine.token_shares(batch)[..., 1], 0.9, rtol=1e-12)

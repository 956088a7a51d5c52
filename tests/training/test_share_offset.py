"""The scale and offset of the counts' share, and how they are fitted to held-out text."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.engines import build_engine
from nanochat.ngram.share import OFFSETS, SCALES, Share, fitted_share, mixed_losses
from nanochat.sampling.mixed import shares_of
from nanochat.training.engine import Engine, StepSettings
from nanochat.training.share import FIT_TARGETS, fit_share

VOCAB = 7
NINE_TENTHS = math.log(9 * VOCAB)


@pytest.fixture(params=["scalar", "tensor"])
def mode(request) -> str:
    return request.param


def engine_with(mode: str, offset: float) -> Engine:
    config = TrainConfig(
        mode=mode, n_layer=1, n_embd=8, n_head=2, block_size=5, threads=1, dtype="float64",
        ngram_order=3, ngram_share=f"1,{offset}", device="cpu", positions="learned", activation="relu",
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
def test_scoring_adds_the_offset_to_the_logit_and_training_does_not(
    mode: str, offset: float
) -> None:
    engine, batch = engine_with(mode, offset), rows(0)
    scored = engine.token_losses(batch).mean()
    assert scored == pytest.approx(formula(engine, batch, NINE_TENTHS + offset), rel=1e-12)
    trained = formula(engine, batch, NINE_TENTHS)
    step = engine.step([batch], StepSettings(lr={"embedding": 0, "matrix": 0, "head": 0}))
    assert step.read().loss == pytest.approx(trained, rel=1e-12)


def test_shares_of_batches_and_of_decoders_and_losses_agree(mode: str) -> None:
    engine, batch = engine_with(mode, 0.7), rows(1)
    assert engine.share == (1.0, 0.7)
    engine.share = Share(0.6, 0.7)
    shares, losses = engine.token_shares(batch), engine.token_losses(batch)
    mixed = shares[..., 0] + shares[..., 1] * batch.by_counts
    np.testing.assert_allclose(-np.log(mixed), losses, rtol=1e-12)
    network = engine.network_losses(batch)
    np.testing.assert_allclose(shares[..., 0] / (1 - shares[..., 1]), np.exp(-network), rtol=1e-12)
    decoder = engine.open_decoder(batch.inputs.tolist())
    last = shares_of(decoder, engine.share)
    np.testing.assert_allclose(last[:, -1], shares[:, -1, 1], rtol=1e-12)
    chosen = last[np.arange(3), batch.targets[:, -1]]
    np.testing.assert_allclose(chosen, shares[:, -1, 0], rtol=1e-12)


def test_of_a_network_that_says_nothing_the_counts_get_nine_tenths(mode: str) -> None:
    engine, batch = engine_with(mode, 0.0), rows(2)
    state = engine.state_dict()
    weights = {name: np.zeros_like(values) for name, values in state.weights.items()}
    engine.load_state_dict(type(state)(weights=weights, optimizer={}))
    np.testing.assert_allclose(engine.token_shares(batch)[..., 1], 0.9, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_fitted_share_lowers_the_loss_as_far_as_any(mode: str, seed: int) -> None:
    engine, batch = engine_with(mode, 0.0), rows(seed)

    def loss(scale: float, offset: float) -> float:
        engine.share = Share(scale, offset)
        prior = (scale - 1) ** 2 / 2 + offset**2 / (2 * 3.0**2)  # standard deviations 1 and 3
        return float(engine.token_losses(batch).sum()) + prior

    engine.share = Share(0.5, 1.25)  # a fit does not depend on the one before
    fit_share(engine, [batch])
    fitted = engine.share
    grid = (loss(a, b) for a in np.linspace(0, 2, 21) for b in np.linspace(-4, 4, 33))
    assert loss(*fitted) <= min(grid) + 1e-12
    fit_share(engine, [batch])
    assert engine.share == pytest.approx(fitted, abs=1e-7)


def test_both_engines_fit_the_same_share() -> None:
    engines = [engine_with(mode, 0.0) for mode in ("scalar", "tensor")]
    for engine in engines:
        fit_share(engine, [rows(4), rows(5)])
    assert engines[0].share == pytest.approx(engines[1].share, abs=1e-7)


def test_a_state_keeps_the_share(mode: str) -> None:
    engine = engine_with(mode, 0.0)
    fit_share(engine, [rows(6)])
    other = engine_with(mode, 0.0)
    other.load_state_dict(engine.state_dict())
    assert other.share == engine.share != (1.0, 0.0)
    np.testing.assert_array_equal(other.token_losses(rows(7)), engine.token_losses(rows(7)))


def test_batches_without_a_target_leave_the_share(mode: str) -> None:
    engine, batch = engine_with(mode, 0.5), rows(8)
    batch.targets[:] = -1
    fit_share(engine, [])
    fit_share(engine, [batch])
    assert engine.share == (1.0, 0.5)


def test_a_fit_reads_few_batches_of_a_long_text_spread_over_all() -> None:
    batches = [rows(seed) for seed in range(4 * FIT_TARGETS // 15)]
    read: list[Batch] = []

    class Parts:
        share = Share()

        def mixture_parts(self, batch: Batch) -> np.ndarray:
            read.append(batch)
            return np.full((*batch.targets.shape, 2), 0.25)

    fit_share(Parts(), batches)  # type: ignore[arg-type]  # the only parts that a fit uses
    every = len(batches) // len(read)
    assert FIT_TARGETS <= 15 * len(read) < 2 * FIT_TARGETS
    assert [id(batch) for batch in read] == [id(batch) for batch in batches[::every]]


@given(st.data())
def test_no_share_of_a_grid_is_better_than_the_fitted_one(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    numbers = st.lists(st.floats(-12, 12), min_size=size, max_size=size)
    gate, network, counted = (np.array(data.draw(numbers)) for _ in range(3))
    network, by_counts = np.abs(network), np.exp(-np.abs(counted))

    def loss(scale: float, offset: float) -> float:
        """In plain Python, with the prior."""
        total = (scale - 1) ** 2 / 2 + offset**2 / (2 * 3.0**2)
        for logit, nats, chance in zip(gate, network, by_counts, strict=True):
            odds = math.exp(scale * logit + offset)
            total -= math.log((math.exp(-nats) + odds * chance) / (1 + odds))
        return total

    found = fitted_share(network, gate, by_counts)
    assert found.scale >= 0
    best = min(loss(scale, offset) for scale in SCALES for offset in OFFSETS)
    assert loss(*found) <= best + 1e-9 * max(1.0, abs(best))


def test_of_a_gate_that_says_nothing_on_a_new_text_the_fit_leaves_a_constant() -> None:
    random = np.random.default_rng(0)
    gate = random.normal(0, 6, 4000)  # confident, and as often wrong as right
    network, by_counts = random.gamma(2, 2, 4000), np.exp(-random.gamma(2, 1, 4000))
    fitted = fitted_share(network, gate, by_counts)
    constant = mixed_losses(network, np.full(4000, fitted.offset), by_counts).mean()
    assert fitted.scale < 0.05
    assert mixed_losses(network, fitted.of(gate), by_counts).mean() <= constant + 1e-4
    assert constant < -np.log(by_counts).mean()

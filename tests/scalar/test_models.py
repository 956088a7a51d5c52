"""Gradients of the scalar models against float64 finite differences, for every option."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from nonempty import nonempty

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.errors import UnsupportedActivation
from nanochat.scalar.engine import ScalarEngine
from nanochat.scalar.functions import total
from nanochat.training.loop import step_settings

VOCAB = 5
STEP = 1e-5


def two_segments_and_padding() -> Batch:
    """One row: a document of three pairs, one of two with an ignored target, one padding column."""
    return Batch(
        inputs=np.array([[0, 1, 2, 0, 3, 0]]),
        targets=np.array([[1, 2, 0, 3, IGNORE, IGNORE]]),
        positions=np.array([[0, 1, 2, 0, 1, 0]]),
        segments=np.array([[0, 0, 0, 1, 1, -1]]),
        lengths=np.array([5]),
        global_targets=4,
    )


def make_engine(**options: Any) -> ScalarEngine:
    config = TrainConfig(
        **{"mode": "scalar", "preset": "microgpt", "n_embd": 8, "n_head": 2, "block_size": 4}
        | {"init_std": 0.4}
        | options
    )
    return ScalarEngine(config, VOCAB, dtype="float64")


def mean_loss(engine: ScalarEngine, batch: Batch) -> float:
    return math.fsum(engine.token_losses(batch).ravel()) / batch.global_targets


def check_gradients(engine: ScalarEngine) -> None:
    batch = two_segments_and_padding()
    (losses,) = engine._losses_by_row(batch)
    (total(losses) / batch.global_targets).backward()
    generator = np.random.default_rng(0)
    for name, matrix in nonempty(engine.matrices.items()):
        size = matrix.values.size
        for flat in nonempty(generator.choice(size, min(8, size), replace=False)):
            at = np.unravel_index(flat, matrix.shape)
            kept = matrix.values[at]
            matrix.values[at] = kept + STEP
            above = mean_loss(engine, batch)
            matrix.values[at] = kept - STEP
            below = mean_loss(engine, batch)
            matrix.values[at] = kept
            expected = (above - below) / (2 * STEP)
            assert matrix.grads[at] == pytest.approx(expected, rel=1e-6, abs=1e-8), (name, at)


@pytest.mark.parametrize(
    ("tie", "norm", "positions", "activation", "qk_norm", "last"),
    list(
        itertools.product(
            (False, True),
            (False, True),
            ("learned", "rope"),
            ("relu", "relu2"),
            (False, True),
            (False, True),
        )
    ),
)
def test_mini_gpt_gradients_equal_finite_differences(
    tie: bool, norm: bool, positions: str, activation: str, qk_norm: bool, last: bool
) -> None:
    check_gradients(
        make_engine(
            tie_lm_head=tie, input_rmsnorm=norm, positions=positions, activation=activation,
            qk_norm=qk_norm, output_rmsnorm=last, n_layer=2, logit_softcap=3.0 if tie else 0.0,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tie", "norm", "last"), list(itertools.product((False, True), (False, True), (False, True)))
)
def test_bigram_gradients_equal_finite_differences(tie: bool, norm: bool, last: bool) -> None:
    check_gradients(
        make_engine(
            preset="bigram", n_head=1, tie_lm_head=tie, input_rmsnorm=norm, output_rmsnorm=last
        )
    )


def test_attention_never_looks_outside_its_segment() -> None:
    """The second document of a row has the same losses as alone."""
    engine = make_engine()
    batch = two_segments_and_padding()
    alone = Batch(
        inputs=batch.inputs[:, 3:5], targets=batch.targets[:, 3:5],
        positions=batch.positions[:, 3:5], segments=batch.segments[:, 3:5],
        lengths=np.array([2]), global_targets=1,
    )  # fmt: skip
    (together,) = engine._losses_by_row(batch)
    (single,) = engine._losses_by_row(alone)
    assert [loss.data for loss in together[3:]] == [loss.data for loss in single]


def test_ten_thousand_steps_do_not_grow_the_tape() -> None:
    engine = make_engine(preset="bigram", n_head=1, n_embd=2, lr=0.01, steps=10_000)
    batch = two_segments_and_padding()
    sizes = []
    for step in range(10_000):
        engine.step([batch], step_settings(engine.config, step))
        if step % 1000 == 999:
            sizes.append((engine.tape.nodes, engine.tape.bytes))
    assert len(set(sizes)) == 1


def test_non_finite_step_leaves_weights_and_optimizer_and_so_do_later_steps() -> None:
    engine = make_engine()
    settings = step_settings(engine.config, 0)
    engine.step([two_segments_and_padding()], settings)
    engine.matrices["wte"].values[0, 0] = np.inf
    before = engine.state_dict()
    assert not np.isfinite(engine.step([two_segments_and_padding()], settings).read().loss)
    engine.matrices["wte"].values[0, 0] = 0.1
    assert np.isfinite(engine.step([two_segments_and_padding()], settings).read().loss)
    engine.matrices["wte"].values[0, 0] = np.inf
    after = engine.state_dict()
    for kind in ("weights", "optimizer"):
        for name, array in getattr(before, kind).items():
            assert np.array_equal(array, getattr(after, kind)[name]), name


def test_an_activation_that_the_scalar_model_lacks_is_refused_and_not_replaced() -> None:
    config = TrainConfig(mode="scalar", preset="microgpt", n_embd=8, n_head=2, block_size=4)
    object.__setattr__(config, "activation", "sine")
    with pytest.raises(
        UnsupportedActivation, match="does not support activation sine; use relu or"
    ):
        ScalarEngine(config, VOCAB, dtype="float64")

"""Several steps per call: the same losses and weights as one step per call."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.data.batches import make_batcher
from nanochat.data.documents import Documents
from nanochat.model.parameters import GROUPS
from nanochat.scalar.engine import ScalarEngine
from nanochat.training.engine import BlockEngine, StepSettings

VOCAB, STEPS = 6, 5
DOCUMENTS = Documents.of(
    np.array([1, 2, 3, 4, 5, 5, 1, 2, 3, 1, 1, 4, 2]), np.array([0, 3, 4, 9, 13])
)


def make_config(**options):
    shape = {
        "n_embd": 4, "n_head": 2, "n_layer": 1, "block_size": 4, "steps": STEPS, "seed": 3,
        "ngram_order": 0,
    }  # fmt: skip
    return TrainConfig(mode="scalar", **{**shape, **options})


def make_engine(config, dtype="float64"):
    return ScalarEngine(config, VOCAB, dtype=dtype, longest=config.block_size)


def batcher_of(config, by_counts=None):
    return make_batcher(
        config.batching, DOCUMENTS, batch_size=config.batch_size, block_size=config.block_size,
        grad_accum=config.grad_accum, seed=config.seed, by_counts=by_counts,
    )  # fmt: skip


def rates_of(steps):
    """Return different rates per step and group."""
    return 0.02 / np.arange(1, 1 + steps * len(GROUPS)).reshape(steps, len(GROUPS))


def one_by_one(engine, batcher, rates):
    found = []
    for step, row in enumerate(rates.tolist()):
        lr = dict(zip(GROUPS, row, strict=True))
        metrics = engine.step(batcher.step(step), StepSettings(lr=lr)).read()
        found.append((metrics.loss, metrics.grad_norm))
    return found


def in_blocks(engine, batcher, rates, most):
    found, step = [], 0
    while step < len(rates):
        rows = batcher.steps(step, min(most, len(rates) - step))
        count = len(rows.targets)
        metrics = engine.steps(rows, rates[step : step + count])
        found += list(zip(metrics.losses, metrics.grad_norms, strict=True))
        step += count
    return found


def assert_same_state(first, second):
    one, other = first.state_dict(), second.state_dict()
    for part in ("weights", "optimizer"):
        arrays, others = getattr(one, part), getattr(other, part)
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name], strict=True)


@settings(max_examples=25, deadline=None)
@given(
    batching=st.sampled_from(["documents", "packed", "windows"]),
    batch_size=st.integers(1, 3),
    grad_accum=st.integers(1, 2),
    numerics=st.sampled_from(["exact", "fast"]),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    grad_clip=st.sampled_from([0.0, 0.5]),
    ema=st.sampled_from([0.0, 0.5]),
    most=st.integers(1, STEPS),
)
def test_a_block_of_steps_is_bit_identical_to_its_steps(most, **options):
    config = make_config(**options)
    one, other = make_engine(config), make_engine(config)
    batcher, rates = batcher_of(config), rates_of(STEPS)
    assert in_blocks(one, batcher, rates, most) == one_by_one(other, batcher, rates)
    assert_same_state(one, other)


def test_a_block_trains_in_float32_and_by_counts_as_its_steps_do():
    config = make_config(batching="packed", batch_size=2, ngram_order=2, numerics="fast")
    by_counts = np.linspace(0.1, 0.9, DOCUMENTS.pairs, dtype=np.float32)
    one, other = make_engine(config, "float32"), make_engine(config, "float32")
    batcher, rates = batcher_of(config, by_counts), rates_of(STEPS)
    assert in_blocks(one, batcher, rates, STEPS) == one_by_one(other, batcher, rates)
    assert_same_state(one, other)


def test_a_block_on_the_tape_is_bit_identical_to_its_steps():
    config = make_config(batching="documents", batch_size=1, numerics="exact")
    one, other = make_engine(config, "float32"), make_engine(config, "float32")
    assert one.backend == "cpp-tape"
    batcher, rates = batcher_of(config), rates_of(2)
    assert in_blocks(one, batcher, rates, 2) == one_by_one(other, batcher, rates)
    assert_same_state(one, other)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_block_ends_before_the_update_of_a_step_that_is_not_finite(bad):
    config = make_config(batching="documents", batch_size=1)
    engine, other = make_engine(config), make_engine(config)
    batcher, rates = batcher_of(config), rates_of(STEPS)
    if bad:
        rates[bad - 1] = 1e300  # the weights after this step have no finite loss
    else:
        for each in (engine, other):
            each.matrices["lm_head"].values[:] = math.nan
    metrics = engine.steps(batcher.steps(0, STEPS), rates)
    assert len(metrics.losses) == len(metrics.grad_norms) == bad + 1
    assert not math.isfinite(metrics.losses[-1] + metrics.grad_norms[-1])
    assert all(map(math.isfinite, metrics.losses[:-1] + metrics.grad_norms[:-1]))
    one_by_one(other, batcher, rates[:bad])
    assert_same_state(engine, other)
    engine.steps(batcher.steps(bad + 1, 1), rates[-1:])  # no later step changes anything
    assert_same_state(engine, other)


def test_the_scalar_engine_takes_blocks():
    assert isinstance(make_engine(make_config()), BlockEngine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": np.array([[2]], np.int32)}, "documents must add up to 1, got 2"),
        ({"documents": np.array([[-1]], np.int32)}, "documents must be at least 0 per microbatch"),
        ({"ends": [1]}, "ends must increase to the number of parameters"),
        ({"rates": np.ones((2, 1))}, "documents and rates must be"),
        ({"done": -1}, "done must be at least 0, and documents_at_once at least 1"),
        ({"documents_at_once": 0}, "done must be at least 0, and documents_at_once at least 1"),
        ({"watched": np.array([0, 10**6], np.int32)}, "watched must be below .*, got 1000000"),
        ({"watched": np.array([-1], np.int32)}, "watched must be below .*, got -1"),
    ],
)
def test_steps_refuses_arrays_that_do_not_fit(change, message):
    engine = make_engine(make_config(batching="documents", batch_size=1))
    core = engine._replay.core
    arguments = {
        "lengths": np.array([1], np.int32), "tokens": np.zeros((1, core.slots), np.int32),
        "scale": np.ones(1), "inputs": None, "counted": None,
        "documents": np.array([[1]], np.int32), "ends": [core.values.size],
        "rates": np.ones((1, 1)), "adamw": True, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8,
        "weight_decay": 0.0, "grad_clip": 0.0, "done": 0, "documents_at_once": 1,
    }  # fmt: skip
    before = core.values.copy()
    with pytest.raises(ValueError, match=message):
        core.steps(**{**arguments, **change})
    np.testing.assert_array_equal(core.values, before)

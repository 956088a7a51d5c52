"""Parameter histories: what is kept of many steps, and what each number is."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.options import TrainConfig
from nanochat.config.record import Place
from nanochat.data.batches import make_batcher
from nanochat.data.documents import Documents
from nanochat.engines import build_engine
from nanochat.errors import ConfigError
from nanochat.model.parameters import GROUPS, Spec, parameter_specs
from nanochat.training import history as module
from nanochat.training.engine import RECORDED, BlockEngine, StepSettings
from nanochat.training.history import Recorder

VOCAB, STEPS = 6, 7
DOCUMENTS = Documents.of(
    np.array([1, 2, 3, 4, 5, 5, 1, 2, 3, 1, 1, 4, 2]), np.array([0, 3, 4, 9, 13])
)
SPECS = [
    Spec(name="wte", shape=(3, 2), std=0.1, group="embedding"),
    Spec(name="fc", shape=(2, 2), std=0.1, group="matrix"),
]
SIZE = 10


def numbers_of(step, index):
    """Return what RECORDED has of a parameter in a step of a made-up run."""
    return [1000 * step + 10 * index + part for part in range(len(RECORDED))]


def rates_of(step):
    return [step + 0.25 * i for i in range(len(GROUPS))]


def record(recorder, first, last, draw):
    """Pass the steps first … last in blocks of any length that the recorder allows."""
    step = first
    while step <= last:
        most = min(recorder.end_of_block(step) - step, last + 1 - step)
        count = draw(st.integers(1, min(most, 9)))
        watched = recorder.watched(step)
        steps = range(step, step + count)
        recorded = [[numbers_of(s, index) for index in watched.tolist()] for s in steps]
        recorder.add(step, [rates_of(s) for s in steps], watched, np.array(recorded, dtype=float))
        step += count


def due(steps, known, most):
    """Return the steps that a table of at most `most` keeps of a run that expects `known`."""
    stride = 1
    while known > stride * most:
        stride *= 2
    while len(range(1, steps + 1, stride)) > most:
        stride *= 2
    return list(range(1, steps + 1, stride))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), most=st.integers(2, 12), steps=st.integers(1, 70))
def test_a_full_table_keeps_every_second_step_with_any_blocks_and_any_resumes(data, most, steps):
    places = [Place("fc", 1, 0), Place("wte", 2, 1)]
    known = data.draw(st.sampled_from([steps, 1]))
    cut = data.draw(st.integers(1, steps))
    saved = data.draw(st.integers(cut, steps))  # the file may be newer than the checkpoint
    size = most * (SIZE * len(RECORDED) + len(GROUPS) + 1)  # of the table of all parameters
    with patch.object(module, "MOST_NUMBERS", size), patch.object(module, "FEWEST_STEPS", 2):
        before = Recorder(places, SPECS, known)
        record(before, 1, saved, data.draw)
        after = Recorder(places, SPECS, known)
        assert after.fits(before.history())
        after.load(before.history(), cut)
        record(after, cut + 1, steps, data.draw)
        whole = Recorder(places, SPECS, known)
        record(whole, 1, steps, data.draw)
    of_chosen = size // (2 * len(RECORDED) + len(GROUPS) + 1)
    for kept in (whole.history(), after.history()):
        assert kept.chosen.steps.tolist() == due(steps, known, of_chosen)
        assert kept.every is not None
        assert kept.every.steps.tolist() == due(steps, known, most)
        assert kept.places == tuple(places)
        for table, indices in ((kept.chosen, [8, 5]), (kept.every, range(SIZE))):
            expected = [[numbers_of(step, i) for i in indices] for step in table.steps.tolist()]
            assert table.numbers.tolist() == expected
            assert table.rates.tolist() == [rates_of(step) for step in table.steps.tolist()]
        one = kept.parameter("fc", 1, 0)
        assert one.weight.tolist() == [numbers_of(s, 8)[0] for s in kept.chosen.steps.tolist()]
        assert one.rate.tolist() == [rates_of(s)[1] for s in kept.chosen.steps.tolist()]
        other = kept.parameter("wte", 0, 1)
        assert other.update.tolist() == [numbers_of(s, 1)[4] for s in kept.every.steps.tolist()]


def test_a_large_model_has_no_table_of_all_parameters():
    with patch.object(module, "MOST_NUMBERS", 7 * SIZE * len(RECORDED)):
        recorder = Recorder([Place("wte", 0, 0)], SPECS, 100)
        assert recorder.history().every is None
        assert recorder.end_of_block(5) > 10**9
        with pytest.raises(ConfigError) as caught:
            recorder.history().parameter("wte", 0, 1)
    assert str(caught.value) == "wte[0,1] was not recorded; the run has wte[0,0]"


def test_a_history_is_shown_by_its_counts_and_shapes_without_a_number():
    recorder = Recorder([Place("fc", 1, 0), Place("wte", 2, 1)], SPECS, 4)
    assert repr(recorder.history()) == "History(2 parameters at 0 steps; all 10 at 0 steps)"
    for step in range(1, 5):
        watched = recorder.watched(step)
        numbers = np.array([[numbers_of(step, index) for index in watched.tolist()]], dtype=float)
        recorder.add(step, [rates_of(step)], watched, numbers)
    history = recorder.history()
    assert repr(history) == (
        "History(2 parameters at 4 steps from 1 to 4; all 10 at 4 steps from 1 to 4)"
    )
    assert repr(history.chosen) == "Table(2 parameters at 4 steps from 1 to 4, float64)"
    assert repr(history.every) == "Table(10 parameters at 4 steps from 1 to 4, float32)"
    assert repr(history.parameter("fc", 1, 0)) == (
        "ParameterHistory(fc[1,0], 4 steps from 1 to 4: weight (4,), gradient (4,), first_moment"
        " (4,), second_moment (4,), update (4,), rate (4,))"
    )


def test_auto_chooses_two_parameters_of_each_matrix():
    assert Recorder([], SPECS, 9).history().places == (
        ("wte", 1, 0), ("wte", 2, 1), ("fc", 0, 0), ("fc", 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("wpe", 0, 0), "record must name matrices of the model, which are wte, fc, got wpe"),
        (("fc", 2, 0), "record must name parameters of the model, got fc[2,0]; fc has 2 rows and 2"
         " columns"),
        (("wte", 0, 2), "record must name parameters of the model, got wte[0,2]; wte has 3 rows and"
         " 2 columns"),
    ],
)  # fmt: skip
def test_a_parameter_that_the_model_lacks_is_refused(place, message):
    with pytest.raises(ConfigError) as caught:
        Recorder([Place(*place)], SPECS, 9)
    assert str(caught.value) == message


# ── what the engines gather ──────────────────────────────────────────────────────────────────────

ENGINES = {
    "program": {"mode": "scalar"},
    "program with SGD": {"mode": "scalar", "optimizer": "sgd", "beta1": 0.5},
    "program step by step": {"mode": "scalar", "ema": 0.5},
    "tape": {"mode": "scalar", "numerics": "exact", "dtype": "float32"},
    "tape with SGD": {"mode": "scalar", "numerics": "exact", "dtype": "float32", "optimizer": "sgd"},
    "tensor": {"mode": "tensor", "dtype": "float32"},
    "tensor in torch": {"mode": "tensor", "dtype": "float64", "loss": "torch"},
    "tensor in bfloat16": {"mode": "tensor", "dtype": "bfloat16"},
    "tensor with SGD": {"mode": "tensor", "dtype": "float64", "optimizer": "sgd"},
    "tensor with Muon": {"mode": "tensor", "dtype": "float64", "optimizer": "muon"},
}  # fmt: skip


def engine_of(name):
    options = {
        "n_embd": 4, "n_head": 2, "n_layer": 1, "block_size": 4, "steps": STEPS, "seed": 3,
        "ngram_order": 0, "weight_decay": 0.01, "lr": 0.02, "grad_clip": 0.05,
        "dtype": "float64", "batching": "packed", "batch_size": 2, "grad_accum": 2,
    }  # fmt: skip
    config = TrainConfig(**{**options, **ENGINES[name]})
    config = config.changed(device="cpu")
    return build_engine(config, VOCAB, config.block_size), config


def batcher_of(config):
    return make_batcher(
        config.batching, DOCUMENTS, batch_size=config.batch_size, block_size=config.block_size,
        grad_accum=config.grad_accum, seed=config.seed,
    )  # fmt: skip


def flat(arrays, start=""):
    names = [name for name in arrays if name.startswith(start)]
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in names])


@pytest.mark.parametrize("name", ENGINES)
def test_the_recorded_numbers_are_those_of_the_saved_states(name):
    """The weights, the moments and the updates are read off the states around each step, and the
    gradients are those from which the moments were made."""
    engine, config = engine_of(name)
    batcher = batcher_of(config)
    specs = parameter_specs(config, VOCAB)
    size = sum(math.prod(spec.shape) for spec in specs)
    watched = np.arange(size, dtype=np.int64)
    tolerance = 1e-12 if config.dtype == "float64" else 1e-6
    for step in range(STEPS):
        before = engine.state_dict()
        lr = {group: 0.01 * (1 + i + step) for i, group in enumerate(GROUPS)}
        metrics = engine.step(batcher.step(step), StepSettings(lr=lr, watched=watched)).read()
        after = engine.state_dict()
        weight, gradient, first, second, update = metrics.recorded.T
        np.testing.assert_array_equal(weight, flat(before.weights))
        difference = flat(after.weights) - flat(before.weights)
        np.testing.assert_allclose(update, difference, rtol=0, atol=1e-8 if tolerance > 1e-9 else 0)
        norm = math.sqrt(float(gradient @ gradient))
        assert norm == pytest.approx(metrics.grad_norm, rel=1e-5)
        clipped = gradient * min(1.0, config.grad_clip / (norm + 1e-6))
        assert norm > config.grad_clip, "clipping must show"
        moments, saved = after.optimizer, before.optimizer
        of_adam = 0 if config.optimizer == "sgd" else flat(moments, "m.").size
        if of_adam:
            np.testing.assert_array_equal(first[:of_adam], flat(moments, "m."))
            np.testing.assert_array_equal(second[:of_adam], flat(moments, "v."))
            expected = config.beta1 * flat(saved, "m.") + (1 - config.beta1) * clipped[:of_adam]
            np.testing.assert_allclose(first[:of_adam], expected, rtol=1e-4, atol=tolerance)
        if of_adam < size:
            np.testing.assert_array_equal(first[of_adam:], flat(moments, "momentum."))
            assert np.isnan(second[of_adam:]).all()
        if config.optimizer == "sgd":
            buffer = config.beta1 * flat(saved, "momentum.") + clipped
            np.testing.assert_allclose(first, buffer, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", ["program", "program with SGD", "program step by step", "tape"])
def test_a_block_records_what_its_steps_do(name):
    one, config = engine_of(name)
    other, _ = engine_of(name)
    batcher = batcher_of(config)
    rates = 0.02 / np.arange(1, 1 + STEPS * len(GROUPS)).reshape(STEPS, len(GROUPS))
    watched = np.array([40, 3, 17], dtype=np.int64)
    expected = [
        one.step(
            batcher.step(step),
            StepSettings(lr=dict(zip(GROUPS, rates[step].tolist(), strict=True)), watched=watched),
        )
        .read()
        .recorded
        for step in range(STEPS)
    ]
    assert isinstance(other, BlockEngine)
    found = other.steps(batcher.steps(0, STEPS), rates, watched).recorded
    np.testing.assert_array_equal(found, np.array(expected))
    assert np.isfinite(found[:, :, :3]).all()
    assert np.isfinite(found[:, :, 4]).all()


@pytest.mark.parametrize("name", ENGINES)
def test_watching_changes_no_weight(name):
    one, config = engine_of(name)
    other, _ = engine_of(name)
    batcher = batcher_of(config)
    for step in range(3):
        lr = dict.fromkeys(GROUPS, 0.01)
        for engine, watched in ((one, None), (other, np.array([5, 1], dtype=np.int64))):
            engine.step(batcher.step(step), StepSettings(lr=lr, watched=watched)).read()
    np.testing.assert_array_equal(flat(one.state_dict().weights), flat(other.state_dict().weights))

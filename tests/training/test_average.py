"""The average of the weights: the formula, and both engines against a loop in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonempty import nonempty

from nanochat.config.options import TrainConfig
from nanochat.data.batches import make_batcher
from nanochat.data.documents import encode_documents
from nanochat.data.tokenizer import build_tokenizer
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import CheckpointError
from nanochat.training.average import averaged_weights, newest_weight, split_average
from nanochat.training.engine import EngineState
from nanochat.training.loop import step_settings

NAMES = ["anna", "bob", "carl", "dora", "emma", "fred"]
TOKENIZER = build_tokenizer("char", NAMES)
DOCUMENTS = encode_documents(TOKENIZER, NAMES)
OPTIONS = {
    "model_kind": "mini-gpt", "preset": "pico", "n_embd": 8, "n_head": 2, "block_size": 8, "batch_size": 2,
    "steps": 30, "batching": "packed", "lr": 0.05, "threads": 1, "ema": 0.7, "ngram_order": 0,
}  # fmt: skip


def engine_of(mode, dtype, **changes):
    config = resolve_hardware(TrainConfig(**{**OPTIONS, "mode": mode, "dtype": dtype, **changes}))
    return config, build_engine(config, TOKENIZER.vocab_size)


def take_steps(config, engine, first, stop):
    batcher = make_batcher("packed", DOCUMENTS, batch_size=2, block_size=8, seed=1)
    for step in range(first, stop):
        engine.step(batcher.step(step), step_settings(config, step)).read()
        yield engine.state_dict()


def batch():
    return make_batcher("packed", DOCUMENTS, batch_size=2, block_size=8, seed=2).step(0)[0]


CASES = [("scalar", "float64"), ("scalar", "float32"), ("tensor", "float64"), ("tensor", "float32")]


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    return request.param


@given(st.floats(0, 0.9999), st.integers(1, 10**6))
def test_the_newest_weights_count_one_minus_decay_and_more_at_first(decay, update):
    weight = newest_weight(decay, update)
    assert weight == max(1 - decay, 1 - (1 + update) / (10 + update))
    assert newest_weight(decay, 10**9) == pytest.approx(1 - decay)


@pytest.mark.parametrize("decay", [0.3, 0.7, 0.99])
def test_the_average_is_that_of_a_loop_in_numpy(case, decay):
    config, engine = engine_of(*case, ema=decay)
    expected = {n: a.astype(np.float64) for n, a in engine.state_dict().weights.items()}
    rounding = {"float64": 1e-13, "float32": 1e-5}[case[1]]
    for update, state in enumerate(nonempty(take_steps(config, engine, 0, 20)), start=1):
        share = min(decay, (1 + update) / (10 + update))
        for name, weights in state.weights.items():
            expected[name] = share * expected[name] + (1 - share) * weights
        average = averaged_weights(state)
        assert average.keys() == expected.keys()
        for name, array in average.items():
            assert array.dtype == np.dtype(case[1])
            np.testing.assert_allclose(array, expected[name], rtol=rounding, atol=rounding)


def test_both_engines_have_the_same_average():
    states = []
    for mode in ("scalar", "tensor"):
        config, engine = engine_of(mode, "float64")
        *_, last = take_steps(config, engine, 0, 20)
        states.append(averaged_weights(last))
    for name, array in nonempty(states[0].items()):
        np.testing.assert_allclose(array, states[1][name], rtol=1e-9, atol=1e-12)


def test_inside_averaged_the_average_is_scored_and_decoded_and_after_it_the_weights(case):
    config, engine = engine_of(*case)
    *_, state = take_steps(config, engine, 0, 10)
    _, other = engine_of(*case, ema=0.0)
    own = engine.token_losses(batch())
    other.load_state_dict(EngineState(weights=averaged_weights(state), optimizer={}))
    with engine.averaged():
        assert engine.token_losses(batch()).tobytes() == other.token_losses(batch()).tobytes()
        logits = engine.open_decoder([[0, 1]]).logits
        assert logits.tobytes() == other.open_decoder([[0, 1]]).logits.tobytes()
    assert engine.token_losses(batch()).tobytes() == own.tobytes()
    for name, array in engine.state_dict().weights.items():
        assert array.tobytes() == state.weights[name].tobytes()


def test_without_the_option_averaged_changes_nothing(case):
    config, engine = engine_of(*case, ema=0.0)
    *_, state = take_steps(config, engine, 0, 3)
    assert split_average(state.optimizer)[0] == {}
    own = engine.token_losses(batch())
    with engine.averaged():
        assert engine.token_losses(batch()).tobytes() == own.tobytes()


def test_averaging_leaves_the_training_as_it_is(case):
    *_, with_average = take_steps(*engine_of(*case), 0, 10)
    *_, without = take_steps(*engine_of(*case, ema=0.0), 0, 10)
    for name, array in nonempty(without.weights.items()):
        assert with_average.weights[name].tobytes() == array.tobytes()


def test_a_loaded_state_goes_on_with_the_same_average(case):
    config, engine = engine_of(*case)
    *_, state = take_steps(config, engine, 0, 5)
    _, other = engine_of(*case)
    other.load_state_dict(state)
    *_, whole = take_steps(config, engine, 5, 10)
    *_, resumed = take_steps(config, other, 5, 10)
    for name, array in nonempty(whole.optimizer.items()):
        assert resumed.optimizer[name].tobytes() == array.tobytes()


def test_a_state_without_optimizer_restarts_the_average_at_its_weights(case):
    config, engine = engine_of(*case)
    *_, state = take_steps(config, engine, 0, 5)
    engine.load_state_dict(EngineState(weights=state.weights, optimizer={}))
    average = averaged_weights(engine.state_dict())
    assert all(average[n].tobytes() == state.weights[n].tobytes() for n in average)


def test_a_state_without_the_average_and_one_with_an_unknown_average_are_refused(case):
    config, engine = engine_of(*case)
    _, plain = engine_of(*case, ema=0.0)
    *_, state = take_steps(config, engine, 0, 2)
    with pytest.raises(CheckpointError, match="^checkpoint lacks averaged weight wte"):
        engine.load_state_dict(plain.state_dict())
    with pytest.raises(CheckpointError, match="^checkpoint has optimizer state average.wte"):
        plain.load_state_dict(state)


def test_a_step_that_is_not_finite_leaves_the_average(case):
    config, engine = engine_of(*case)
    *_, before = take_steps(config, engine, 0, 3)
    poisoned = {n: a.copy() for n, a in before.weights.items()}
    poisoned["wte"][:] = np.nan
    engine.load_state_dict(EngineState(weights=poisoned, optimizer=before.optimizer))
    *_, after = take_steps(config, engine, 3, 5)
    average = averaged_weights(after)
    kept = averaged_weights(before)
    for name in nonempty(kept.keys() - {"wte"}):
        assert average[name].tobytes() == kept[name].tobytes()

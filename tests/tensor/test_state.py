"""The state that the tensor engine saves and loads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensor.batch_makers import (
    VOCAB,
    everything,
    make_engine,
    packed,
    settings,
    small_config,
    total_nats,
)

from nanochat.errors import CheckpointError
from nanochat.training.engine import EngineState


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_training_continues_bit_identically_from_a_loaded_state(optimizer: str, dtype: str) -> None:
    config = small_config(optimizer=optimizer, positions="learned", dropout=0.2)
    engine, other = (make_engine(config, dtype=dtype) for _ in range(2))
    for seed in range(3):
        engine.step([packed(seed)], settings())
    other.load_state_dict(engine.state_dict())
    assert everything(other) == everything(engine)
    for seed in range(3, 6):
        expected = engine.step([packed(seed)], settings()).read()
        assert other.step([packed(seed)], settings()).read() == expected
    assert everything(other) == everything(engine)
    assert other.state_dict().optimizer["step"].tolist() == [6.0]


def test_state_is_a_copy_under_canonical_names() -> None:
    engine = make_engine(small_config(positions="learned"))
    state = engine.state_dict()
    names = [spec.name for spec in engine.weights.specs]
    assert list(state.weights) == names
    assert set(state.optimizer) == {f"{m}.{n}" for m in "mv" for n in names} | {"step"}
    assert state.weights["layer1.mlp_fc1"].shape == (32, 8)
    kept = state.weights["wte"].copy()
    engine.step([packed()], settings())
    np.testing.assert_array_equal(state.weights["wte"], kept)
    assert not np.array_equal(engine.state_dict().weights["wte"], kept)


def test_an_empty_optimizer_state_resets_the_optimizer() -> None:
    engine = make_engine(small_config())
    engine.step([packed()], settings())
    weights = engine.state_dict().weights
    engine.load_state_dict(EngineState(weights=weights, optimizer={}))
    assert all(not array.any() for array in engine.state_dict().optimizer.values())


@pytest.mark.parametrize("part", ["weights", "optimizer"])
@pytest.mark.parametrize("damage", ["missing", "left over", "shape"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(part: str, damage: str) -> None:
    engine = make_engine(small_config())
    engine.step([packed()], settings())
    before = everything(engine)
    state = engine.state_dict()
    parts: dict[str, dict[str, Any]] = {
        "weights": {name: array + 1 for name, array in state.weights.items()},
        "optimizer": dict(state.optimizer),
    }
    name = {"weights": "lm_head", "optimizer": "v.lm_head"}[part]
    if damage == "missing":
        del parts[part][name]
    elif damage == "left over":
        name = "extra"
        parts[part][name] = np.zeros((VOCAB, 8))
    else:
        parts[part][name] = np.zeros((VOCAB + 1, 8))
    with pytest.raises(CheckpointError, match=name):
        engine.load_state_dict(EngineState(**parts))
    assert everything(engine) == before


def test_a_state_moves_between_dtypes() -> None:
    wide, narrow = (make_engine(small_config(), dtype=dtype) for dtype in ("float64", "float32"))
    wide.step([packed()], settings())
    narrow.load_state_dict(wide.state_dict())
    assert total_nats(narrow, packed()) == pytest.approx(total_nats(wide, packed()), rel=1e-5)

"""Losses and gradients of both tensor models against NumPy and finite differences."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles.numpy_gpt import nats
from tensor.batch_makers import (
    VOCAB,
    make_engine,
    packed,
    settings,
    small_config,
    total_nats,
    windows,
)

from nanochat.data.batches import IGNORE, Batch
from nanochat.model.parameters import GROUPS
from nanochat.tensor import inputs as inputs_module
from nanochat.tensor.engine import TensorEngine

BIGRAMS: list[dict[str, Any]] = [
    {
        "model_kind": "bigram",
        "tie_lm_head": tie,
        "input_rmsnorm": norm,
        "output_rmsnorm": last,
        "logit_softcap": cap,
    }
    for tie, norm, last, cap in itertools.product(
        (False, True), (False, True), (False, True), (0.0, 1.5)
    )
]
MINIGPTS: list[dict[str, Any]] = [
    {
        "tie_lm_head": tie, "input_rmsnorm": norm, "positions": positions,
        "activation": activation, "qk_norm": qk_norm, "logit_softcap": cap,
    }
    for tie, norm, positions, activation, qk_norm, cap in itertools.product(
        (False, True), (False, True), ("learned", "rope"), ("relu", "relu2"), (False, True),
        (0.0, 1.5),
    )
]  # fmt: skip

MINIGPTS += [
    {
        **options,
        "prev_token_tables": i % 2,
        "hash_embed_rows": 20 * (1 + i % 3),
        "hash_embed_longest": 2 + i % 3,
    }
    for i, options in enumerate(MINIGPTS[3::7])
]
MINIGPTS += [{**options, "prev_token_tables": 2 + i % 3} for i, options in enumerate(MINIGPTS[::7])]
MINIGPTS += [{**options, "output_rmsnorm": True} for options in MINIGPTS[::3]]


def named(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


def every_model(function: Any) -> Any:
    return pytest.mark.parametrize("options", BIGRAMS + MINIGPTS, ids=named)(function)


def gradients(engine: TensorEngine, batch: Batch) -> NDArray[np.float64]:
    """Return the flat gradient of one microbatch, without an update."""
    engine._accumulate(batch, None)
    result = engine.weights.gradients.clone().numpy()
    engine.weights.zero()
    return result


@every_model
def test_loss_equals_the_numpy_oracle(options: dict[str, Any]) -> None:
    config = small_config(**options)
    engine = make_engine(config)
    for batch in (packed(), windows(3, 8)):
        expected = nats(config, engine.state_dict().weights, batch)
        found = engine.token_losses(batch)
        assert not found[batch.targets == IGNORE].any()
        np.testing.assert_allclose(found[batch.targets != IGNORE], expected, rtol=1e-12)
        step = engine.step([batch], settings(lr=dict.fromkeys(GROUPS, 0.0)))
        assert step.read().loss == pytest.approx(math.fsum(expected) / len(expected), rel=1e-13)


@every_model
def test_gradients_equal_central_differences(options: dict[str, Any]) -> None:
    """Compare along two random directions per matrix; a wrong gradient is not orthogonal to them."""
    engine = make_engine(small_config(**options))
    batch = packed()
    found = gradients(engine, batch)
    values = engine.weights.values
    start = values.clone()
    draw = np.random.default_rng(11)
    step = 2e-6
    for spec in engine.weights.specs * 2:
        first = engine.weights.offsets[spec.name]
        direction = np.zeros(engine.weights.size)
        direction[first : first + math.prod(spec.shape)] = draw.normal(size=math.prod(spec.shape))
        offset = torch.from_numpy(step * direction)
        values.copy_(start + offset)
        above = total_nats(engine, batch)
        values.copy_(start - offset)
        below = total_nats(engine, batch)
        expected = (above - below) / (2 * step * batch.global_targets)
        assert found @ direction == pytest.approx(expected, rel=1e-6, abs=1e-8), spec.name


@pytest.mark.parametrize("options", MINIGPTS[::5], ids=named)
@pytest.mark.parametrize("maker", [packed, lambda: windows(3, 8)], ids=["packed", "windows"])
def test_both_attentions_give_the_same_gradients(
    options: dict[str, Any], maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(small_config(**options))
    fused = gradients(engine, maker())
    monkeypatch.setattr(inputs_module, "NATIVE_LENGTH", 0)
    other = gradients(engine, maker())
    np.testing.assert_allclose(other, fused, rtol=1e-10, atol=1e-14)


def row_logits(engine: TensorEngine, batch: Batch) -> NDArray[np.float64]:
    inputs = engine._inputs(batch)
    with torch.no_grad():
        logits = engine.model.hidden(inputs) @ engine.model.head.T
    return logits.view(inputs.rows, inputs.length, VOCAB).numpy()


@pytest.mark.parametrize("native_length", [8, 0], ids=["kernel", "torch"])
@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_attention_never_crosses_segments(
    positions: str, native_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "NATIVE_LENGTH", native_length)
    engine = make_engine(small_config(positions=positions))
    batch = packed()
    before = row_logits(engine, batch)
    inputs = batch.inputs.copy()
    middle = batch.segments[1] == 1
    inputs[1, middle] = (inputs[1, middle] + 1) % VOCAB
    after = row_logits(engine, dataclasses.replace(batch, inputs=inputs))
    np.testing.assert_allclose(after[1, ~middle], before[1, ~middle], rtol=0, atol=1e-15)
    assert np.abs(after[1, middle] - before[1, middle]).max() > 1e-3


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_padding_contributes_nothing(positions: str) -> None:
    engine = make_engine(small_config(positions=positions))
    batch = packed()
    inputs = np.where(batch.segments < 0, 3, batch.inputs)
    other = dataclasses.replace(batch, inputs=inputs)
    assert total_nats(engine, other) == pytest.approx(total_nats(engine, batch), rel=1e-15)
    expected = gradients(engine, batch)
    np.testing.assert_allclose(gradients(engine, other), expected, rtol=1e-12, atol=1e-16)


def test_columns_that_are_padding_in_every_row_are_dropped() -> None:
    engine = make_engine(small_config())
    short = windows(2, 4)
    padded = dataclasses.replace(
        short,
        **{
            name: np.pad(getattr(short, name), ((0, 0), (0, 4)), constant_values=value)
            for name, value in (("inputs", 0), ("targets", -1), ("positions", 0), ("segments", -1))
        },
    )
    assert engine._inputs(padded).length == 4
    expected = np.pad(engine.token_losses(short), ((0, 0), (0, 4)))
    assert engine.token_losses(padded).tobytes() == expected.tobytes()


def test_a_model_of_zero_layers_is_embedding_and_head() -> None:
    config = small_config(n_layer=0)
    engine = make_engine(config)
    expected = nats(config, engine.state_dict().weights, packed())
    assert total_nats(engine, packed()) == pytest.approx(math.fsum(expected), rel=1e-13)


def test_bfloat16_loss_is_near_that_of_float32() -> None:
    config = small_config(n_embd=32, init_std=0.08)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        engine = make_engine(config, dtype=dtype)
        steps = [engine.step([packed(seed)], settings()).read().loss for seed in range(20)]
        losses[dtype] = steps
        assert engine.state_dict().weights["wte"].dtype == np.float32
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)

"""Parameter names, shapes and draws, against microgpt's list and Philox itself."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from nonempty import nonempty

from nanochat import philox
from nanochat.config.options import TrainConfig
from nanochat.model.parameters import (
    GROUPS,
    initial_weights,
    parameter_specs,
    rotary_angles,
)
from nanochat.philox import Stream


def config(preset="microgpt", **changes):
    return TrainConfig(preset=preset, mode="scalar", **changes)


def shapes(config_, vocab=27):
    return {spec.name: spec.shape for spec in parameter_specs(config_, vocab)}


def test_microgpt_has_microgpts_matrices_in_its_order():
    n, block, vocab = 16, 16, 27
    assert list(shapes(config()).items()) == [
        ("wte", (vocab, n)), ("wpe", (block, n)), ("lm_head", (vocab, n)),
        ("layer0.attn_wq", (n, n)), ("layer0.attn_wk", (n, n)), ("layer0.attn_wv", (n, n)),
        ("layer0.attn_wo", (n, n)), ("layer0.mlp_fc1", (4 * n, n)), ("layer0.mlp_fc2", (n, 4 * n)),
    ]  # fmt: skip
    assert sum(a * b for a, b in shapes(config()).values()) == 4192


def test_rope_has_no_position_table_and_a_tied_head_no_matrix():
    assert "wpe" not in shapes(config(positions="rope"))
    assert "lm_head" not in shapes(config(tie_lm_head=True))


def test_bigram_has_an_embedding_and_a_head():
    bigram = config("bigram", n_embd=8)
    assert shapes(bigram, 5) == {"wte": (5, 8), "lm_head": (5, 8)}
    assert shapes(config("bigram", n_embd=8, tie_lm_head=True), 5) == {"wte": (5, 8)}


def test_layers_are_numbered_and_a_model_without_any_has_none():
    assert [name for name in shapes(config(n_layer=3)) if name.endswith("attn_wq")] == [
        "layer0.attn_wq", "layer1.attn_wq", "layer2.attn_wq",
    ]  # fmt: skip
    assert list(shapes(config(n_layer=0))) == ["wte", "wpe", "lm_head"]


def test_groups_are_embedding_head_and_matrix():
    groups = {spec.name: spec.group for spec in parameter_specs(config(), 27)}
    assert set(groups.values()) == set(GROUPS)
    assert [groups[n] for n in ("wte", "wpe", "lm_head", "layer0.mlp_fc2")] == [
        "embedding", "embedding", "head", "matrix",
    ]  # fmt: skip


def test_weights_are_the_named_philox_normals_times_init_std():
    weights = initial_weights(config(init_std=0.25), 27)
    for name, shape in nonempty(shapes(config()).items()):
        draws = philox.normals(1337, Stream.INIT, zlib.crc32(name.encode()), shape[0] * shape[1])
        assert weights[name].dtype == np.float64
        assert weights[name].tobytes() == (0.25 * draws).reshape(shape).tobytes()


def test_draws_have_the_given_standard_deviation():
    wide = initial_weights(config(n_embd=256, n_head=4, init_std=0.1), 300)
    draws = np.concatenate([w.ravel() for w in wide.values()])
    assert draws.mean() == pytest.approx(0, abs=5 * 0.1 / len(draws) ** 0.5)
    assert draws.std() == pytest.approx(0.1, rel=5 / (2 * len(draws)) ** 0.5)


def test_one_tensors_draws_depend_on_no_other_and_on_the_seed():
    few, many = initial_weights(config(), 27), initial_weights(config(n_layer=4), 27)
    assert few["layer0.mlp_fc1"].tobytes() == many["layer0.mlp_fc1"].tobytes()
    assert few["wte"].tobytes() != initial_weights(config(seed=1), 27)["wte"].tobytes()
    assert few["layer0.attn_wq"].tobytes() != few["layer0.attn_wk"].tobytes()


def test_rotary_angles_rotate_as_complex_numbers():
    positions = np.array([[0, 1, 2], [5, 100, 1000]])
    cos, sin = rotary_angles(positions, 8)
    assert cos.shape == sin.shape == (2, 3, 4)
    x = np.random.default_rng(0).normal(size=(2, 3, 8))
    rotated = np.concatenate(
        [x[..., :4] * cos + x[..., 4:] * sin, x[..., 4:] * cos - x[..., :4] * sin], axis=-1
    )
    # y₁ + i·y₂ = (x₁ + i·x₂)·exp(−i·position·10000^(−k/4))
    frequencies = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turn = torch.polar(
        torch.ones(2, 3, 4, dtype=torch.float64),
        -torch.from_numpy(positions)[..., None] * frequencies,
    )
    expected = torch.complex(torch.tensor(x[..., :4]), torch.tensor(x[..., 4:])) * turn
    got = rotated[..., :4] + 1j * rotated[..., 4:]
    assert got == pytest.approx(expected.numpy(), rel=1e-12, abs=1e-12)


def test_position_zero_is_not_rotated():
    cos, sin = rotary_angles(np.array([0]), 6)
    assert cos.tolist() == [[1.0] * 3]
    assert sin.tolist() == [[0.0] * 3]

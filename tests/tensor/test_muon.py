"""Muon against float64 NumPy: singular values after the iteration, and whole steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tensor import batch_makers
from tensor.batch_makers import make_engine, small_config

from nanochat.model.parameters import initial_weights, parameter_specs
from nanochat.tensor.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalized
from nanochat.tensor.weights import FlatWeights


def iterated(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the iterations to singular values."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        sizes = a * sizes + b * sizes**3 + c * sizes**5
    return sizes


def by_singular_values(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    u, sizes, v = np.linalg.svd(matrix, full_matrices=False)
    return (u * iterated(sizes / max(np.linalg.norm(matrix), 1e-30))) @ v


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24), columns=st.integers(1, 24), count=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_the_iteration_changes_only_singular_values(
    rows: int, columns: int, count: int, seed: int
) -> None:
    stack = np.random.default_rng(seed).normal(size=(2, count, rows, columns))
    found = orthogonalized(torch.from_numpy(stack))
    assert found.shape == stack.shape
    for one, matrix in zip(found.flatten(0, 1), stack.reshape(-1, rows, columns), strict=True):
        np.testing.assert_allclose(one.numpy(), by_singular_values(matrix), atol=1e-8)


@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (64, 64), (512, 128), (128, 512)])
def test_in_float32_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    made = orthogonalized(torch.from_numpy(draw.normal(size=(3, *shape)).astype(np.float32)))
    sizes = torch.linalg.svdvals(made.double())
    # A random square matrix has a few singular values that are too small for five iterations.
    low = 0.65 if shape[0] != shape[1] else 0.0
    assert float(sizes.max()) < 1.25
    assert float(sizes.min()) > low
    assert float(sizes.median()) > 0.65


def test_zeros_stay_zeros_and_the_scale_of_a_matrix_does_not_matter() -> None:
    assert not orthogonalized(torch.zeros(2, 8, 4)).any()
    stack = torch.randn(2, 8, 4, dtype=torch.float64)
    torch.testing.assert_close(orthogonalized(stack * 1e-12), orthogonalized(stack * 1e12))


def matrices_of(config, name: str, array: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return views of the matrices that Muon orthogonalizes: one per head, or the whole."""
    if name.endswith(("attn_wq", "attn_wk", "attn_wv")):
        return np.split(array, config.n_head, axis=0)
    if name.endswith("attn_wo"):
        return np.split(array, config.n_head, axis=1)
    return [array]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_equal_numpy_in_float64(decay: float) -> None:
    config = small_config(
        optimizer="muon", positions="learned", weight_decay=decay, beta1=0.85, muon_momentum=0.9
    )
    engine = make_engine(config)
    lr = {"embedding": 0.02, "matrix": 0.05, "head": 0.005}
    rates = batch_makers.settings(lr)
    specs = [spec for spec in engine.weights.specs if spec.group == "matrix"]
    assert len(specs) == 6 * config.n_layer
    weights = {
        s.name: a.copy() for s, a in zip(engine.weights.specs, unpacked(engine), strict=True)
    }
    momentum = {spec.name: np.zeros(spec.shape) for spec in specs}
    draw = np.random.default_rng(3)
    for _ in range(10):
        flat = draw.normal(size=engine.weights.size)
        gradients = engine.weights.unpack(torch.from_numpy(flat))
        engine.weights.gradients.copy_(torch.from_numpy(flat))
        engine.weights.loss.fill_(1.0)
        engine.optimizer.step(rates)
        for spec in specs:
            held = momentum[spec.name]
            held *= 0.9
            held += 0.1 * gradients[spec.name]
            wanted = 0.1 * gradients[spec.name] + 0.9 * held
            weights[spec.name] *= 1 - lr["matrix"] * decay
            targets = matrices_of(config, spec.name, weights[spec.name])
            for target, part in zip(targets, matrices_of(config, spec.name, wanted), strict=True):
                size = lr["matrix"] * max(1.0, part.shape[0] / part.shape[1]) ** 0.5
                target -= size * by_singular_values(part)
    now = engine.state_dict()
    for spec in specs:
        np.testing.assert_allclose(now.weights[spec.name], weights[spec.name], atol=1e-8)
        found = now.optimizer[f"momentum.{spec.name}"]
        np.testing.assert_allclose(found, momentum[spec.name], atol=1e-12)
    assert set(now.optimizer) == {
        *(f"{moment}.{name}" for moment in "mv" for name in ("wte", "wpe", "lm_head")),
        *(f"momentum.{spec.name}" for spec in specs),
        "step",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"layer0.gate": (6, 8), "layer1.gate": (6, 8)},
        {"layer1.gate": (6, 8), "scale": (1, 8)},
        {"layer0.mlp_fc1": (3, 8), "layer0.mlp_fc2": (8, 3)},
        {"layer0.attn_wk": None, "layer1.attn_wo": None, "layer1.attn_wv": (4, 8)},
        {"layer0.attn_wk": (4, 8), "layer1.attn_wk": (4, 8), "layer0.attn_wq": (3, 8)},
    ],
    ids=str,
)
def test_a_step_orthogonalizes_the_matrices_of_a_model_file_one_by_one(
    changes: dict[str, tuple[int, int] | None],
) -> None:
    config = small_config(optimizer="muon", n_layer=2, n_head=2, n_embd=8)
    specs = parameter_specs(config, 5, changes)
    before = initial_weights(config, 5, changes)
    weights = FlatWeights(specs, before, device=torch.device("cpu"), dtype=torch.float64)
    muon = Muon(weights, heads=2)
    flat = torch.from_numpy(np.random.default_rng(1).normal(size=weights.size))
    gradients = weights.unpack(flat)
    weights.gradients.copy_(flat)
    muon.step(lr=0.5, weight_decay=0.0, momentum=0.0, stopped=torch.zeros(()))
    after = weights.unpack(weights.values)
    matrices = [spec for spec in specs if spec.group == "matrix"]
    assert {spec.name for spec in matrices} >= {n for n, shape in changes.items() if shape}
    for spec in matrices:
        expected = before[spec.name].copy()
        by_head = spec.shape[0] % 2 == 0 or not spec.name.endswith(("wq", "wk", "wv"))
        split = matrices_of if by_head else lambda _config, _name, array: [array]
        targets = split(config, spec.name, expected)
        for target, part in zip(
            targets, split(config, spec.name, gradients[spec.name]), strict=True
        ):
            size = 0.5 * max(1.0, part.shape[0] / part.shape[1]) ** 0.5
            target -= size * by_singular_values(part)
        np.testing.assert_allclose(after[spec.name], expected, atol=1e-8, err_msg=spec.name)


def unpacked(engine) -> list[NDArray[np.float64]]:
    return list(engine.weights.unpack(engine.weights.values).values())


def test_embeddings_and_head_are_updated_by_adamw() -> None:
    muon, adamw = (make_engine(small_config(optimizer=name)) for name in ("muon", "adamw"))
    for seed in range(3):
        flat = np.random.default_rng(seed).normal(size=muon.weights.size)
        for engine in (muon, adamw):
            engine.weights.gradients.copy_(torch.from_numpy(flat))
            engine.weights.loss.fill_(1.0)
            engine.optimizer.step(batch_makers.settings())
    ours, theirs = muon.state_dict().weights, adamw.state_dict().weights
    for name in ("wte", "lm_head"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert not np.array_equal(ours["layer0.attn_wq"], theirs["layer0.attn_wq"])

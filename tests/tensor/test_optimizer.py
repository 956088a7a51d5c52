"""The flat optimizer against torch.optim, clipping, and steps that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensor.batch_makers import everything, make_engine, packed, settings, small_config

from nanochat.model.parameters import GROUPS
from nanochat.tensor.engine import TensorEngine


def torch_optimizer(engine: TensorEngine, lr: Mapping[str, float]) -> torch.optim.Optimizer:
    """Return torch.optim on copies of the weights; the caller applies SGD's decoupled decay."""
    config = engine.config
    weights = engine.state_dict().weights
    groups: list[dict[str, Any]] = []
    for spec in engine.weights.specs:
        parameter = torch.nn.Parameter(torch.from_numpy(weights[spec.name]))
        groups.append({"params": [parameter], "lr": lr[spec.group]})
        if config.optimizer == "adamw":
            groups[-1]["weight_decay"] = config.weight_decay
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, betas=(0.85, config.beta2), eps=config.eps, foreach=False, fused=False
        )
    return torch.optim.SGD(groups, momentum=0.85, foreach=False, fused=False)


def set_gradients(engine: TensorEngine, flat: NDArray[np.float64]) -> None:
    engine.weights.gradients.copy_(torch.from_numpy(flat))
    engine.weights.loss.fill_(1.0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("grouped", [False, True], ids=["one rate", "rate by group"])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_fifty_steps_equal_torch_optim(optimizer: str, grouped: bool, clip: float) -> None:
    lr, decay = dict.fromkeys(GROUPS, 0.01), 0.1
    if grouped:
        lr = {"embedding": 0.02, "matrix": 0.01, "head": 0.005}
    config = small_config(
        optimizer=optimizer, positions="learned", weight_decay=decay, beta1=0.85, grad_clip=clip
    )
    engine = make_engine(config)
    theirs = torch_optimizer(engine, lr)
    parameters = [group["params"][0] for group in theirs.param_groups]
    rates = settings(lr)
    draw = np.random.default_rng(3)
    for _ in range(50):
        flat = draw.normal(size=engine.weights.size) * draw.uniform(0.001, 0.1)
        set_gradients(engine, flat)
        pieces = engine.weights.unpack(torch.from_numpy(flat))
        for spec, parameter in zip(engine.weights.specs, parameters, strict=True):
            parameter.grad = torch.from_numpy(pieces[spec.name])
            if optimizer == "sgd":
                parameter.data.mul_(1 - lr[spec.group] * decay)
        expected_norm = torch.nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
        theirs.step()
        _, norm = engine.optimizer.step(rates)
        assert float(norm) == pytest.approx(float(expected_norm), rel=1e-13)
    ours = engine.state_dict().weights
    for spec, parameter in zip(engine.weights.specs, parameters, strict=True):
        theirs_now = parameter.detach().numpy()
        np.testing.assert_allclose(ours[spec.name], theirs_now, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fifty_steps_in_float32_equal_torch_optim_in_float64(dtype: str) -> None:
    lr = {"embedding": 0.02, "matrix": 0.01, "head": 0.005}
    config = small_config(weight_decay=0.1, beta1=0.85, grad_clip=0.5)
    engine = make_engine(config, dtype=dtype)
    theirs = torch_optimizer(engine, lr)
    for group in theirs.param_groups:
        group["params"][0].data = group["params"][0].data.double()
    parameters = [group["params"][0] for group in theirs.param_groups]
    draw = np.random.default_rng(3)
    for _ in range(50):
        flat = draw.normal(size=engine.weights.size).astype(np.float32)
        set_gradients(engine, flat)
        pieces = engine.weights.unpack(torch.from_numpy(flat))
        for spec, parameter in zip(engine.weights.specs, parameters, strict=True):
            parameter.grad = torch.from_numpy(pieces[spec.name]).double()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        theirs.step()
        engine.optimizer.step(settings(lr))
    ours = engine.state_dict().weights
    for spec, parameter in zip(engine.weights.specs, parameters, strict=True):
        np.testing.assert_allclose(ours[spec.name], parameter.detach().numpy(), atol=2e-6)
    assert engine.model.head.dtype == getattr(torch, dtype)
    head = torch.from_numpy(ours["lm_head"]).to(engine.model.head.dtype)
    assert torch.equal(engine.model.head.detach(), head)


def test_gradients_and_loss_are_zero_between_steps() -> None:
    for dtype in ("float32", "bfloat16"):
        engine = make_engine(small_config(), dtype=dtype)
        engine.step([packed()], settings())
        assert not engine.weights.step_sums.any()
        wqkv = engine.model.blocks[0].weights["attn_wqkv"]
        assert all(not leaf.grad.any() for leaf in (engine.model.head, wqkv))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_and_all_later_ones_change_no_bit(
    optimizer: str, dtype: str, bad: float
) -> None:
    config = small_config(optimizer=optimizer, weight_decay=0.1, grad_clip=1.0)
    engine = make_engine(config, dtype=dtype)
    rates = settings()
    engine.step([packed()], rates)
    before = everything(engine)
    set_gradients(engine, np.full(engine.weights.size, bad))
    assert not np.isfinite(engine.step([packed()], rates).read().grad_norm)
    assert everything(engine) == before
    later = [engine.step([packed(seed)], rates) for seed in range(3)]
    assert all(np.isfinite(result.read().loss) for result in later)
    assert everything(engine) == before
    engine.load_state_dict(engine.state_dict())
    engine.step([packed()], rates)
    assert everything(engine) != before


def test_a_loss_that_is_not_finite_suppresses_the_update() -> None:
    engine = make_engine(small_config())
    before = everything(engine)
    engine.weights.loss.fill_(float("nan"))
    assert np.isnan(engine.step([packed()], settings()).read().loss)
    assert everything(engine) == before

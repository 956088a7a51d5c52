"""The tensor engine for the training loop: microbatches, dropout, reproducibility, devices."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from tensor.batch_makers import (
    VOCAB,
    everything,
    make_engine,
    packed,
    settings,
    small_config,
    total_nats,
    windows,
)

from nanochat.config.options import TrainConfig
from nanochat.errors import KernelError, UnsupportedDevice, UnsupportedDtype
from nanochat.model.parameters import GROUPS
from nanochat.tensor.engine import TensorEngine, resolve_device
from nanochat.training.engine import Engine

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
NO_UPDATE = settings(lr=dict.fromkeys(GROUPS, 0.0))


def test_the_engine_implements_the_protocol() -> None:
    engine: Engine = make_engine(small_config())
    assert (engine.mode, engine.backend, engine.device) == ("tensor", "torch", "cpu")
    assert engine.notes() == ()


@pytest.mark.parametrize("model_kind", ["bigram", "mini-gpt"])
def test_microbatches_equal_one_batch(model_kind: str) -> None:
    whole = windows(6, 8)
    names = ("inputs", "targets", "positions", "segments", "lengths")
    parts = [
        dataclasses.replace(whole, **{name: getattr(whole, name)[rows] for name in names})
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    one, many = (make_engine(small_config(model_kind=model_kind)) for _ in range(2))
    for _ in range(5):
        expected = one.step([whole], settings()).read()
        found = many.step(parts, settings()).read()
        assert found.loss == pytest.approx(expected.loss, rel=1e-12)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_steps_give_the_same_bits(dtype: str, threads: int) -> None:
    config = small_config(n_embd=64, dropout=0.1, threads=threads, grad_clip=1.0)
    runs = []
    for _ in range(2):
        engine = make_engine(config, dtype=dtype)
        batches = [[packed(seed), windows(32, 8, seed=seed)] for seed in range(4)]
        metrics = [engine.step(batch, settings()).read() for batch in batches]
        runs.append((metrics, everything(engine)))
    assert runs[0] == runs[1]


def test_training_lowers_the_loss() -> None:
    engine = make_engine(small_config(n_embd=32, init_std=0.08), dtype="float32")
    losses = [engine.step([windows(8, 8)], settings()).read().loss for _ in range(100)]
    assert losses[0] == pytest.approx(math.log(VOCAB), rel=0.2)
    assert losses[-1] < 0.5 * losses[0]


def test_a_result_may_be_read_later() -> None:
    early, late = make_engine(small_config()), make_engine(small_config())
    expected = [early.step([packed(seed)], settings()).read() for seed in range(4)]
    queued = [late.step([packed(seed)], settings()) for seed in range(4)]
    assert [result.read() for result in queued] == expected


def dropping(**options: Any) -> TensorEngine:
    return make_engine(small_config(dropout=0.3, **options))


def test_dropout_depends_on_seed_step_and_microbatch_alone() -> None:
    batch = packed(global_targets=2 * packed().global_targets)
    first, second = dropping(), dropping()
    losses = [first.step([batch, batch], NO_UPDATE).read().loss for _ in range(3)]
    assert len(set(losses)) == 3
    torch.manual_seed(0)
    second.token_losses(batch)
    assert second.step([batch, batch], NO_UPDATE).read().loss == losses[0]
    second.load_state_dict(first.state_dict())
    expected = first.step([batch, batch], NO_UPDATE).read().loss
    assert second.step([batch, batch], NO_UPDATE).read().loss == expected
    assert dropping(seed=1).step([batch, batch], NO_UPDATE).read().loss not in losses


def test_dropout_is_off_in_scoring_and_decoding() -> None:
    dropped, plain = dropping(), make_engine(small_config())
    found, expected = (engine.token_losses(packed()) for engine in (dropped, plain))
    np.testing.assert_array_equal(found, expected)
    found, expected = (engine.open_decoder([[0, 1]]).logits for engine in (dropped, plain))
    np.testing.assert_array_equal(found, expected)


def test_threads_are_set() -> None:
    make_engine(small_config(threads=2))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_every_device_has_the_losses_of_the_cpu(device: str, dtype: str) -> None:
    config = small_config(init_std=0.08)
    engine = TensorEngine(config, VOCAB, device=device, dtype=dtype)
    reference = make_engine(config)
    found = [engine.step([packed(seed)], settings()).read().loss for seed in range(5)]
    expected = [reference.step([packed(seed)], settings()).read().loss for seed in range(5)]
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05}[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool, platform: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    monkeypatch.setattr("sys.platform", platform)


@pytest.mark.parametrize(
    ("cuda", "mps", "platform", "expected"),
    [
        (False, False, "linux", ("cpu", "float32")),
        (True, False, "linux", ("cuda", "bfloat16")),
        (False, True, "darwin", ("mps", "float32")),
    ],
)
def test_auto_chooses_the_best_available_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, platform: str, expected: tuple[str, str]
) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps, platform=platform)
    assert resolve_device(TrainConfig(mode="tensor", loss="torch")) == expected


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    machine(monkeypatch, cuda=False, mps=False, platform="linux")
    message = f"device {device} is not available on this machine; use device cpu"
    with pytest.raises(UnsupportedDevice, match=f"^{message}$"):
        resolve_device(TrainConfig(mode="tensor", device=device, loss="torch"))


def test_mps_computes_in_float32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=False, mps=True, platform="darwin")
    with pytest.raises(UnsupportedDtype, match="device mps does not support dtype bfloat16"):
        resolve_device(TrainConfig(mode="tensor", device="mps", dtype="bfloat16", loss="torch"))
    wide = TrainConfig(mode="tensor", dtype="float64", loss="torch")
    assert resolve_device(wide) == ("cpu", "float64")


def test_the_fused_loss_stays_on_the_cpu_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=False, mps=True, platform="darwin")
    assert resolve_device(TrainConfig(mode="tensor")) == ("cpu", "float32")


def test_the_fused_loss_names_the_missing_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise KernelError("the kernel library is missing; install it")

    machine(monkeypatch, cuda=True, mps=False, platform="linux")
    monkeypatch.setattr("nanochat.native.cuda", missing)
    with pytest.raises(UnsupportedDevice) as caught:
        resolve_device(TrainConfig(mode="tensor"))
    assert str(caught.value) == (
        "loss fused cannot run on cuda: the kernel library is missing; install it, or use loss torch"
    )
    with pytest.raises(UnsupportedDtype, match="float64 on cuda; use loss torch"):
        resolve_device(TrainConfig(mode="tensor", dtype="float64"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("model_kind", ["bigram", "mini-gpt"])
def test_both_losses_train_the_same_curve(dtype: str, model_kind: str) -> None:
    curves, evaluated = [], []
    for loss in ("fused", "torch"):
        config = small_config(model_kind=model_kind, loss=loss, logit_softcap=5.0)
        engine = make_engine(config, dtype=dtype)
        batches = [packed(seed) for seed in range(20)]
        curves.append([engine.step([batch], settings()).read().loss for batch in batches])
        evaluated.append(total_nats(engine, packed(99)))
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.02}[dtype]
    np.testing.assert_allclose(curves[0], curves[1], rtol=tolerance)
    assert evaluated[0] == pytest.approx(evaluated[1], rel=tolerance)
    assert curves[0] != curves[1] or dtype == "float64"  # the two losses are computed differently

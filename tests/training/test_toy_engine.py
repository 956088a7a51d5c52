"""The toy engine itself, against torch, so that tests of the loop can lean on it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from training.toy_engine import TABLE, ToyEngine

from nanochat.config.options import TrainConfig
from nanochat.data.batches import IGNORE, Batch
from nanochat.errors import CheckpointError
from nanochat.model.parameters import GROUPS
from nanochat.sampling.count_bigram import CountBigram
from nanochat.training.engine import Engine, EngineState, StepSettings
from nanochat.training.metrics import LossTotals

TOKEN_BYTES = np.array([0, 1, 2, 1])
ROWS = np.array([[0, 1, 2, 3, 0], [0, 3, 3, 1, 2]])


def batch(rows=ROWS):
    targets = rows[:, 1:].copy()
    targets[0, -1] = IGNORE
    return Batch(
        inputs=rows[:, :-1], targets=targets, positions=np.zeros_like(targets),
        segments=np.zeros_like(targets), lengths=np.full(len(rows), 4),
        global_targets=int((targets != IGNORE).sum()),
    )  # fmt: skip


SETTINGS = StepSettings(lr=dict.fromkeys(GROUPS, 0.1))


def toy(optimizer="adamw", *, poison_step=None, **options) -> ToyEngine:
    options = {"weight_decay": 0.0, "beta1": 0.9, "grad_clip": 0.0, **options}
    config = TrainConfig(preset="bigram", mode="scalar", optimizer=optimizer, **options)
    engine = ToyEngine(config, 4, poison_step=poison_step)
    engine.table[:] = np.random.default_rng(0).normal(size=(4, 4))
    return engine


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("clip", "decay"), [(0.0, 0.0), (0.05, 0.1)])
def test_twenty_steps_walk_torchs_losses(optimizer, clip, decay):
    engine: Engine = toy(optimizer, grad_clip=clip, weight_decay=decay)
    table = torch.nn.Parameter(torch.from_numpy(engine.state_dict().weights[TABLE]))
    if optimizer == "adamw":
        torch_optimizer = torch.optim.AdamW(
            [table], lr=0.1, betas=(0.9, engine.config.beta2), eps=1e-8, weight_decay=decay
        )
    else:
        torch_optimizer = torch.optim.SGD([table], lr=0.1, momentum=0.9)
    inputs, targets = (torch.from_numpy(a) for a in (batch().inputs, batch().targets))
    for _ in range(20):
        torch_optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            table[inputs].reshape(-1, 4), targets.reshape(-1), ignore_index=IGNORE
        )
        loss.backward()
        norm = table.grad.norm()
        if clip:
            torch.nn.utils.clip_grad_norm_([table], clip)
        if optimizer == "sgd":
            table.data.mul_(1 - 0.1 * decay)  # decoupled, which torch's SGD has not
        torch_optimizer.step()
        metrics = engine.step([batch()], SETTINGS).read()
        assert metrics.loss == pytest.approx(loss.item(), rel=1e-12)
        assert metrics.grad_norm == pytest.approx(norm.item(), rel=1e-12)


ARRAYS = ("inputs", "targets", "positions", "segments", "lengths")


def test_microbatches_of_one_step_are_one_batch():
    whole, halves = toy(), toy()
    b = batch()
    parts = [
        dataclasses.replace(b, **{name: getattr(b, name)[i : i + 1] for name in ARRAYS})
        for i in range(2)
    ]  # fmt: skip
    first, second = whole.step([b], SETTINGS).read(), halves.step(parts, SETTINGS).read()
    assert first.loss == pytest.approx(second.loss, rel=1e-14)
    assert halves.table == pytest.approx(whole.table, rel=1e-12)


def test_training_approaches_the_maximum_likelihood_bigram():
    engine, b = toy(), batch()
    for _ in range(500):
        engine.step([b], SETTINGS)
    counts = np.zeros((4, 4), dtype=np.int64)
    counted = b.targets != IGNORE
    np.add.at(counts, (b.inputs[counted], b.targets[counted]), 10**9)
    best, trained = LossTotals(TOKEN_BYTES), LossTotals(TOKEN_BYTES)
    best.add(CountBigram(counts).token_losses(b), b.targets)
    trained.add(engine.token_losses(b), b.targets)
    assert trained.loss == pytest.approx(best.loss, abs=1e-3)
    assert trained.bpb == pytest.approx(best.bpb, abs=1e-3)


def test_a_poisoned_step_leaves_the_weights_and_every_later_one_too():
    engine = toy(poison_step=2)
    engine.step([batch()], SETTINGS)
    before = engine.table.copy()
    assert math.isnan(engine.step([batch()], SETTINGS).read().loss)
    engine.step([batch()], SETTINGS)
    assert engine.table.tobytes() == before.tobytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loaded_state_goes_on_with_the_same_bits(optimizer):
    engine, other = toy(optimizer), toy(optimizer)
    for _ in range(3):
        engine.step([batch()], SETTINGS)
    other.load_state_dict(engine.state_dict())
    for each in (engine, other):
        each.step([batch()], SETTINGS)
    assert engine.table.tobytes() == other.table.tobytes()


def test_a_state_without_optimizer_resets_it_and_one_of_another_shape_is_refused():
    engine = toy()
    engine.step([batch()], SETTINGS)
    engine.load_state_dict(EngineState(weights={TABLE: np.zeros((4, 4))}, optimizer={}))
    assert not any(a.any() for a in engine.state_dict().optimizer.values())
    with pytest.raises(CheckpointError):
        engine.load_state_dict(EngineState(weights={TABLE: np.zeros((5, 5))}, optimizer={}))


def test_its_decoder_reads_the_row_of_the_last_token():
    engine = toy()
    decoder = engine.open_decoder([[0, 2], [3, 1]])
    assert decoder.logits.tolist() == engine.table[[2, 1]].tolist()
    decoder.advance([3, 0])
    assert decoder.logits.tolist() == engine.table[[3, 0]].tolist()

"""The loss of the mixture and its gradients, against the formula by torch's own autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat.config.options import TrainConfig
from nanochat.data.batches import Batch
from nanochat.ngram.mixing import NETWORK_WEIGHT
from nanochat.ops.reference import head_logits
from nanochat.tensor.engine import TensorEngine
from nanochat.tensor.mixture import mixed_nats
from nanochat.training.engine import StepSettings

VOCAB = 9


def by_formula(logits: Tensor, targets: Tensor, by_counts: Tensor) -> tuple[Tensor, Tensor]:
    mixed, network = [], []
    for row, target, counted in zip(logits, targets.tolist(), by_counts, strict=True):
        if target < 0:
            mixed.append(row.sum() * 0)
            network.append(row.sum() * 0)
            continue
        shares = row.log_softmax(0)
        mixed.append(-torch.logaddexp(shares[target], shares[-1] + counted))
        network.append(-row[:-1].log_softmax(0)[target])
    return torch.stack(mixed), torch.stack(network)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_losses_and_gradients_are_those_of_the_formula(dtype, tolerance):
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(60, VOCAB + 1, generator=random, dtype=torch.float64) * 3
    logits[0, -1], logits[1, 2], logits[2, -1] = 30.0, 60.0, -40.0
    targets = torch.randint(-1, VOCAB, (60,), generator=random)
    targets[:3] = torch.tensor([4, 5, 6])
    by_counts = -9 * torch.rand(60, generator=random, dtype=torch.float64)
    weights = torch.rand(2, 60, generator=random, dtype=torch.float64)
    results = []
    for function, kind in ((by_formula, torch.float64), (mixed_nats, dtype)):
        leaf = logits.to(kind).clone().requires_grad_()
        losses = torch.stack(function(leaf, targets, by_counts.to(kind)))
        (losses * weights.to(kind)).sum().backward()
        assert losses.dtype == leaf.grad.dtype == kind
        results.append((losses.detach().double(), leaf.grad.double()))
    (losses, gradients), (found, found_gradients) = results
    torch.testing.assert_close(found, losses, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found_gradients, gradients, rtol=tolerance, atol=tolerance)
    assert (found[:, targets < 0] == 0).all()
    assert (found_gradients[targets < 0] == 0).all()


def test_a_share_of_one_leaves_a_finite_loss_and_gradient():
    logits = torch.zeros(1, VOCAB + 1)
    logits[0, -1] = 200.0
    leaf = logits.requires_grad_()
    mixed, network = mixed_nats(leaf, torch.tensor([3]), torch.tensor([-2.0]))
    (mixed + 0.3 * network).sum().backward()
    assert mixed.item() == pytest.approx(2.0)
    assert torch.isfinite(network).all()
    assert torch.isfinite(leaf.grad).all()


def engine_with(offset: float) -> TensorEngine:
    config = TrainConfig(
        mode="tensor", n_layer=1, n_embd=8, n_head=2, optimizer="sgd", beta1=0.0, threads=1,
        ngram_order=3, ngram_offset=offset,
    )  # fmt: skip
    return TensorEngine(config, VOCAB, device="cpu", dtype="float64")


def rows(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    shape = (3, 5)
    return Batch(
        inputs=random.integers(1, VOCAB, shape), targets=random.integers(1, VOCAB, shape),
        positions=np.tile(np.arange(5), (3, 1)), segments=np.zeros(shape, np.int64),
        lengths=np.full(3, 5), global_targets=15,
        by_counts=random.random(shape, dtype=np.float32),
    )  # fmt: skip


def test_the_offset_lowers_the_share_of_the_counts_in_training_alone():
    plain, engine, batch, rate = engine_with(0.0), engine_with(1.5), rows(0), 0.25
    np.testing.assert_array_equal(engine.token_losses(batch), plain.token_losses(batch))

    head = engine.model.head.detach().clone().requires_grad_()
    with torch.no_grad():
        inputs = engine._inputs(batch)
        hidden = engine.model.hidden(inputs)
    lowered = head_logits(hidden, head) - 1.5 * torch.eye(VOCAB + 1, dtype=torch.float64)[-1]
    mixed, network = by_formula(lowered, inputs.targets, inputs.log_by_counts)
    (mixed + NETWORK_WEIGHT * network).mean().backward()

    settings = StepSettings(lr={"embedding": 0.0, "matrix": 0.0, "head": rate})
    before = engine.model.head.detach().clone()
    loss = engine.step([batch], settings).read().loss
    assert loss == pytest.approx(mixed.mean().item(), rel=1e-12)
    torch.testing.assert_close(engine.model.head.detach(), before - rate * head.grad)

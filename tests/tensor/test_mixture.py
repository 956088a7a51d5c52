"""The loss of the mixture and its gradients, against the formula by torch's own autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanochat.tensor.mixture import mixed_nats

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

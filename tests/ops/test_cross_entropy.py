"""Fused linear cross-entropy against a plain NumPy formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nanochat.ops.cross_entropy import head_logits, linear_cross_entropy, token_nats

ROWS, WIDTH, VOCAB = 9, 5, 7


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(2)
    targets = draw.integers(0, VOCAB, ROWS)
    targets[[2, 5]] = -1
    hidden, weight = draw.normal(size=(ROWS, WIDTH)), draw.normal(size=(VOCAB, WIDTH))
    return torch.from_numpy(hidden), torch.from_numpy(weight), torch.from_numpy(targets)


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, cap: float
) -> NDArray[np.float64]:
    logits = hidden.double().numpy() @ weight.double().numpy().T
    logits = cap * np.tanh(logits / cap) if cap else logits
    nats = [
        np.log(np.exp(row).sum()) - row[target] if target >= 0 else 0.0
        for row, target in zip(logits, targets.tolist(), strict=True)
    ]
    return np.array(nats)


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_sum_and_tokens_equal_the_formula(cap: float) -> None:
    hidden, weight, targets = problem()
    expected = plain(hidden, weight, targets, cap)
    by_token = token_nats(hidden, weight, targets, softcap=cap)
    np.testing.assert_allclose(by_token, expected, rtol=1e-12)
    total = linear_cross_entropy(hidden, weight, targets, softcap=cap)
    assert float(total) == pytest.approx(expected.sum(), rel=1e-13)


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_gradients_pass_gradcheck(cap: float) -> None:
    hidden, weight, targets = problem()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, softcap=cap),
        (hidden.requires_grad_(), weight.requires_grad_()),
    )


def test_ignored_rows_have_no_gradient() -> None:
    hidden, weight, targets = problem()
    linear_cross_entropy(hidden.requires_grad_(), weight, targets).backward()
    assert hidden.grad is not None
    assert not hidden.grad[targets == -1].any()
    assert hidden.grad[targets != -1].any(dim=1).all()


def test_another_ignore_index_is_honoured() -> None:
    hidden, weight, targets = problem()
    other = torch.where(targets == -1, -100, targets)
    expected = linear_cross_entropy(hidden, weight, targets)
    assert torch.equal(linear_cross_entropy(hidden, weight, other, ignore_index=-100), expected)


def test_large_logits_stay_finite() -> None:
    hidden, weight, targets = problem()
    assert torch.isfinite(linear_cross_entropy(1e4 * hidden, weight, targets))


def test_no_targets_is_a_loss_of_zero() -> None:
    hidden, weight, targets = problem()
    assert float(linear_cross_entropy(hidden, weight, torch.full_like(targets, -1))) == 0.0


def test_bfloat16_sums_in_float32() -> None:
    hidden, weight, targets = problem()
    narrow = (hidden.bfloat16(), weight.bfloat16())
    loss = linear_cross_entropy(*narrow, targets)
    assert loss.dtype == torch.float32
    assert head_logits(*narrow).dtype == torch.float32
    assert float(loss) == pytest.approx(plain(*narrow, targets, 0.0).sum(), rel=1e-2)

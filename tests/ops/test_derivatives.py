"""Reverse-mode AD of the losses: gradients in place, kept graphs, no second derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles.losses import random_rows
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import cross_entropy, linear_cross_entropy

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden, weight, targets."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(9, 5, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, 7, (9,), generator=generator)
    targets[2] = -1
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_gradients_pass_gradcheck(reduction: str, softcap: float) -> None:
    options: Any = {
        "reduction": reduction,
        "softcap": softcap,
        "label_smoothing": 0.1,
        "z_loss": 0.1,
    }
    hidden, weight, targets = problem()
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, **options), (hidden, weight)
    )
    logits, targets = random_rows(6, 11, torch.float64)
    leaf = logits.requires_grad_()
    for inplace in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, inplace=inplace: cross_entropy(x * 1, targets, inplace=inplace, **options),
            (leaf,),
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_kept_graph_gives_the_same_gradient_twice(dtype: torch.dtype, inplace: bool) -> None:
    logits, targets = random_rows(6, 11, dtype)
    leaf = logits.requires_grad_()
    loss = 3 * cross_entropy(leaf * 1, targets, inplace=inplace)
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    kept = first.clone()
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(first, kept)
    assert torch.equal(leaf.grad, kept + kept)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_a_leaf_gets_a_separate_gradient(factor: float) -> None:
    logits, targets = random_rows(6, 11, torch.float32)
    leaf = logits.requires_grad_()
    loss = factor * cross_entropy(leaf, targets)
    loss.backward(retain_graph=True)
    once = leaf.grad.clone()
    leaf.grad.zero_()  # must not change the tensor that the graph holds
    loss.backward()
    assert torch.equal(leaf.grad, once)


def test_uneven_upstream_gradients_multiply_their_rows() -> None:
    logits, targets = random_rows(6, 11, torch.float64)
    upstream = torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0, 1e-3], dtype=torch.float64)
    leaf = logits.requires_grad_()
    for inplace in (False, True):
        losses = cross_entropy(leaf * 1, targets, reduction="none", inplace=inplace)
        (found,) = torch.autograd.grad(losses, leaf, upstream)
        losses = F.cross_entropy(leaf, targets, ignore_index=-1, reduction="none")
        (wanted,) = torch.autograd.grad(losses, leaf, upstream)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_an_expanded_upstream_gradient_is_read_with_stride_zero() -> None:
    logits, targets = random_rows(6, 11, torch.float32)
    leaf = logits.requires_grad_()
    losses = cross_entropy(leaf, targets, reduction="none")
    (found,) = torch.autograd.grad(losses, leaf, torch.tensor(0.5).expand(6))
    (wanted,) = torch.autograd.grad(0.5 * cross_entropy(leaf, targets, reduction="sum"), leaf)
    torch.testing.assert_close(found, wanted)


def test_only_what_requires_grad_gets_one() -> None:
    hidden, weight, targets = problem(torch.float32)
    both = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    (alone,) = torch.autograd.grad(linear_cross_entropy(hidden, weight.detach(), targets), hidden)
    assert torch.equal(alone, both[0])
    (alone,) = torch.autograd.grad(linear_cross_entropy(hidden.detach(), weight, targets), weight)
    assert torch.equal(alone, both[1])
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets).requires_grad
        assert not cross_entropy(hidden, targets.clamp(0, 4)).requires_grad


# ----------------------------------------------------------------------------------- in place


def test_inplace_leaves_the_gradient_where_the_logits_were() -> None:
    logits, targets = random_rows(6, 11, torch.float32)
    leaf = logits.requires_grad_()
    middle = leaf * 1
    address = middle.data_ptr()
    loss = cross_entropy(middle, targets, inplace=True)
    (wanted,) = torch.autograd.grad(cross_entropy(leaf, targets), leaf)
    assert middle.data_ptr() == address
    assert torch.equal(middle.detach(), wanted)
    assert middle._version == 1
    loss.backward()
    assert torch.equal(leaf.grad, wanted)


def test_inplace_refuses_leaves_that_require_grad_and_views_of_them() -> None:
    leaf = torch.randn(4, 6, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3])
    for logits in (leaf, leaf.view(4, 6), leaf[:, :5]):
        with pytest.raises(KernelError, match="overwrite a leaf that requires grad"):
            cross_entropy(logits, targets, inplace=True)


def test_a_backward_pass_that_saved_the_logits_raises() -> None:
    leaf = torch.randn(4, 6, requires_grad=True)
    logits = torch.exp(leaf)  # exp saves its result for its derivative
    loss = cross_entropy(logits, torch.tensor([0, 1, 2, 3]), inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_that_was_overwritten_is_noticed() -> None:
    leaf = torch.randn(4, 6, requires_grad=True)
    logits = leaf * 1
    loss = cross_entropy(logits, torch.tensor([0, 1, 2, 3]), inplace=True)
    with torch.no_grad():
        logits.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inplace_without_a_gradient_leaves_the_logits() -> None:
    logits, targets = random_rows(6, 11, torch.float32)
    before = logits.clone()
    assert torch.equal(cross_entropy(logits, targets, inplace=True), cross_entropy(before, targets))
    assert torch.equal(logits, before)


def test_inplace_refuses_what_it_cannot_write_through() -> None:
    logits = torch.randn(6, 4, requires_grad=True).t() * 1
    with pytest.raises(KernelError, match="rows are contiguous and do not overlap"):
        cross_entropy(logits, torch.zeros(4, dtype=torch.int64), inplace=True)
    logits = (torch.randn(2, 3, 6, requires_grad=True) * 1).transpose(0, 1)
    with pytest.raises(KernelError, match="that view\\(\\) can flatten"):
        cross_entropy(logits, torch.zeros(3, 2, dtype=torch.int64), inplace=True)


# ------------------------------------------------------------------------- the second derivative


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("registered", [False, True])
def test_a_second_derivative_is_an_error_and_never_a_wrong_number(
    reduction: str, registered: bool
) -> None:
    logits, targets = random_rows(5, 4, torch.float64)
    leaf = logits.requires_grad_()
    code = {"mean": 1, "none": 0}[reduction]
    if registered:
        losses = torch.ops.nck.cross_entropy(
            leaf, targets, None, None, -1, 0.0, 0.0, 0.0, code, reduction == "mean", False
        )[0]
    else:
        losses = cross_entropy(leaf, targets, reduction=reduction)
    # The square has a second derivative; the loss's must not silently count as zero.
    total = losses.sum() + (leaf**2).sum()
    with pytest.raises(KernelError, match="^cross_entropy has no second derivative"):
        torch.autograd.grad(total, leaf, create_graph=True)


def test_a_second_derivative_of_the_linear_loss_is_an_error() -> None:
    hidden, weight, targets = problem()
    total = linear_cross_entropy(hidden, weight, targets) + (hidden**2).sum()
    with pytest.raises(KernelError, match="^linear_cross_entropy has no second derivative"):
        torch.autograd.grad(total, hidden, create_graph=True)


def test_the_reference_has_a_second_derivative() -> None:
    logits, targets = random_rows(5, 4, torch.float64)
    leaf = logits.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: cross_entropy(x, targets, use_native=False), (leaf,)
    )

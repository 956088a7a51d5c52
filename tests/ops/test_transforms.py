"""The losses under torch.func transforms and forward-mode AD: right derivatives, never silent zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from oracles.losses import definition, random_rows
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import cross_entropy, linear_cross_entropy, sample

# torch's own, when forward-mode AD is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

ROWS, VOCAB, HIDDEN = 7, 11, 5
TOLERANCE: Any = {"rtol": 1e-11, "atol": 1e-13}
OPTIONS = {
    "plain": {},
    "ignored": {"ignore_index": 3},
    "smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 1e-2},
    "softcap": {"softcap": 2.0},
    "classes": {"class_weights": torch.linspace(0.2, 2.0, VOCAB, dtype=torch.float64)},
    "tokens": {"token_weights": torch.linspace(0.5, 1.5, ROWS, dtype=torch.float64)},
}
OPTIONS["all"] = {name: value for one in OPTIONS.values() for name, value in one.items()}


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """hidden, weight, targets (one of them 3, none -1)."""
    targets = torch.tensor([0, 3, 10, 4, 3, 7, 1])
    return random(ROWS, HIDDEN, seed=1), random(VOCAB, HIDDEN, seed=2), targets


def dual_tangent(function: Callable[..., Tensor], inputs: Any, tangents: Any) -> Tensor:
    with fwd.dual_level():
        duals = [fwd.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)]
        tangent = fwd.unpack_dual(function(*duals)).tangent
    assert tangent is not None
    return tangent


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("way", ["torch.func.jvp", "dual numbers"])
def test_forward_mode_equals_that_of_the_definition(reduction: str, name: str, way: str) -> None:
    hidden, weight, targets = problem()
    options: Any = {"reduction": reduction, **OPTIONS[name]}
    primals = hidden, weight
    tangents = random(ROWS, HIDDEN, seed=3), random(VOCAB, HIDDEN, seed=4)
    loss, wanted = torch.func.jvp(
        lambda h, w: definition(h @ w.t(), targets, **options), primals, tangents
    )
    assert wanted.abs().max() > 1e-3
    for ours in (
        lambda h, w: linear_cross_entropy(h, w, targets, **options),
        lambda h, w: cross_entropy(h @ w.t(), targets, **options),
        lambda h, w: cross_entropy(h @ w.t(), targets, inplace=True, **options),
    ):
        torch.testing.assert_close(ours(*primals), loss, **TOLERANCE)
        if way == "dual numbers":
            found = dual_tangent(ours, primals, tangents)
        else:
            found = torch.func.jvp(ours, primals, tangents)[1]
        torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_forward_mode_equals_that_of_torch(reduction: str) -> None:
    logits, targets = random_rows(ROWS, VOCAB, torch.float64)
    tangent = random(ROWS, VOCAB, seed=5)
    options: Any = {"reduction": reduction, "label_smoothing": 0.1, "ignore_index": -1}
    for cast in (torch.float64, torch.float32):
        arguments = (logits.to(cast),), (tangent.to(cast),)
        found = torch.func.jvp(lambda x: cross_entropy(x, targets, **options), *arguments)
        wanted = torch.func.jvp(lambda x: F.cross_entropy(x, targets, **options), *arguments)
        torch.testing.assert_close(found, wanted)


def test_one_input_alone_may_have_a_tangent() -> None:
    hidden, weight, targets = problem()
    for name, ours, theirs, x in (
        ("hidden", lambda h: linear_cross_entropy(h, weight, targets),
         lambda h: F.cross_entropy(h @ weight.t(), targets), hidden),
        ("weight", lambda w: linear_cross_entropy(hidden, w, targets),
         lambda w: F.cross_entropy(hidden @ w.t(), targets), weight),
    ):  # fmt: skip
        tangent = random(*x.shape, seed=6)
        wanted = torch.func.jvp(theirs, (x,), (tangent,))[1]
        found = dual_tangent(ours, (x,), (tangent,))
        torch.testing.assert_close(found, wanted, **TOLERANCE, msg=name)


@pytest.mark.parametrize("transform", ["grad", "jacfwd", "jacrev", "hessian", "jvp of grad"])
def test_transforms_equal_those_of_torch(transform: str) -> None:
    hidden, weight, targets = problem()
    logits = hidden @ weight.t()

    def derivative(loss: Callable[[Tensor], Tensor]) -> Tensor:
        if transform == "jvp of grad":
            tangent = random(ROWS, VOCAB, seed=7)
            return torch.func.jvp(torch.func.grad(loss), (logits,), (tangent,))[1]
        found: Tensor = getattr(torch.func, transform)(loss)(logits)
        return found

    wanted = derivative(lambda x: F.cross_entropy(x, targets))
    assert wanted.abs().max() > 1e-3
    found = derivative(lambda x: cross_entropy(x, targets))
    torch.testing.assert_close(found, wanted, **TOLERANCE)


def test_per_sample_gradients_equal_those_of_a_loop() -> None:
    logits = random(4, ROWS, VOCAB, seed=8)
    targets = torch.randint(0, VOCAB, (4, ROWS), generator=torch.Generator().manual_seed(9))
    found = torch.func.vmap(torch.func.grad(cross_entropy))(logits, targets)
    wanted = [
        torch.func.grad(F.cross_entropy)(one, target)
        for one, target in zip(logits, targets, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(wanted), **TOLERANCE)


@pytest.mark.parametrize("wrong", [-2, VOCAB])
def test_a_target_out_of_range_is_refused_under_transforms(wrong: int) -> None:
    logits = random(2, 3, VOCAB)
    targets = torch.tensor([[0, 1, 2], [0, wrong, 2]])
    with pytest.raises(KernelError, match=rf"^target of row 1 must be in .*, got {wrong}$"):
        torch.func.jvp(lambda x: cross_entropy(x, targets[1]), (logits[1],), (logits[1],))
    with pytest.raises(KernelError, match=rf"^every target must be in .*, got {wrong}$"):
        torch.func.vmap(cross_entropy)(logits, targets)


@pytest.mark.parametrize("transform", ["jvp", "grad"])
def test_a_compiled_transform_is_one_graph_with_the_same_derivative(transform: str) -> None:
    logits, targets = random_rows(ROWS, VOCAB, torch.float64)
    tangent = random(ROWS, VOCAB, seed=10)

    def derivative(x: Tensor) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            found: Tensor = cross_entropy(x, targets)
            return found

        if transform == "jvp":
            return torch.func.jvp(loss, (x,), (tangent,))[1]
        return torch.func.grad(loss)(x)

    torch.compiler.reset()
    found = torch.compile(derivative, fullgraph=True, backend="aot_eager")(logits)
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, derivative(logits), **TOLERANCE)


def test_a_compiled_loss_is_compiled_again_for_dual_numbers() -> None:
    logits, targets = random_rows(ROWS, VOCAB, torch.float64)
    tangent = random(ROWS, VOCAB, seed=11)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: cross_entropy(x, targets), backend="aot_eager")
    compiled(logits)
    wanted = torch.func.jvp(
        lambda x: F.cross_entropy(x, targets, ignore_index=-1), (logits,), (tangent,)
    )[1]
    found = dual_tangent(compiled, (logits,), (tangent,))
    torch.testing.assert_close(found, wanted, **TOLERANCE)


def test_the_registered_ops_refuse_forward_mode() -> None:
    hidden, weight, targets = problem()
    logits = hidden @ weight.t()
    options = None, None, -1, 0.0, 0.0, 0.0, 1
    nck = torch.ops.nck
    for function, primal in (
        (lambda x: nck.cross_entropy(x, targets, *options, True, False)[0], logits),
        (lambda x: nck.cross_entropy_(x, targets, *options, False)[0], logits),
        (lambda x: nck.linear_cross_entropy(x, weight, targets, *options, True, True, False)[0],
         hidden),
    ):  # fmt: skip
        with fwd.dual_level(), pytest.raises(KernelError, match="has no forward-mode derivative"):
            function(fwd.make_dual(primal, torch.ones_like(primal)))


def test_sampling_under_vmap_draws_the_tokens_of_a_loop() -> None:
    logits, state = random(3, 2, VOCAB), torch.tensor([1, 2, 3])
    found = torch.func.vmap(lambda x: sample(x, state))(logits)
    assert found.equal(torch.stack([sample(x, state) for x in logits]))

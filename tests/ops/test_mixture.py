"""The loss of the mixture with counts and its gradients, against the formula by torch's autograd."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import chunks
from nanochat.ops.mixture import (
    _by_torch,
    _Options,
    linear_mixed_cross_entropy,
    linear_mixture_parts,
)

WEIGHT, OFFSET = 0.3, 1.25
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def by_formula(
    logits: Tensor, targets: Tensor, by_counts: Tensor, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return both losses of each row, one row at a time."""
    mixed, network = [], []
    if softcap:
        logits = (logits / softcap).tanh() * softcap
    logits = torch.cat((logits[:, :-1], logits[:, -1:] + OFFSET), dim=1)
    for row, target, counted in zip(logits, targets.tolist(), by_counts.double(), strict=True):
        if target < 0:
            mixed.append(row.sum() * 0)
            network.append(row.sum() * 0)
            continue
        shares = row.log_softmax(0)
        mixed.append(-torch.logaddexp(shares[target], shares[-1] + counted.log()))
        network.append(-row[:-1].log_softmax(0)[target])
    return torch.stack(mixed), torch.stack(network)


def problem(
    rows: int, width: int, outputs: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden, weight, targets, by_counts; both matrices require grad."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=random, dtype=torch.float64).to(dtype) * scale
    weight = torch.randn(outputs, width, generator=random, dtype=torch.float64).to(dtype)
    targets = torch.randint(-1, outputs - 1, (rows,), generator=random)
    by_counts = (-9 * torch.rand(rows, generator=random)).exp()
    return hidden.requires_grad_(), weight.requires_grad_(), targets, by_counts


def wanted(
    hidden: Tensor, weight: Tensor, targets: Tensor, by_counts: Tensor, softcap: float
) -> list[Tensor]:
    """Return loss, objective and both gradients in float64, from the logits as they are rounded."""
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    exact = wide[0] @ wide[1].t()
    logits = exact + ((hidden @ weight.t()).detach().double() - exact).detach()
    mixed, network = by_formula(logits, targets, by_counts, softcap)
    objective = mixed.sum() + WEIGHT * network.sum()
    return [mixed.sum().detach(), objective.detach(), *torch.autograd.grad(objective, wide)]


def found(
    hidden: Tensor, weight: Tensor, targets: Tensor, by_counts: Tensor, softcap: float,
    *, use_native: bool = True,
) -> list[Tensor]:  # fmt: skip
    mixed, objective = linear_mixed_cross_entropy(
        hidden, weight, targets, by_counts, network_weight=WEIGHT, softcap=softcap,
        share_offset=OFFSET, use_native=use_native,
    )  # fmt: skip
    assert not mixed.requires_grad
    return [mixed, objective.detach(), *torch.autograd.grad(objective, (hidden, weight))]


def assert_near(one: list[Tensor], other: list[Tensor], tolerance: float) -> None:
    for left, right in zip(one, other, strict=True):
        atol = tolerance * max([1e-3, *right.abs().flatten().tolist()])
        torch.testing.assert_close(left.double(), right, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("outputs", [2, 10, 66, 300])
@pytest.mark.parametrize("chunk_rows", [1, 16, 1000])
def test_any_number_of_chunks_equals_the_formula(
    dtype: torch.dtype, softcap: float, outputs: int, chunk_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(chunks, "MAX_CHUNK_BYTES", chunk_rows * outputs * dtype.itemsize)
    question = problem(50, 12, outputs, dtype)
    result = found(*question, softcap)
    assert_near(result, wanted(*question, softcap), TOLERANCE[dtype])
    assert result[2].dtype == result[3].dtype == dtype


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 40), width=st.integers(1, 9), outputs=st.integers(2, 150),
    scale=st.sampled_from([0.01, 1.0, 30.0]), softcap=st.sampled_from([0.0, 15.0]),
    seed=st.integers(0, 999), use_native=st.booleans(),
)  # fmt: skip
def test_both_ways_equal_the_formula_in_float64(
    rows: int, width: int, outputs: int, scale: float, softcap: float, seed: int, use_native: bool
) -> None:
    question = problem(rows, width, outputs, torch.float64, seed, scale)
    if rows:
        right = wanted(*question, softcap)
    else:
        right = [torch.zeros(shape, dtype=torch.float64)
                 for shape in ((), (), (0, width), (outputs, width))]  # fmt: skip
    assert_near(found(*question, softcap, use_native=use_native), right, 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_the_way_without_a_kernel_equals_the_kernel(dtype: torch.dtype, softcap: float) -> None:
    hidden, weight, targets, by_counts = problem(40, 5, 12, dtype)
    logits = (hidden @ weight.t()).detach()
    losses = _by_torch(logits, targets, by_counts, _Options(WEIGHT, softcap, OFFSET), True)
    mixed, objective, *gradients = found(hidden, weight, targets, by_counts, softcap)
    sums = losses.sum(dim=1)
    torch.testing.assert_close(sums[0], mixed)
    torch.testing.assert_close(sums[0] + WEIGHT * sums[1], objective)
    torch.testing.assert_close(logits @ weight.detach(), gradients[0])
    torch.testing.assert_close(logits.t() @ hidden.detach(), gradients[1])


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_the_parts_of_each_row_make_its_loss(softcap: float) -> None:
    hidden, weight, targets, by_counts = problem(70, 5, 12, torch.float64)
    parts = linear_mixture_parts(hidden, weight, targets, softcap=softcap)
    z = (hidden @ weight.t()).detach()
    z = softcap * (z / softcap).tanh() if softcap else z
    mixed, network = by_formula(z, targets, by_counts)
    nats, gate = parts[targets >= 0].T
    share = torch.sigmoid(gate + OFFSET)
    predicted = (1 - share) * (-nats).exp() + share * by_counts[targets >= 0]
    torch.testing.assert_close(-predicted.log(), mixed[targets >= 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nats, network[targets >= 0], rtol=1e-12, atol=1e-12)
    assert not parts.requires_grad


def test_gradcheck_passes_also_under_an_upstream_factor() -> None:
    hidden, weight, targets, by_counts = problem(8, 3, 7, torch.float64)

    def objective(hidden: Tensor, weight: Tensor) -> Tensor:
        _, objective = linear_mixed_cross_entropy(
            hidden,
            weight,
            targets,
            by_counts,
            network_weight=WEIGHT,
            softcap=4.0,
            share_offset=OFFSET,
        )
        return objective * 0.7

    assert torch.autograd.gradcheck(objective, (hidden, weight))


def one_row(logits: list[float], target: int, counted: float) -> tuple[float, list[float]]:
    """Return the mixture's loss and the gradient of the logits of one row."""
    hidden = torch.eye(1, dtype=torch.float64).requires_grad_()
    weight = torch.tensor(logits, dtype=torch.float64).unsqueeze(1).requires_grad_()
    mixed, objective = linear_mixed_cross_entropy(
        hidden, weight, torch.tensor([target]), torch.tensor([counted]), network_weight=WEIGHT
    )
    objective.backward()
    return mixed.item(), weight.grad.flatten().tolist()


def test_a_share_of_one_leaves_finite_losses_and_gradients() -> None:
    mixed, gradient = one_row([0.0, 0.0, 0.0, 2000.0], 1, 0.25)
    assert mixed == pytest.approx(math.log(4))
    assert gradient == pytest.approx([0.1, -0.2, 0.1, 0.0])


def test_counts_without_a_probability_add_nothing() -> None:
    mixed, gradient = one_row([1.0, 2.0, 0.5], 0, 0.0)
    shares = torch.tensor([1.0, 2.0, 0.5]).softmax(0)
    assert mixed == pytest.approx(-shares[0].log().item())
    assert gradient[2] == pytest.approx(shares[2].item())


def test_results_are_bit_identical_for_any_number_of_threads() -> None:
    hidden, weight, targets, by_counts = problem(400, 1, 300, torch.float32)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        results.append(found(hidden, weight, targets, by_counts, 0.0)[:2])
    torch.set_num_threads(threads)
    for other in nonempty(results[1:]):
        assert [x.item() for x in other] == [x.item() for x in results[0]]


def test_the_registered_op_keeps_to_its_schema() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        hidden, weight, *rest = problem(6, 3, 7, dtype)
        op = torch.ops.nck.linear_mixed_cross_entropy.default
        torch.library.opcheck(op, (hidden, weight, *rest, WEIGHT, 2.0, OFFSET, True, True))
        detached = hidden.detach(), weight.detach()
        torch.library.opcheck(op, (*detached, *rest, WEIGHT, 2.0, OFFSET, False, False))


def test_memory_is_a_fraction_of_all_logits() -> None:
    # 8192 · 4001 float32 logits are 131 MB; the gradients of both matrices take 2 MB.
    code = """
import resource, torch
from nanochat.ops.mixture import linear_mixed_cross_entropy
def run(rows):
    hidden, weight = torch.randn(rows, 32, requires_grad=True), torch.randn(4001, 32)
    _, objective = linear_mixed_cross_entropy(
        hidden, weight.requires_grad_(), torch.arange(rows) % 4000, torch.full((rows,), 0.1),
        network_weight=0.3)
    objective.backward()
run(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(8192)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss has another unit")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 131 / 3


def test_a_second_derivative_is_refused() -> None:
    hidden, weight, targets, by_counts = problem(4, 3, 7, torch.float64)
    _, objective = linear_mixed_cross_entropy(
        hidden, weight, targets, by_counts, network_weight=WEIGHT
    )
    with pytest.raises(KernelError, match="has no second derivative"):
        torch.autograd.grad(objective, hidden, create_graph=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 6])},
         r"target of row 1 must be in \[0, 6\) or ignore_index -1, got 6"),
        ({"by_counts": torch.ones(3)}, r"by_counts must be float32 of shape \(2,\), got"),
        ({"by_counts": torch.ones(2, dtype=torch.float64)}, "by_counts must be float32"),
        ({"weight": torch.ones(1, 3)}, "weight must have a row per token and one for the counts"),
        ({"hidden": torch.ones(2, 1, 3)}, r"hidden must have shape \(rows, hidden size\)"),
        ({"weight": torch.ones(7, 4)}, "hidden and weight must have shapes"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(change: dict[str, Tensor], message: str) -> None:
    arguments = {
        "hidden": torch.ones(2, 3), "weight": torch.ones(7, 3), "targets": torch.tensor([0, 5]),
        "by_counts": torch.ones(2), **change,
    }  # fmt: skip
    if arguments["hidden"].dim() == 3:
        arguments["targets"] = arguments["targets"].unsqueeze(1)
    with pytest.raises(KernelError, match=message):
        linear_mixed_cross_entropy(**arguments, network_weight=WEIGHT)

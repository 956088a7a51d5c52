"""Linear cross-entropy in any number of chunks: values, gradients, and peak memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nonempty import nonempty
from oracles.losses import DTYPES, definition
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import chunks as module
from nanochat.ops import linear_cross_entropy
from nanochat.ops.reference import head_logits


def problem(
    rows: int, width: int, vocab: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden, weight, targets; both matrices require grad."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    targets[2::5] = -1
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def gradients(loss: Tensor, hidden: Tensor, weight: Tensor, upstream: Tensor) -> list[Tensor]:
    made = torch.autograd.grad((loss * upstream.to(loss.dtype)).sum(), (hidden, weight))
    return [loss.detach(), *made]


def in_chunks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Limit a chunk's logits to `size` bytes, or one row."""
    monkeypatch.setattr(module, "MAX_CHUNK_BYTES", size)


OPTIONS = [{}, {"softcap": 3.0}, {"label_smoothing": 0.1, "z_loss": 1e-2}]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "softcap", "smoothing"])
@pytest.mark.parametrize("chunk_rows", [1, 16, 1000])
def test_any_number_of_chunks_equals_the_definition(
    dtype: torch.dtype,
    reduction: str,
    options: dict[str, float],
    chunk_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, width, vocab = 70, 12, 33
    hidden, weight, targets = problem(rows, width, vocab, dtype)
    in_chunks(monkeypatch, chunk_rows * vocab * dtype.itemsize)
    upstream = torch.linspace(0.5, 2.0, rows) if reduction == "none" else torch.tensor(0.7)
    loss = linear_cross_entropy(hidden, weight, targets, reduction=reduction, **options)
    found = gradients(loss, hidden, weight, upstream)
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    # The definition starts from the same logits, so the product's rounding does not count.
    logits = F.linear(hidden, weight).detach().double()
    exact = wide[0] @ wide[1].t()
    exact = exact + (logits - exact).detach()
    loss = definition(exact, targets, reduction=reduction, **options)
    wanted = gradients(loss, *wide, upstream)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
    for one, other in zip(found, wanted, strict=True):
        atol = bound[dtype] * float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=bound[dtype], atol=atol)
    assert found[1].dtype == found[2].dtype == dtype


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    hidden, weight, targets = problem(200, 32, 500, torch.float32)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        loss = linear_cross_entropy(hidden, weight, targets, reduction="none")
        results.append(loss.detach())
    torch.set_num_threads(threads)
    # The kernel gives the same bits; torch's products may differ by a rounding.
    for other in nonempty(results[1:]):
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-6)


def test_half_types_sum_the_weights_gradient_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # One row per chunk: sums in bfloat16 would stop growing at 256 · the smallest part.
    in_chunks(monkeypatch, 1)
    rows = 2000
    hidden = torch.ones(rows, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    loss = linear_cross_entropy(
        hidden, weight, torch.zeros(rows, dtype=torch.int64), reduction="sum"
    )
    loss.backward()
    assert weight.grad.flatten().tolist() == [-1000.0, 1000.0]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 30), width=st.integers(1, 9), vocab=st.integers(1, 40),
    reduction=st.sampled_from(["mean", "sum", "none"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_equals_the_plain_way(
    rows: int, width: int, vocab: int, reduction: str, seed: int
) -> None:
    hidden, weight, targets = problem(rows, width, vocab, torch.float64, seed)
    results = []
    for use_native in (True, False):
        loss, correct = linear_cross_entropy(
            hidden, weight, targets, reduction=reduction, use_native=use_native,
            return_accuracy=True,
        )  # fmt: skip
        results.append([*gradients(loss, hidden, weight, torch.tensor(0.5)), correct])
    for one, other in nonempty(zip(*results, strict=True)):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12, equal_nan=True)


def test_autocast_casts_both_inputs() -> None:
    hidden, weight, targets = problem(20, 8, 30, torch.float32)
    in_bfloat16 = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets)
    for use_native in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = linear_cross_entropy(hidden, weight, targets, use_native=use_native)
        torch.testing.assert_close(loss, in_bfloat16, rtol=1e-4, atol=1e-4)
        made = torch.autograd.grad(loss, (hidden, weight))
        assert [gradient.dtype for gradient in made] == [torch.float32] * 2


def test_more_dimensions_are_rows_in_order() -> None:
    hidden, weight, targets = problem(12, 5, 9, torch.float64)
    flat = linear_cross_entropy(hidden, weight, targets, reduction="none")
    shaped = linear_cross_entropy(
        hidden.view(3, 4, 5), weight, targets.view(3, 4), reduction="none"
    )
    assert torch.equal(shaped, flat.view(3, 4))


def test_a_target_out_of_range_is_named_by_its_row_in_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_chunks(monkeypatch, 1)
    hidden, weight, targets = problem(50, 5, 9, torch.float32)
    targets[44] = 9
    for reduction in ("mean", "sum", "none"):
        with pytest.raises(KernelError, match=r"^target of row 44 must be in \[0, 9\)"):
            linear_cross_entropy(hidden, weight, targets, reduction=reduction)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(9, 4)},
         "hidden and weight must have shapes (…, hidden size) and (vocab, hidden size), got (50, 5) and (9, 4)"),
        ({"weight": torch.zeros(9, 5, dtype=torch.bfloat16)},
         "hidden and weight must have the same dtype, got torch.float32 and torch.bfloat16"),
    ],
)  # fmt: skip
def test_matrices_that_do_not_fit_are_named(change: dict[str, Tensor], message: str) -> None:
    hidden, weight, targets = problem(50, 5, 9, torch.float32)
    with pytest.raises(KernelError) as caught:
        linear_cross_entropy(**{"hidden": hidden, "weight": weight, "targets": targets, **change})
    assert str(caught.value) == message


def test_head_logits_are_capped_and_at_least_float32() -> None:
    hidden, weight, _ = problem(6, 5, 9, torch.bfloat16)
    plain = hidden.float() @ weight.float().t()
    assert head_logits(hidden, weight).dtype == torch.float32
    torch.testing.assert_close(head_logits(hidden, weight), plain, rtol=1e-2, atol=5e-2)
    capped = head_logits(hidden.double(), weight.double(), softcap=2.0)
    torch.testing.assert_close(capped, 2 * torch.tanh(hidden.double() @ weight.double().t() / 2))


PEAK = """
import sys
import torch
from nanochat.ops import linear_cross_entropy

dtype, width, rows, vocab = getattr(torch, sys.argv[1]), int(sys.argv[2]), 2048, 32768

def peak():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return 1024 * int(fields["VmHWM"].split()[0])

def run(rows):
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    scale = width**-0.5  # probabilities below 1e-38 would make products ten times slower
    weight = (scale * torch.randn(vocab, width)).to(dtype).requires_grad_()
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # resets the peak to the present resident memory
    before = peak()
    linear_cross_entropy(hidden, weight, torch.arange(rows)).backward()
    results = hidden.grad.nbytes + weight.grad.nbytes
    return peak() - before - results

run(16)  # the libraries allocate some memory once
print((run(rows) - 4 * width * vocab) / (rows * vocab * dtype.itemsize))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        ("float32", 64),
        ("float32", 512),
        ("bfloat16", 16),
        # Minutes on a processor that does not multiply in bfloat16.
        pytest.param("bfloat16", 512, marks=pytest.mark.long),
    ],
)
def test_peak_memory_beyond_a_sum_is_an_eighth_of_the_logits(
    dtype: str, width: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PEAK, dtype, str(width)]
    # In an empty folder, so that the installed nanochat is imported.
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert float(done.stdout) <= 1 / 8

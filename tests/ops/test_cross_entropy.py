"""Cross-entropy: values and gradients against float64, at torch's own accuracy or better."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.losses import DTYPES, HARD, definition, exactly, gradients_of, random_rows
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import cross_entropy

ACCUMULATED = {
    dtype: torch.float64 if dtype == torch.float64 else torch.float32 for dtype in DTYPES
}
BOUND = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def largest_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max()) if exact.numel() else 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("rows", "vocab"), [(40, 65), (3, 1003), (9, 1), (2, 40001)])
def test_errors_are_at_most_those_of_torch_and_one_rounding(
    dtype: torch.dtype, reduction: str, kind: str, rows: int, vocab: int
) -> None:
    if kind == "sure" and vocab == 1:
        vocab = 2  # another class has the other thousandth
    logits, targets = HARD[kind](rows, vocab, dtype)
    upstream = torch.linspace(0.3, 2.0, rows) if reduction == "none" else torch.tensor(0.7)
    options = {"ignore_index": -1, "reduction": reduction}
    exact = exactly(logits, targets, upstream, reduction=reduction)
    plain = gradients_of(lambda x: F.cross_entropy(x, targets, **options), logits, upstream)
    ours = gradients_of(lambda x: cross_entropy(x, targets, **options), logits, upstream)
    assert ours[0].dtype == ACCUMULATED[dtype]
    assert ours[1].dtype == dtype
    for found, theirs, wanted in zip(ours, plain, exact, strict=True):
        rounding = torch.finfo(found.dtype).eps / 2 * float(wanted.abs().max())
        if found.dtype == torch.float64:  # the kernel sums in float64 too; the sum is at least 1
            sums = rows if reduction == "sum" else 1
            rounding = torch.finfo(found.dtype).eps * max(sums, float(wanted.abs().max()))
        smallest = torch.finfo(found.dtype).smallest_normal * torch.finfo(found.dtype).eps
        bar = largest_error(theirs, wanted) + rounding + smallest
        assert largest_error(found, wanted) <= bar


OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 1e-2},
    "softcap": {"softcap": 4.0},
    "classes": {"class_weights": True},
    "tokens": {"token_weights": True},
    "all": {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 7.0, "class_weights": True,
            "token_weights": True},
}  # fmt: skip


def filled(
    options: dict[str, object], rows: int, vocab: int, dtype: torch.dtype
) -> dict[str, object]:
    """The options with weights of the right sizes in place of True."""
    generator = torch.Generator().manual_seed(5)
    sizes = {"class_weights": vocab, "token_weights": rows}
    draw = {
        name: torch.rand(size, generator=generator, dtype=torch.float64).to(ACCUMULATED[dtype])
        for name, size in sizes.items()
    }
    return {name: draw[name] if value is True else value for name, value in options.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("way", ["native", "inplace", "reference"])
def test_every_option_equals_its_definition(
    dtype: torch.dtype, reduction: str, name: str, way: str
) -> None:
    rows, vocab = 23, 37
    logits, targets = random_rows(rows, vocab, dtype)
    upstream = torch.linspace(-1.0, 2.0, rows) if reduction == "none" else torch.tensor(0.7)
    options = filled(OPTIONS[name], rows, vocab, dtype)
    exact = gradients_of(
        lambda x: definition(x, targets, reduction=reduction, **options), logits.double(), upstream
    )
    choice = {"inplace": way == "inplace", "use_native": way != "reference"}
    found = gradients_of(
        lambda x: cross_entropy(
            x * 1 if way == "inplace" else x, targets, reduction=reduction, **choice, **options
        ),
        logits,
        upstream,
    )
    torch.testing.assert_close(
        found[0].double(), exact[0], rtol=BOUND[ACCUMULATED[dtype]], atol=1e-6
    )
    scale = float(exact[1].abs().max())
    torch.testing.assert_close(
        found[1].double(), exact[1], rtol=BOUND[dtype], atol=BOUND[dtype] * scale
    )


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 20),
    vocab=st.integers(1, 200),
    extra=st.integers(0, 5),
    ignore=st.sampled_from([-1, -100, 0, 3]),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_stride_and_ignore_index_equals_the_definition(
    rows: int, vocab: int, extra: int, ignore: int, dtype: torch.dtype, transposed: bool, seed: int
) -> None:
    wide, targets = random_rows(rows, vocab + extra, dtype, seed)
    logits = wide[:, extra:]
    if transposed:
        logits = logits.t().contiguous().t()
    targets = torch.where(targets == -1, ignore, targets % vocab)
    exact = gradients_of(
        lambda x: definition(x, targets, ignore_index=ignore, reduction="sum"), logits.double()
    )
    leaf = logits.detach().requires_grad_()
    loss = cross_entropy(leaf, targets, ignore_index=ignore, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(loss.detach().double(), exact[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), exact[1], rtol=BOUND[dtype], atol=BOUND[dtype])


@pytest.mark.parametrize("inplace", [False, True])
def test_accuracy_counts_the_first_of_equal_logits(inplace: bool) -> None:
    logits = torch.tensor([[1.0, 2, 2], [1, 2, 2], [5, 0, 0], [0, 0, 0], [0, 1, math.nan]])
    targets = torch.tensor([1, 2, 0, -1, 1])
    expected = torch.tensor([1.0, 0, 1, 0, 1])
    for reduction, wanted in {
        "none": expected,
        "sum": expected.sum(),
        "mean": expected.sum() / 4,
    }.items():
        leaf = logits.clone().requires_grad_()
        _, correct = cross_entropy(
            leaf * 1, targets, reduction=reduction, return_accuracy=True, inplace=inplace
        )
        assert torch.equal(correct, wanted)


def test_more_dimensions_are_rows_in_order() -> None:
    logits, targets = random_rows(12, 9, torch.float32)
    flat = cross_entropy(logits, targets, reduction="none")
    shaped = cross_entropy(logits.view(3, 4, 9), targets.view(3, 4), reduction="none")
    assert torch.equal(shaped, flat.view(3, 4))
    leaf = logits.view(3, 4, 9).clone().requires_grad_()
    cross_entropy(leaf, targets.view(3, 4)).backward()
    assert leaf.grad.shape == (3, 4, 9)


def test_weights_of_another_float_dtype_are_cast() -> None:
    logits, targets = random_rows(5, 9, torch.float32)
    weights = torch.rand(9, dtype=torch.float64)
    expected = cross_entropy(logits, targets, class_weights=weights.float())
    assert torch.equal(cross_entropy(logits, targets, class_weights=weights), expected)


# ------------------------------------------------------------------------- NaN, infinity, ignored rows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_without_a_softmax_are_nan_and_leave_the_others_alone(dtype: torch.dtype) -> None:
    logits, targets = random_rows(6, 70, dtype)
    targets = targets.clamp(min=0)
    clean = gradients_of(lambda x: cross_entropy(x, targets, reduction="none"), logits)
    logits[1, 69], logits[2, 0], logits[4] = math.nan, math.inf, -math.inf
    loss, gradient = gradients_of(lambda x: cross_entropy(x, targets, reduction="none"), logits)
    bad = torch.tensor([False, True, True, False, True, False])
    assert loss[bad].isnan().all()
    assert gradient[bad].isnan().all()
    assert torch.equal(loss[~bad], clean[0][~bad])
    assert torch.equal(gradient[~bad], clean[1][~bad])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minus_infinity_is_a_probability_of_zero(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0], [0.0, -math.inf, 0.0]], dtype=dtype)
    targets = torch.tensor([0, 1])
    loss, gradient = gradients_of(lambda x: cross_entropy(x, targets, reduction="none"), logits)
    assert float(loss[0]) == pytest.approx(math.log(2), rel=1e-6)
    assert float(loss[1]) == math.inf
    assert gradient.tolist() == [[-0.5, 0, 0.5], [0.5, -1, 0.5]]


def test_ignored_rows_have_no_gradient_even_if_they_hold_nan() -> None:
    logits, targets = random_rows(4, 9, torch.float32)
    targets = torch.tensor([1, -100, -100, 2])
    logits[1], logits[2, 3] = math.nan, math.inf
    loss, gradient = gradients_of(lambda x: cross_entropy(x, targets, ignore_index=-100), logits)
    assert torch.isfinite(loss)
    assert not gradient[1:3].any()
    assert gradient[0].any()


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("inplace", [False, True])
def test_without_counted_rows_the_mean_is_nan_and_the_sum_zero(rows: int, inplace: bool) -> None:
    targets = torch.full((rows,), -1)
    for reduction in ("mean", "sum"):
        leaf = torch.randn(rows, 5, requires_grad=True)
        loss = cross_entropy(leaf * 1, targets, reduction=reduction, inplace=inplace)
        assert math.isnan(loss.item()) if reduction == "mean" else loss.item() == 0
        loss.backward()
        assert torch.equal(leaf.grad, torch.zeros(rows, 5))


@pytest.mark.parametrize("wrong", [-2, 5, 1 << 40])
@pytest.mark.parametrize("use_native", [True, False])
def test_a_target_out_of_range_is_named_with_its_row(wrong: int, use_native: bool) -> None:
    targets = torch.tensor([0, -1, wrong, 2])
    message = rf"^target of row 2 must be in \[0, 5\) or ignore_index -1, got {wrong}$"
    for inplace in (False, True):
        leaf = torch.randn(4, 5, requires_grad=True)
        with pytest.raises(KernelError, match=message):
            cross_entropy(leaf * 1, targets, use_native=use_native, inplace=inplace)


BAD = [
    ({"reduction": "avg"}, "reduction must be none, mean or sum, got 'avg'"),
    ({"label_smoothing": 1.5}, "label_smoothing must be in [0, 1], got 1.5"),
    ({"z_loss": -1.0}, "z_loss must be finite and at least 0, got -1.0"),
    ({"softcap": math.inf}, "softcap must be finite and at least 0, got inf"),
    ({"class_weights": torch.ones(4)}, "class_weights must have shape (5,), got (4,)"),
    ({"token_weights": torch.ones(2)}, "token_weights must have shape (3,), got (2,)"),
    ({"targets": torch.zeros(3, dtype=torch.int32)}, "targets must be int64, got torch.int32"),
    ({"targets": torch.zeros(2, dtype=torch.int64)}, "targets must have shape (3,), got (2,)"),
    ({"logits": torch.zeros(3, 5, dtype=torch.int64)},
     "logits must be one of float32, float64, bfloat16, float16, got torch.int64"),
    ({"logits": torch.zeros(())}, "logits must have a last dimension of vocab, got shape ()"),
    ({"class_weights": torch.ones(5, requires_grad=True)},
     "class_weights must not require grad, the loss is not differentiated by it; pass a detached"
     " tensor"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"logits": torch.zeros(3, 5), "targets": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(KernelError) as caught:
        cross_entropy(**{**arguments, **change})
    assert str(caught.value) == message

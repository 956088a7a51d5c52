"""What callers pass to the three ops: every argument is checked before native or plain is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.losses import definition
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import cross_entropy, linear_cross_entropy, sample
from nanochat.ops._sample import sample_with_random

ROWS, VOCAB, HIDDEN = 4, 10, 3
NATIVE = pytest.mark.parametrize("use_native", [True, False], ids=["native", "plain"])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def arguments_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return one valid value for each tensor argument."""
    logits, targets = random(ROWS, VOCAB, dtype=torch.float32), torch.tensor([1, 0, 9, 3])
    losses = {
        "targets": targets,
        "class_weights": torch.ones(VOCAB),
        "token_weights": torch.ones(4),
    }
    if function is cross_entropy:
        return {"logits": logits, **losses}
    if function is linear_cross_entropy:
        return {"hidden": random(ROWS, HIDDEN).float(), "weight": random(VOCAB, HIDDEN).float(),
                **losses}  # fmt: skip
    if function is sample:
        return {"logits": logits, "state": torch.tensor([1, 0, 0]), "items": torch.arange(ROWS)}
    return {"logits": logits, "random": torch.arange(ROWS)}


FUNCTIONS = (cross_entropy, linear_cross_entropy, sample, sample_with_random)
TENSORS = [(function, name) for function in FUNCTIONS for name in arguments_of(function)]
FIRST = [(function, next(iter(arguments_of(function)))) for function in FUNCTIONS]
BEHIND = [pair for pair in TENSORS if pair not in FIRST]


def name_of(value: Any) -> str:
    return getattr(value, "__name__", str(value)[:40])


def message(function: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(KernelError) as caught:
        function(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ──────────────────────────────────────────────────────────────────────────────── types and devices


@NATIVE
@pytest.mark.parametrize(("function", "name"), BEHIND, ids=name_of)
def test_a_tensor_on_another_device_is_named(
    function: Callable[..., Any], name: str, use_native: bool
) -> None:
    arguments = arguments_of(function)
    arguments[name] = arguments[name].to("meta")
    text = message(function, **arguments, use_native=use_native)
    assert text == f"{name} must be on cpu, got meta"


@pytest.mark.parametrize(("function", "name"), FIRST, ids=name_of)
def test_a_device_without_kernels_is_named_with_the_plain_way(
    function: Callable[..., Any], name: str
) -> None:
    arguments = {key: value.to("meta") for key, value in arguments_of(function).items()}
    assert message(function, **arguments) == (
        f"{name} must be on cpu or cuda, got meta; pass use_native=False"
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("function", [cross_entropy, linear_cross_entropy])
def test_the_plain_losses_run_on_a_device_without_kernels(
    function: Callable[..., Any], reduction: str
) -> None:
    arguments = {key: value.to("meta") for key, value in arguments_of(function).items()}
    loss = function(**arguments, reduction=reduction, use_native=False)
    assert loss.is_meta
    assert loss.shape == (() if reduction == "mean" else (ROWS,))


def test_a_plain_draw_refuses_logits_without_numbers() -> None:
    arguments = {key: value.to("meta") for key, value in arguments_of(sample).items()}
    text = message(sample, **arguments, use_native=False)
    assert text == "logits must hold numbers, got a tensor on meta"


@NATIVE
@pytest.mark.parametrize("convert", [np.asarray, Tensor.tolist], ids=["ndarray", "list"])
@pytest.mark.parametrize(("function", "name"), TENSORS, ids=name_of)
def test_a_value_that_is_no_tensor_is_named(
    function: Callable[..., Any], name: str, convert: Callable[..., Any], use_native: bool
) -> None:
    arguments = arguments_of(function)
    arguments[name] = convert(arguments[name])
    text = message(function, **arguments, use_native=use_native)
    got = type(arguments[name]).__name__
    assert text == f"{name} must be a torch.Tensor, got {got}; convert it by torch.as_tensor()"


@NATIVE
@pytest.mark.parametrize(("function", "name"), TENSORS, ids=name_of)
def test_a_sparse_tensor_is_named(
    function: Callable[..., Any], name: str, use_native: bool
) -> None:
    arguments = arguments_of(function)
    arguments[name] = arguments[name].to_sparse()
    text = message(function, **arguments, use_native=use_native)
    assert text.startswith(f"{name} must be a dense tensor, got layout torch.sparse_coo")


@NATIVE
@pytest.mark.parametrize(("function", "name"), FIRST, ids=name_of)
def test_a_dtype_without_kernels_is_named(
    function: Callable[..., Any], name: str, use_native: bool
) -> None:
    arguments = arguments_of(function)
    arguments[name] = arguments[name].long()
    text = message(function, **arguments, use_native=use_native)
    assert text == f"{name} must be one of float32, float64, bfloat16, float16, got torch.int64"


@NATIVE
@pytest.mark.parametrize("name", ["class_weights", "token_weights"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_that_are_not_floats_are_named(
    name: str, dtype: torch.dtype, use_native: bool
) -> None:
    arguments = arguments_of(cross_entropy)
    arguments[name] = arguments[name].to(dtype)
    text = message(cross_entropy, **arguments, use_native=use_native)
    assert text == f"{name} must have a float dtype, got {dtype}"


@NATIVE
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": torch.zeros(3)}, "logits must be (rows, vocab), got (3,)"),
        ({"logits": torch.zeros(1, 2, 3)}, "logits must be (rows, vocab), got (1, 2, 3)"),
        ({"logits": torch.zeros(4, 0)}, "vocabulary must be at least 1 token, got 0"),
        ({"items": torch.arange(3)}, "items must be (4,) int64, got (3,) torch.int64"),
        ({"items": torch.zeros(4, 1, dtype=torch.int64)},
         "items must be (4,) int64, got (4, 1) torch.int64"),
        ({"items": torch.zeros(4)}, "items must be (4,) int64, got (4,) torch.float32"),
        ({"items": torch.arange(8)[::2]}, "items must be contiguous, got stride 2"),
        ({"state": torch.tensor([1, 0])}, "state must be (3,) int64, got (2,) torch.int64"),
        ({"state": torch.tensor([-1, 0, 0])}, "seed must be in [0, 2^32), got -1"),
        ({"state": torch.tensor([2**32, 0, 0])}, "seed must be in [0, 2^32), got 4294967296"),
        ({"state": torch.tensor([1, 0, -1])}, "index must be at least 0, got -1"),
        ({"top_k": True}, "top_k must be an int of at least 0, got True"),
        ({"top_k": 1.5}, "top_k must be an int of at least 0, got 1.5"),
        ({"top_k": -(10**30)}, "top_k must be at least 0, got an int of 100 bits"),
        ({"temperature": np.array([1.0, 2.0])},
         "temperature must be finite and >= 0, got array([1., 2.])"),
        ({"temperature": 10**400}, "temperature must be finite and >= 0, got an int of 1329 bits"),
        ({"top_p": None}, "top_p must be above 0 and at most 1, got None"),
    ],
    ids=name_of,
)  # fmt: skip
def test_a_draw_refuses_the_same_natively_and_plainly(
    change: dict[str, Any], words: str, use_native: bool
) -> None:
    assert message(sample, **{**arguments_of(sample), **change, "use_native": use_native}) == words


@NATIVE
@pytest.mark.parametrize("function", [cross_entropy, linear_cross_entropy])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"ignore_index": 2**70},
         "ignore_index must be an int in [-2^63, 2^63), got an int of 71 bits"),
        ({"ignore_index": True}, "ignore_index must be an int in [-2^63, 2^63), got True"),
        ({"ignore_index": 1.0}, "ignore_index must be an int in [-2^63, 2^63), got 1.0"),
        ({"label_smoothing": [0.1]}, "label_smoothing must be in [0, 1], got [0.1]"),
        ({"label_smoothing": True}, "label_smoothing must be in [0, 1], got True"),
        ({"z_loss": 10**400}, "z_loss must be finite and at least 0, got an int of 1329 bits"),
        ({"softcap": "1"}, "softcap must be finite and at least 0, got '1'"),
        ({"reduction": ["mean"]}, "reduction must be none, mean or sum, got ['mean']"),
    ],
    ids=name_of,
)  # fmt: skip
def test_an_option_of_another_type_is_named(
    function: Callable[..., Any], option: dict[str, Any], words: str, use_native: bool
) -> None:
    plain = {"ignore_index": 1, "label_smoothing": 1.0}
    function(**arguments_of(function), **plain)  # no cached result may hide the check
    assert message(function, **arguments_of(function), **option, use_native=use_native) == words


def test_scalars_of_numpy_and_torch_are_numbers() -> None:
    arguments = arguments_of(cross_entropy)
    expected = cross_entropy(**arguments, ignore_index=0, softcap=2.0, label_smoothing=0.5)
    found = cross_entropy(
        **arguments, ignore_index=np.int64(0), softcap=torch.tensor(2.0),
        label_smoothing=np.float32(0.5),
    )  # fmt: skip
    assert found.equal(expected)
    arguments = arguments_of(sample)
    expected = sample(**arguments, temperature=0.5, top_k=3, top_p=0.75)
    found = sample(
        **arguments, temperature=np.float32(0.5), top_k=np.int8(3), top_p=torch.tensor([0.75])
    )
    assert found.equal(expected)


@NATIVE
def test_a_top_k_above_the_vocabulary_keeps_every_token(use_native: bool) -> None:
    arguments = arguments_of(sample)
    expected = sample(**arguments, use_native=use_native)
    for top_k in (VOCAB, 2**63, 10**30):
        assert sample(**arguments, top_k=top_k, use_native=use_native).equal(expected)


@NATIVE
@pytest.mark.parametrize("function", [cross_entropy, linear_cross_entropy])
def test_a_vocabulary_without_classes_is_refused(
    function: Callable[..., Any], use_native: bool
) -> None:
    arguments: dict[str, Any] = {"targets": torch.tensor([-1, -1])}
    if function is cross_entropy:
        arguments["logits"] = torch.zeros(2, 0)
    else:
        arguments |= {"hidden": torch.zeros(2, 3), "weight": torch.zeros(0, 3)}
    text = message(function, **arguments, use_native=use_native)
    assert text == "vocab must be in [1, 2^30], got 0"


# ──────────────────────────────────────────────────────────────────────────────────── memory layout


@NATIVE
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_logits_with_a_negative_bit_have_the_loss_and_gradient_of_their_numbers(
    use_native: bool, reduction: str, inplace: bool, dtype: torch.dtype
) -> None:
    x, targets = random(ROWS, VOCAB, dtype=dtype), torch.tensor([1, 0, 9, -1])
    results = []
    for negate in (torch._neg_view, torch.neg):
        leaf = x.clone().requires_grad_()
        loss = cross_entropy(
            negate(leaf), targets, reduction=reduction, inplace=inplace, use_native=use_native
        )
        upstream = torch.linspace(0.5, 2, ROWS, dtype=loss.dtype)
        (loss * (upstream if reduction == "none" else upstream[1])).sum().backward()
        results.append([loss.detach(), leaf.grad])
    for found, expected in zip(*results, strict=True):
        assert found.equal(expected) or torch.allclose(found, expected, equal_nan=True)
    exact = definition(-x.double(), targets, reduction=reduction)
    torch.testing.assert_close(results[0][0].double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["targets", "class_weights", "token_weights"])
@pytest.mark.parametrize("function", [cross_entropy, linear_cross_entropy])
@NATIVE
def test_other_tensors_with_a_negative_bit_count_with_their_numbers(
    function: Callable[..., Any], name: str, use_native: bool
) -> None:
    arguments = arguments_of(function)
    expected = function(**arguments, use_native=use_native)
    arguments[name] = torch._neg_view(-arguments[name])
    assert arguments[name].is_neg()
    assert function(**arguments, use_native=use_native).equal(expected)


@pytest.mark.parametrize("name", ["hidden", "weight"])
def test_matrices_with_a_negative_bit_have_the_loss_and_gradients_of_their_numbers(
    name: str,
) -> None:
    results = []
    for negate in (torch._neg_view, torch.neg):
        arguments = arguments_of(linear_cross_entropy)
        leaves = [arguments[key].requires_grad_() for key in ("hidden", "weight")]
        arguments[name] = negate(arguments[name])
        loss = linear_cross_entropy(**arguments)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(results[0], results[1])


def test_an_upstream_with_a_negative_bit_scales_with_its_number() -> None:
    leaf = random(ROWS, VOCAB, dtype=torch.float32).requires_grad_()
    loss = cross_entropy(leaf, torch.tensor([1, 0, 9, 3]))
    (expected,) = torch.autograd.grad(loss, leaf, torch.tensor(-2.0), retain_graph=True)
    upstream = torch._neg_view(torch.tensor(2.0))
    (found,) = torch.autograd.grad(loss, leaf, upstream)
    assert found.equal(expected)


@pytest.mark.parametrize("name", ["logits", "state", "items"])
@NATIVE
def test_a_draw_reads_the_numbers_of_tensors_with_a_negative_bit(
    name: str, use_native: bool
) -> None:
    arguments = arguments_of(sample)
    expected = sample(**arguments, use_native=use_native)
    arguments[name] = torch._neg_view(-arguments[name])
    assert sample(**arguments, use_native=use_native).equal(expected)
    random_words = torch.arange(1, ROWS + 1) << 60
    expected = sample_with_random(arguments["logits"], random_words, use_native=use_native)
    negated = torch._neg_view(-random_words)
    found = sample_with_random(arguments["logits"], negated, use_native=use_native)
    assert found.equal(expected)


def test_a_tensor_of_zeros_without_memory_has_equal_logits() -> None:
    zeros = torch._efficientzerotensor((2, VOCAB))
    loss = cross_entropy(zeros, torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(math.log(VOCAB), rel=1e-6)


LAYOUTS = {
    "one row for all": lambda x: x[:1].expand(ROWS, VOCAB),
    "overlapping rows": lambda x: x.as_strided((ROWS, VOCAB), (3, 1)),
    "one number for all": lambda x: x[0, 0].expand(ROWS, VOCAB),
    "one row, no stride": lambda x: x.as_strided((1, VOCAB), (0, 1)).expand(ROWS, VOCAB),
    "transposed": lambda x: x.t().contiguous().t(),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_has_the_loss_and_gradient_of_torch(
    layout: str, dtype: torch.dtype, reduction: str
) -> None:
    targets = torch.tensor([1, 0, 9, 3])
    results = []
    for function in (cross_entropy, F.cross_entropy):
        leaf = random(ROWS, VOCAB).to(dtype).double().requires_grad_()
        x = LAYOUTS[layout](leaf.to(dtype) if function is cross_entropy else leaf)
        loss = function(x, targets, reduction=reduction)
        upstream = torch.linspace(0.5, 2, ROWS, dtype=loss.dtype)
        (loss * (upstream if reduction == "none" else 0.7)).sum().backward()
        results.append([loss.detach().double(), leaf.grad])
    bound = 1e-12 if dtype == torch.float64 else 4e-3
    torch.testing.assert_close(results[0], results[1], rtol=bound, atol=bound)


def test_one_row_may_have_any_stride() -> None:
    numbers = random(VOCAB)
    row, target = numbers.as_strided((1, VOCAB), (0, 1)), torch.tensor([3])
    expected = F.cross_entropy(row, target)
    for inplace in (False, True):
        loss = cross_entropy(row.clone().as_strided((1, VOCAB), (0, 1)), target, inplace=inplace)
        torch.testing.assert_close(loss, expected)


def test_a_gradient_in_place_of_rows_that_overlap_is_refused() -> None:
    logits = random(1, VOCAB).requires_grad_() * 1
    text = message(
        cross_entropy, logits=logits.expand(ROWS, VOCAB), targets=torch.zeros(ROWS).long(),
        inplace=True,
    )  # fmt: skip
    assert text == (
        "inplace=True needs logits whose rows are contiguous and do not overlap, got stride (0, 1);"
        " pass a copy"
    )


@NATIVE
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("leading", [(2,), (2, 3), (0,)])
def test_a_hidden_size_of_zero_means_logits_of_zero(
    leading: tuple[int, ...], dtype: torch.dtype, reduction: str, use_native: bool
) -> None:
    hidden = torch.zeros(*leading, 0, dtype=dtype, requires_grad=True)
    weight = torch.zeros(7, 0, dtype=dtype, requires_grad=True)
    targets = torch.zeros(leading, dtype=torch.int64)
    loss = linear_cross_entropy(hidden, weight, targets, reduction=reduction, use_native=use_native)
    logits = torch.zeros(*leading, 7, dtype=torch.float64)
    expected = definition(logits.flatten(0, -2), targets.flatten(), reduction=reduction)
    torch.testing.assert_close(loss.double().flatten(), expected.flatten(), equal_nan=True,
                               rtol=1e-6, atol=1e-6)  # fmt: skip
    loss.sum().backward()
    assert (hidden.grad.shape, weight.grad.shape) == (hidden.shape, weight.shape)


def test_logits_of_more_dimensions_are_compiled_as_one_graph() -> None:
    logits, targets = random(2, 3, VOCAB), torch.tensor([[1, 0, 9], [3, -1, 2]])
    hidden, weight = random(2, 3, HIDDEN), random(VOCAB, HIDDEN)

    def both(logits: Tensor, hidden: Tensor) -> Tensor:
        first: Tensor = cross_entropy(logits, targets, softcap=3)
        second: Tensor = linear_cross_entropy(hidden, weight, targets)
        return first + second

    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, hidden), both(logits, hidden))

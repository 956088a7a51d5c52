"""Linear layer and cross-entropy as one op: the logits never exist as a whole.

Rows are taken in chunks. A chunk's logits are one matrix product; the kernel writes their gradient
in their place; two more products make of it the chunk's part of both gradients. So the forward pass
makes the gradients, and the backward pass multiplies them by what arrives upstream. With a factor
for each row, or in float16, the backward pass begins again from the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import launch, reference
from nanochat.ops._cross_entropy import OPTIONS, ROWS, gradient_can_wait
from nanochat.ops.derivatives import (
    applied,
    below_autograd,
    graph_is_kept,
    is_plain,
    refuse_second_derivative,
)
from nanochat.ops.library import define, differentiate, implement
from nanochat.ops.loss import MEAN, NONE, SUM, Rows, loss_of, number_type, result_shape, shaped
from nanochat.ops.memory import fresh, fresh_like

__all__ = ["linear_cross_entropy"]

# A chunk's logits: this part of all of them, an eighth with all else that a chunk needs, or as much
# as the weight, of which no second sum or gradient is there meanwhile; but no less than SMALL, as
# each chunk packs the weight and adds to its gradient, and no more than LARGEST, about a last-level
# cache. What fits there as a whole is one chunk.
SHARE = 12
SMALL = 12 << 20
LARGEST = 32 << 20
LARGEST_ON_GPU = 1 << 30
_WIDE = (torch.float32, torch.float64)  # in which products need no wider sum
# Rows of the weight whose gradient is made at a time where it is not made in float32.
SLICE_BYTES = 512 << 10

define(
    f"linear_cross_entropy(Tensor hidden, Tensor weight, {ROWS}, {OPTIONS}, bool hidden_gradient,"
    " bool weight_gradient, bool accuracy)"
    " -> (Tensor loss, Tensor log_sums, Tensor hidden_gradient, Tensor weight_gradient,"
    " Tensor correct)"
)
define(
    f"linear_cross_entropy_backward(Tensor upstream, Tensor hidden, Tensor weight, {ROWS},"
    f" {OPTIONS}, bool hidden_gradient, bool weight_gradient) -> (Tensor, Tensor)"
)


def linear_cross_entropy(
    hidden: Tensor,  # (…, width) float32, float64 (CPU), bfloat16 or float16
    weight: Tensor,  # (vocab, width) same dtype
    targets: Tensor,  # (…) int64 in [0, vocab), or ignore_index
    *,
    ignore_index: int = -1,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float = 0.0,
    class_weights: Tensor | None = None,  # (vocab,)
    token_weights: Tensor | None = None,  # (…)
    reduction: str = "mean",
    return_accuracy: bool = False,
    use_native: bool = True,
) -> Any:  # () or, under reduction none, (…); float32, or float64 for float64 inputs
    """cross_entropy(hidden · weightᵀ, …) without the logits as a whole; see there for the options.

    The weight's gradient is summed in float32 at least. Beyond the gradients and one such sum,
    memory for an eighth of the logits is used, or for all where they are 32 MB or less. Under
    autocast both inputs are cast to its dtype, as torch's linear layer does. Raises KernelError as
    cross_entropy does.
    """
    loss = loss_of(ignore_index, label_smoothing, z_loss, softcap, reduction)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    _check_matrices(hidden, weight)
    rows = Rows.of(hidden, len(weight), targets, class_weights, token_weights)
    flat = hidden.reshape(-1, hidden.shape[-1])
    recorded = torch.is_grad_enabled()
    needs = recorded and hidden.requires_grad, recorded and weight.requires_grad
    correct: Tensor | None
    if not use_native:
        result, correct = reference.linear_cross_entropy(flat, weight, rows, loss)
    elif torch.compiler.is_compiling():
        waits = gradient_can_wait(hidden.dtype, loss.numbers[-1])
        wants = (need and waits for need in needs)
        arguments = rows.targets, rows.class_weights, rows.token_weights, *loss.numbers, *wants
        op = torch.ops.nck.linear_cross_entropy.default
        result, _, _, _, correct = op(flat, weight, *arguments, return_accuracy)
    elif not any(needs):
        result, _, _, correct = _compute(flat, weight, rows, loss.numbers, needs, return_accuracy)
    else:
        result, correct = applied(
            _LinearCrossEntropy, flat, weight, rows, loss.numbers, return_accuracy
        )
    return shaped(result, correct if return_accuracy else None, targets.shape)


def _check_matrices(hidden: Tensor, weight: Tensor) -> None:
    if weight.dim() != 2 or not hidden.dim() or hidden.shape[-1] != weight.shape[1]:
        raise KernelError(
            "hidden and weight must have shapes (…, width) and (vocab, width), got"
            f" {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype:
        raise KernelError(
            f"hidden and weight must have one dtype, got {hidden.dtype} and {weight.dtype}"
        )


@dataclass(slots=True)
class _Gradients:
    """Where the products of the chunks' gradients go; None where one is not needed."""

    hidden: Tensor | None  # (rows, width)
    weight: Tensor | None  # (vocab, width), float32 or float64: the sum
    begun: bool = False

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, wants: tuple[bool, bool]) -> _Gradients:
        number = number_type(hidden)
        return cls(
            fresh_like(hidden) if wants[0] else None,
            fresh(weight.shape, number, weight.device) if wants[1] else None,
        )

    def add(self, logits: Tensor, hidden: Tensor, weight: Tensor, first: int) -> None:
        """A chunk's part; `logits` holds their gradient, `first` is the chunk's first row."""
        if self.hidden is not None:
            torch.mm(logits, weight, out=self.hidden[first : first + len(logits)])
        if self.weight is not None:
            _add_product(self.weight, logits, hidden, self.begun)
            self.begun = True

    def results(self, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.weight is not None and not self.begun:
            self.weight.zero_()
        none = hidden.new_empty(0)
        return (
            none if self.hidden is None else self.hidden,
            none if self.weight is None else self.weight.to(weight.dtype),
        )


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor, begun: bool) -> None:
    """total = gradientᵀ · hidden, added to what it holds if it has begun."""
    if gradient.dtype == total.dtype:
        torch.addmm(total, gradient.t(), hidden, beta=1 if begun else 0, out=total)
        return
    if gradient.device.type == "cuda":
        product = torch.addmm if begun else None
        if product is None:
            torch.mm(gradient.t(), hidden, out_dtype=total.dtype, out=total)
        else:
            torch.addmm(total, gradient.t(), hidden, out_dtype=total.dtype, out=total)
        return
    # A product of a narrow dtype is rounded to it: slice by slice, so that the sum alone is large.
    rows = max(1, SLICE_BYTES // (hidden.shape[1] * hidden.element_size()))
    for first in range(0, len(total), rows):
        part = torch.mm(gradient[:, first : first + rows].t(), hidden)
        target = total[first : first + rows]
        _ = target.add_(part) if begun else target.copy_(part)


def _chunk_rows(hidden: Tensor, weight: Tensor) -> int:
    rows, row_bytes = len(hidden), len(weight) * hidden.element_size()
    most = LARGEST if hidden.device.type == "cpu" else LARGEST_ON_GPU
    size = rows
    if rows * row_bytes > most:
        wanted = max(rows * row_bytes / SHARE, weight.nbytes, SMALL)
        size = int(min(wanted, most)) // row_bytes
    size = min(max(size, 1), max(rows, 1))
    # Matrix products like whole tiles.
    return size - size % 16 if 32 <= size < rows else size


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each chunk."""
    rows, size = len(hidden), _chunk_rows(hidden, weight)
    for first in range(0, rows, size):
        yield first, min(size, rows - first)


def _run(
    hidden: Tensor, weight: Tensor, targets: Tensor, class_weights: Tensor | None,
    token_weights: Tensor | None, loss: tuple[Any, ...], *, gradients: _Gradients | None,
    upstream: Tensor | None, losses: Tensor | None, log_sums: Tensor | None,
    correct: Tensor | None,
) -> None:  # fmt: skip
    """The chunks in turn. losses and correct are (rows,) or a number a chunk."""
    *options, reduction = loss
    chunks = list(_chunks(hidden, weight))
    size = chunks[0][1] if chunks else 0
    buffer = fresh((size, len(weight)), hidden.dtype, hidden.device)
    weight_t = weight.t()
    for number, (first, count) in enumerate(chunks):
        rows = slice(first, first + count)
        own = rows if reduction == NONE else number
        logits = buffer[:count]
        torch.mm(hidden[rows], weight_t, out=logits)
        launch.cross_entropy(
            logits, targets[rows], class_weights,
            None if token_weights is None else token_weights[rows],
            (*options, reduction),
            upstream=upstream[rows] if upstream is not None and upstream.dim() else upstream,
            gradient=None if gradients is None else logits,
            losses=None if losses is None else losses[own],
            log_sums=None if log_sums is None else log_sums[rows],
            correct=None if correct is None else correct[own],
        )  # fmt: skip
        if gradients is not None:
            gradients.add(logits, hidden[rows], weight, first)


def _scaled(
    rows: tuple[Tensor, Tensor | None, Tensor | None], hidden: Tensor, weight: Tensor,
    loss: tuple[Any, ...],
) -> tuple[tuple[Any, ...], Tensor | None, Tensor]:  # fmt: skip
    """The loss for a chunk, what to multiply its gradients by, and Σ w · c[target].

    A chunk knows nothing of the others' rows, so that a mean is a sum and a factor to it. Checks
    the targets of all rows, on the CPU.
    """
    number = number_type(hidden)
    on_cpu = hidden.device.type == "cpu"
    total = hidden.new_empty((), dtype=torch.float64 if on_cpu else number)
    launch.target_weight(rows[0], len(weight), hidden.dtype, *rows[1:], loss[0], total)
    if loss[-1] != MEAN:
        return loss, None, total
    return (*loss[:-1], SUM), total.reciprocal().to(number), total


def _forward(
    hidden: Tensor, weight: Tensor, targets: Tensor, class_weights: Tensor | None,
    token_weights: Tensor | None, ignore_index: int, label_smoothing: float, z_loss: float,
    softcap: float, reduction: int, hidden_gradient: bool, weight_gradient: bool, accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows = targets, class_weights, token_weights
    loss, scale, total = _scaled(
        rows, hidden, weight, (ignore_index, label_smoothing, z_loss, softcap, reduction)
    )
    number = number_type(hidden)
    wants = hidden_gradient, weight_gradient
    gradients = _Gradients.of(hidden, weight, wants) if any(wants) else None
    size = len(hidden) if reduction == NONE else len(list(_chunks(hidden, weight)))
    losses = hidden.new_empty(size, dtype=number)
    correct = hidden.new_empty(size if accuracy else 0, dtype=number)
    log_sums = hidden.new_empty(len(hidden), dtype=number)
    _run(
        hidden, weight, *rows, loss, gradients=gradients, upstream=scale, losses=losses,
        log_sums=log_sums, correct=correct if accuracy else None,
    )  # fmt: skip
    if reduction != NONE:
        losses = losses.sum()
        correct = correct.sum() if accuracy else correct
    if reduction == MEAN:
        losses = losses / total.to(number)
        correct = correct / (targets != ignore_index).sum() if accuracy else correct
    none = hidden.new_empty(0)
    made = gradients.results(hidden, weight) if gradients else (none, none.clone())
    return losses, log_sums, *made, correct


def _backward(
    upstream: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor,
    class_weights: Tensor | None, token_weights: Tensor | None, ignore_index: int,
    label_smoothing: float, z_loss: float, softcap: float, reduction: int, hidden_gradient: bool,
    weight_gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows = targets, class_weights, token_weights
    loss, scale, _ = _scaled(
        rows, hidden, weight, (ignore_index, label_smoothing, z_loss, softcap, reduction)
    )
    upstream = upstream.to(number_type(hidden))
    gradients = _Gradients.of(hidden, weight, (hidden_gradient, weight_gradient))
    _run(
        hidden, weight, *rows, loss, gradients=gradients,
        upstream=upstream if scale is None else upstream * scale, losses=None, log_sums=None,
        correct=None,
    )  # fmt: skip
    return gradients.results(hidden, weight)


def _fake_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    reduction, hidden_gradient, weight_gradient, accuracy = arguments[-4:]
    number = number_type(hidden)
    shape = result_shape(hidden.shape[0], reduction)
    return (
        hidden.new_empty(shape, dtype=number),
        hidden.new_empty(hidden.shape[0], dtype=number),
        hidden.new_empty(hidden.shape if hidden_gradient else (0,)),
        weight.new_empty(weight.shape if weight_gradient else (0,)),
        hidden.new_empty(shape if accuracy else (0,), dtype=number),
    )


def _fake_linear_cross_entropy_backward(
    upstream: Tensor, hidden: Tensor, weight: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    hidden_gradient, weight_gradient = arguments[-2:]
    return (
        hidden.new_empty(hidden.shape if hidden_gradient else (0,)),
        weight.new_empty(weight.shape if weight_gradient else (0,)),
    )


implement("linear_cross_entropy", _forward, _fake_linear_cross_entropy)
implement("linear_cross_entropy_backward", _backward, _fake_linear_cross_entropy_backward)


def _compute(
    hidden: Tensor, weight: Tensor, rows: Rows, loss: tuple[Any, ...], wants: tuple[bool, bool],
    accuracy: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Loss, both gradients and correct without autograd; one chunk without the chunks' trouble."""
    if (
        not is_plain(hidden)
        or hidden.dtype not in _WIDE
        or _chunk_rows(hidden, weight) < len(hidden)
    ):
        arguments = rows.targets, rows.class_weights, rows.token_weights, *loss, *wants, accuracy
        op = torch.ops.nck.linear_cross_entropy.default
        result, _, *made, correct = below_autograd(op, hidden, weight, *arguments)
        return result, made[0], made[1], correct
    number = number_type(hidden)
    shape = (len(hidden),) if loss[-1] == NONE else ()
    result = torch.empty(shape, dtype=number, device=hidden.device)
    counted = torch.empty_like(result) if accuracy else None
    logits = torch.mm(hidden, weight.t())
    launch.cross_entropy(
        logits, rows.targets, rows.class_weights, rows.token_weights, loss,
        gradient=logits if wants[0] or wants[1] else None, losses=result, correct=counted,
    )  # fmt: skip
    d_hidden = torch.mm(logits, weight) if wants[0] else None
    d_weight = torch.mm(logits.t(), hidden) if wants[1] else None
    return result, d_hidden, d_weight, counted


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, rows: Rows, loss: tuple[Any, ...], accuracy: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.waits = gradient_can_wait(hidden.dtype, loss[-1])
        ctx.wants = needs = ctx.needs_input_grad[:2]
        ctx.loss = loss
        wants = needs if ctx.waits else (False, False)
        result, *made, correct = _compute(hidden, weight, rows, loss, wants, accuracy)
        if ctx.waits:
            ctx.save_for_backward(*made)
        else:
            weights = rows.class_weights, rows.token_weights
            ctx.save_for_backward(hidden, weight, rows.targets, *weights)
        if correct is not None:
            ctx.mark_non_differentiable(correct)
        return result, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_gradients_of(ctx, upstream, in_place=not graph_is_kept()), None, None, None


def _multiplied(gradient: Tensor, upstream: Tensor, in_place: bool) -> Tensor:
    if not in_place:
        return gradient * upstream
    if upstream.is_cpu and upstream.item() == 1.0:
        return gradient
    return gradient.mul_(upstream)


def _gradients_of(ctx: Any, upstream: Tensor, *, in_place: bool) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("linear_cross_entropy")
    if ctx.waits:
        made = tuple(
            _multiplied(g, upstream, in_place) if want else None
            for g, want in zip(ctx.saved_tensors, ctx.wants, strict=True)
        )
    else:
        op = torch.ops.nck.linear_cross_entropy_backward.default
        results = op(upstream, *ctx.saved_tensors, *ctx.loss, *ctx.wants)
        made = tuple(g if want else None for g, want in zip(results, ctx.wants, strict=True))
    return made


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, _, _, _, reduction, _, _, _ = inputs
    ctx.loss = inputs[5:10]
    ctx.wants = ctx.needs_input_grad[:2]
    ctx.waits = gradient_can_wait(tensors[0].dtype, reduction)
    ctx.save_for_backward(*(output[2:4] if ctx.waits else tensors))


def _registered_backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients_of(ctx, upstream, in_place=False), *(None,) * 11


differentiate("linear_cross_entropy", _registered_backward, _setup)

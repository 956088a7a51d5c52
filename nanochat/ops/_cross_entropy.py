"""Cross-entropy of logits: loss and gradient in one pass over them.

The op is `nck::cross_entropy`, functional, and `nck::cross_entropy_`, which writes the gradient
over the logits. In eager mode an autograd.Function calls them (a registered formula costs 45 µs
more a step); under torch.compile the formulas registered at the end of this file stand in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import launch, reference
from nanochat.ops.derivatives import (
    applied,
    below_autograd,
    graph_is_kept,
    is_plain,
    refuse_second_derivative,
)
from nanochat.ops.library import define, differentiate, implement
from nanochat.ops.loss import NONE, Rows, loss_of, number_type, result_shape, shaped
from nanochat.ops.memory import fresh, fresh_like

__all__ = ["cross_entropy", "gradient_can_wait"]

OPTIONS = "int ignore_index, float label_smoothing, float z_loss, float softcap, int reduction"
ROWS = "Tensor targets, Tensor? class_weights, Tensor? token_weights"

define(
    f"cross_entropy(Tensor logits, {ROWS}, {OPTIONS}, bool gradient, bool accuracy)"
    " -> (Tensor loss, Tensor log_sums, Tensor gradient, Tensor correct)"
)
define(
    f"cross_entropy_(Tensor(a!) logits, {ROWS}, {OPTIONS}, bool accuracy)"
    " -> (Tensor loss, Tensor log_sums, Tensor correct)"
)
define(f"cross_entropy_backward(Tensor upstream, Tensor logits, {ROWS}, {OPTIONS}) -> Tensor")
define("scale_rows(Tensor matrix, Tensor upstream) -> Tensor")


def cross_entropy(
    logits: Tensor,  # (…, vocab) float32, float64 (CPU), bfloat16 or float16
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
    inplace: bool = False,
    use_native: bool = True,
) -> Any:  # () or, under reduction none, (…); float32, or float64 for float64 logits
    """The loss of ops/loss.py in nats; with `return_accuracy` also which rows' largest logit, the
    first of equal ones, is the target's: their share, their number or 0 and 1, by reduction.

    `inplace` lets the gradient take the logits' place, where one is needed: whoever saved them
    for a backward pass of its own then raises there, and leaves that require grad are refused.
    Under torch.compile, which plans memory itself, it means nothing. `use_native=False` computes
    the same in plain torch.

    A row that holds NaN or +inf, or nothing above −inf, has a loss and a gradient of NaN; an
    ignored row has none. Raises KernelError for a target out of range, naming row and value (on a
    GPU its row's loss is NaN instead), and for a second derivative.
    """
    loss = loss_of(ignore_index, label_smoothing, z_loss, softcap, reduction)
    vocab = logits.shape[-1] if logits.dim() else 0
    rows = Rows.of(logits, vocab, targets, class_weights, token_weights)
    flat = logits if logits.dim() == 2 else _flat(logits, inplace)
    needs_gradient = torch.is_grad_enabled() and logits.requires_grad
    correct: Tensor | None
    if not use_native:
        result, correct = reference.cross_entropy(flat, rows, loss)
    elif torch.compiler.is_compiling():
        waits = needs_gradient and gradient_can_wait(logits.dtype, loss.numbers[-1])
        arguments = flat, rows.targets, rows.class_weights, rows.token_weights, *loss.numbers
        op = torch.ops.nck.cross_entropy.default
        result, _, _, correct = op(*arguments, waits, return_accuracy)
    elif needs_gradient:
        function = _InPlace if inplace else _CrossEntropy
        result, correct = applied(function, flat, rows, loss.numbers, return_accuracy)
    else:
        result, _, correct = _compute(flat, rows, loss.numbers, False, return_accuracy)
    return shaped(result, correct if return_accuracy else None, targets.shape)


def gradient_can_wait(dtype: torch.dtype, reduction: int) -> bool:
    """Whether the forward pass may make the gradient, to be multiplied by what arrives upstream.

    Not with a factor for each row, which would cost a second pass over as much memory as the
    logits, nor in float16, whose range needs the factor (a loss scale) before the rounding.
    """
    return reduction != NONE and dtype != torch.float16


def _flat(logits: Tensor, inplace: bool) -> Tensor:
    if not inplace:
        return logits.reshape(-1, logits.shape[-1])
    try:
        return logits.view(-1, logits.shape[-1])
    except RuntimeError:
        raise KernelError(
            "inplace=True needs logits that view() can flatten; pass a copy"
        ) from None


def _rows_contiguous(logits: Tensor) -> Tensor:
    return logits if logits.shape[1] <= 1 or logits.stride(1) == 1 else logits.contiguous()


def _compute(
    logits: Tensor, rows: Rows, loss: tuple[Any, ...], gradient: bool, accuracy: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss, gradient and correct without autograd, and without the dispatcher where nobody listens
    there: it takes as long as a small kernel."""
    if not is_plain(logits):
        arguments = logits, rows.targets, rows.class_weights, rows.token_weights, *loss
        op = torch.ops.nck.cross_entropy.default
        result, _, made, correct = below_autograd(op, *arguments, gradient, accuracy)
        return result, made, correct
    logits = _rows_contiguous(logits)
    number = number_type(logits)
    shape = (logits.shape[0],) if loss[-1] == NONE else ()
    result = torch.empty(shape, dtype=number, device=logits.device)
    counted = torch.empty_like(result) if accuracy else None
    slope = fresh_like(logits) if gradient else None
    launch.cross_entropy(
        logits, rows.targets, rows.class_weights, rows.token_weights, loss, gradient=slope,
        losses=result, correct=counted,
    )  # fmt: skip
    return result, slope, counted


def _outputs(logits: Tensor, reduction: int, accuracy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty loss, log-sums and correct; correct is of size 0 where nobody asks."""
    number = number_type(logits)
    shape = result_shape(logits.shape[0], reduction)
    loss = logits.new_empty(shape, dtype=number)
    correct = logits.new_empty(shape if accuracy else (0,), dtype=number)
    return loss, logits.new_empty((logits.shape[0],), dtype=number), correct


def _forward(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, token_weights: Tensor | None,
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: int,
    gradient: bool, accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    loss, log_sums, correct = _outputs(logits, reduction, accuracy)
    logits = _rows_contiguous(logits)
    shape = logits.shape if gradient else (0,)
    made = fresh(shape, logits.dtype, logits.device)
    launch.cross_entropy(
        logits, targets, class_weights, token_weights,
        (ignore_index, label_smoothing, z_loss, softcap, reduction),
        gradient=made if gradient else None, losses=loss, log_sums=log_sums,
        correct=correct if accuracy else None,
    )  # fmt: skip
    return loss, log_sums, made, correct


def _forward_inplace(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, token_weights: Tensor | None,
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: int,
    accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if logits.stride(1) != 1 and logits.shape[1] > 1:
        raise KernelError("inplace=True needs logits whose last dimension is contiguous")
    loss, log_sums, correct = _outputs(logits, reduction, accuracy)
    launch.cross_entropy(
        logits, targets, class_weights, token_weights,
        (ignore_index, label_smoothing, z_loss, softcap, reduction),
        gradient=logits, losses=loss, log_sums=log_sums, correct=correct if accuracy else None,
    )  # fmt: skip
    torch.autograd.graph.increment_version(logits)
    return loss, log_sums, correct


def _backward(
    upstream: Tensor, logits: Tensor, targets: Tensor, class_weights: Tensor | None,
    token_weights: Tensor | None, ignore_index: int, label_smoothing: float, z_loss: float,
    softcap: float, reduction: int,
) -> Tensor:  # fmt: skip
    logits = _rows_contiguous(logits)
    gradient = fresh_like(logits)
    launch.cross_entropy(
        logits, targets, class_weights, token_weights,
        (ignore_index, label_smoothing, z_loss, softcap, reduction),
        upstream=upstream.to(number_type(logits)), gradient=gradient,
    )  # fmt: skip
    return gradient


def _scale_rows(matrix: Tensor, upstream: Tensor) -> Tensor:
    result = fresh_like(matrix)
    launch.scale_rows(matrix, upstream.to(number_type(matrix)), result)
    return result


def _fake_cross_entropy(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reduction, gradient, accuracy = arguments[-3:]
    loss, log_sums, correct = _outputs(logits, reduction, accuracy)
    return loss, log_sums, logits.new_empty(logits.shape if gradient else (0,)), correct


def _fake_cross_entropy_(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(logits, *arguments[-2:])


def _fake_cross_entropy_backward(upstream: Tensor, logits: Tensor, *arguments: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _fake_scale_rows(matrix: Tensor, upstream: Tensor) -> Tensor:
    return matrix.new_empty(matrix.shape)


implement("cross_entropy", _forward, _fake_cross_entropy)
implement("cross_entropy_", _forward_inplace, _fake_cross_entropy_)
implement("cross_entropy_backward", _backward, _fake_cross_entropy_backward)
implement("scale_rows", _scale_rows, _fake_scale_rows)


def _multiplied(gradient: Tensor, upstream: Tensor) -> Tensor:
    """gradient · upstream, in the gradient's place unless another pass will want it."""
    if graph_is_kept():
        scaled: Tensor = torch.ops.nck.scale_rows.default(gradient, upstream)
        return scaled
    if upstream.is_cpu and not upstream.dim() and upstream.item() == 1.0:
        return gradient
    launch.scale_rows(gradient, upstream, gradient)
    torch.autograd.graph.increment_version(gradient)
    return gradient


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Rows, loss: tuple[Any, ...], accuracy: bool
    ) -> tuple[Tensor, Tensor | None]:
        waits = gradient_can_wait(logits.dtype, loss[-1])
        result, gradient, correct = _compute(logits, rows, loss, waits, accuracy)
        ctx.loss = loss
        if waits:
            ctx.save_for_backward(gradient)
        else:
            ctx.save_for_backward(logits, rows.targets, rows.class_weights, rows.token_weights)
        if correct is not None:
            ctx.mark_non_differentiable(correct)
        return result, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("cross_entropy")
        saved = ctx.saved_tensors
        if len(saved) == 1:
            return _multiplied(saved[0], upstream), None, None, None
        op = torch.ops.nck.cross_entropy_backward.default
        return op(upstream, *saved, *ctx.loss), None, None, None


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Rows, loss: tuple[Any, ...], accuracy: bool
    ) -> tuple[Tensor, Tensor]:
        _refuse_leaf(logits)
        arguments = logits, rows.targets, rows.class_weights, rows.token_weights, *loss, accuracy
        if is_plain(logits):
            result, _, correct = _forward_inplace(*arguments)
        else:
            result, _, correct = torch.ops.nck.cross_entropy_.default(*arguments)
        ctx.save_for_backward(logits.detach())
        ctx.mark_non_differentiable(correct)
        return result, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("cross_entropy")
        (made,) = ctx.saved_tensors
        gradient = _multiplied(made, upstream)
        return gradient, None, None, None


def _refuse_leaf(logits: Tensor) -> None:
    base = logits._base if logits._is_view() else logits
    if base is not None and base.is_leaf and base.requires_grad:
        raise KernelError(
            "inplace=True would overwrite a leaf that requires grad; pass inplace=False"
        )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, class_weights, token_weights, *loss, waits, _ = inputs
    ctx.loss = loss
    ctx.waits = waits
    saved = (output[2],) if waits else (logits, targets, class_weights, token_weights)
    ctx.save_for_backward(*saved)


def _registered_backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("cross_entropy")
    if ctx.waits:
        gradient = torch.ops.nck.scale_rows.default(*ctx.saved_tensors, upstream)
    else:
        op = torch.ops.nck.cross_entropy_backward.default
        gradient = op(upstream, *ctx.saved_tensors, *ctx.loss)
    return gradient, *(None,) * 10


differentiate("cross_entropy", _registered_backward, _setup)

"""Cross-entropy of logits. One pass over the logits computes both the loss and its gradient.

Defines `nck::cross_entropy`, which is functional, and `nck::cross_entropy_`, which writes the
gradient over the logits. Eager mode calls them through an autograd.Function, because a registered
derivative costs 45 µs more per step; torch.compile uses the derivatives registered in this file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import launch, memory, reference
from nanochat.ops.arguments import materialized
from nanochat.ops.derivatives import (
    apply,
    below_autograd,
    graph_is_kept,
    is_plain,
    is_transformed,
    refuse_forward_mode,
    refuse_second_derivative,
)
from nanochat.ops.library import define, differentiate, implement
from nanochat.ops.loss import (
    NONE,
    LossInputs,
    accumulation_dtype,
    check_features,
    loss_options,
    reshape_results,
    result_shape,
)

__all__ = ["cross_entropy", "gradient_in_forward"]

OPTIONS = "int ignore_index, float label_smoothing, float z_loss, float softcap, int reduction"
INPUTS = "Tensor targets, Tensor? class_weights, Tensor? token_weights"

define(
    f"cross_entropy(Tensor logits, {INPUTS}, {OPTIONS}, bool gradient, bool accuracy)"
    " -> (Tensor loss, Tensor log_sums, Tensor gradient, Tensor correct)"
)
define(
    f"cross_entropy_(Tensor(a!) logits, {INPUTS}, {OPTIONS}, bool accuracy)"
    " -> (Tensor loss, Tensor log_sums, Tensor correct)"
)
define(f"cross_entropy_backward(Tensor upstream, Tensor logits, {INPUTS}, {OPTIONS}) -> Tensor")
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
    """Return the cross-entropy between logits and targets, in nats.

    With z the logits after the soft-cap, t the target, c the class weights, w the token weight and
    lse = log Σ exp z, the loss of a row is

        w · ((1 − label_smoothing) · c[t] · (lse − z[t])
             + label_smoothing / vocab · Σ_j c[j] · (lse − z[j]) + z_loss · lse²)

    and 0 if the target is `ignore_index`. One pass computes the loss and its gradient.

    Args:
        logits: Unnormalized scores of shape (…, vocab), in float32, float64 (CPU only), bfloat16
            or float16. All leading dimensions are rows.
        targets: Class indices of shape (…), int64, each in [0, vocab) or equal to `ignore_index`.
        ignore_index: Target that marks a row without loss and gradient.
        label_smoothing: Share of the target's probability that is spread evenly over all classes,
            in [0, 1].
        z_loss: Factor of the penalty lse², which keeps the logits' scale near 0. At least 0.
        softcap: Bound of the logits: z = softcap · tanh(logits / softcap). 0 means no bound.
        class_weights: Weight of each class, shape (vocab,), any float dtype. Not differentiated.
        token_weights: Weight of each row, shape (…), any float dtype. Not differentiated.
        reduction: `"none"`: one loss per row. `"sum"`: their sum. `"mean"`: the sum divided by
            Σ w · c[t] over the rows that are not ignored, NaN if all are ignored, as in torch.
        return_accuracy: Also return which rows have the target as their largest logit, the first
            one among equals: 0 or 1 per row, their number, or their share, by `reduction`.
        inplace: Let the gradient overwrite the logits if a gradient is needed, which saves memory
            of their size. If another backward pass has saved the logits, that pass raises. No
            effect under torch.compile and transforms.
        use_native: False computes the same loss in plain torch.

    Returns:
        The loss, or the pair (loss, correct) if `return_accuracy`. Shape () or, for reduction
            `"none"`, (…). float32, or float64 for float64 logits.

    Raises:
        KernelError: An argument has the wrong shape, dtype, device or range. A target out of range
            is named with its row on the CPU; on a GPU its row's loss is NaN. A backward pass is
            recorded with create_graph=True: the kernels have no second derivative. `inplace`
            meets a leaf that requires grad.

    Note:
        A row that holds NaN or +inf, or only −inf, has a loss and gradient of NaN.

        torch.func transforms (grad, vmap, jvp, hessian, …) and forward-mode AD compute the loss in
        plain torch, as `use_native=False`, so derivatives of any order are right.

    Note:
        Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer
        Vision", 2016. z-loss: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways",
        2022. Soft-capped logits: Gemma Team, "Gemma 2", 2024.

    Example:
        >>> import torch
        >>> from nanochat.ops import cross_entropy
        >>> logits = torch.zeros(3, 4, requires_grad=True)
        >>> loss = cross_entropy(logits, torch.tensor([0, 3, -1]))  # the last row is ignored
        >>> loss.backward()
        >>> print(f"{loss:.4f}")
        1.3863
        >>> logits.grad[0]
        tensor([-0.3750,  0.1250,  0.1250,  0.1250])
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, softcap, reduction)
    check_features("logits", logits, use_native)
    inputs = LossInputs.of(logits, logits.shape[-1], targets, class_weights, token_weights)
    logits = materialized(logits)
    flat = logits if logits.dim() == 2 else _flatten(logits, inplace)
    correct: Tensor | None
    if not use_native or is_transformed():
        loss, correct = reference.cross_entropy(flat, inputs, options)
    elif torch.compiler.is_compiling():
        loss, correct = _compiled(flat, inputs, options.packed, return_accuracy)
    elif logits.requires_grad and torch.is_grad_enabled():
        function = _InPlace if inplace else _CrossEntropy
        loss, correct = apply(function, flat, inputs, options.packed, return_accuracy)
    else:
        loss, _, correct = _evaluate(flat, inputs, options.packed, False, return_accuracy)
    return reshape_results(loss, correct if return_accuracy else None, targets.shape)


def gradient_in_forward(dtype: torch.dtype, reduction: int) -> bool:
    """Return whether the forward pass may compute the gradient, to be scaled in the backward pass.

    Not with one upstream factor per row: scaling would be a second pass over memory of the logits'
    size. Not in float16: its range needs the factor (a loss scale) before the rounding.
    """
    return reduction != NONE and dtype != torch.float16


def _flatten(logits: Tensor, inplace: bool) -> Tensor:
    if not inplace:
        return logits.reshape(logits.shape[:-1].numel(), logits.shape[-1])
    try:
        return logits.view(logits.shape[:-1].numel(), logits.shape[-1])
    except RuntimeError:
        raise KernelError(
            "inplace=True needs logits that view() can flatten; pass a copy"
        ) from None


def _has_rows_apart(logits: Tensor) -> bool:
    """Return whether the kernels can read the layout: contiguous rows that do not overlap."""
    rows, vocab = logits.shape
    row_stride, stride = logits.stride()
    return (vocab <= 1 or stride == 1) and (rows <= 1 or row_stride >= vocab)


def _rows_apart(logits: Tensor) -> Tensor:
    return logits if _has_rows_apart(logits) else logits.contiguous()


def _compiled(
    logits: Tensor, inputs: LossInputs, options: tuple[Any, ...], accuracy: bool
) -> tuple[Tensor, Tensor]:
    """Return loss and correct as the compiler traces them: one call of the op."""
    needed = torch.is_grad_enabled() and logits.requires_grad
    gradient = needed and gradient_in_forward(logits.dtype, options[-1])
    op = torch.ops.nck.cross_entropy.default
    loss, _, _, correct = op(logits, *inputs, *options, gradient, accuracy)
    return loss, correct


def _evaluate(
    logits: Tensor, inputs: LossInputs, options: tuple[Any, ...], gradient: bool, accuracy: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return loss, gradient and correct without autograd.

    Skips the dispatcher, which takes as long as a small kernel, where nothing intercepts it.
    """
    if not is_plain(logits):
        op = torch.ops.nck.cross_entropy.default
        loss, _, logits_gradient, correct = below_autograd(
            op, logits, *inputs, *options, gradient, accuracy
        )
        return loss, logits_gradient, correct
    logits = _rows_apart(logits)
    shape = (logits.shape[0],) if options[-1] == NONE else ()
    loss = torch.empty(shape, dtype=accumulation_dtype(logits.dtype), device=logits.device)
    hits = torch.empty_like(loss) if accuracy else None
    slope = memory.empty_like(logits) if gradient else None
    launch.cross_entropy(logits, *inputs, options, gradient=slope, losses=loss, correct=hits)
    return loss, slope, hits


# ─────────────────────────────────────────────────────────────────────────────── registered ops


def _empty_outputs(logits: Tensor, reduction: int, accuracy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return uninitialized loss, log-sums and correct; correct has size 0 without accuracy."""
    dtype = accumulation_dtype(logits.dtype)
    shape = result_shape(logits.shape[0], reduction)
    loss = logits.new_empty(shape, dtype=dtype)
    correct = logits.new_empty(shape if accuracy else (0,), dtype=dtype)
    return loss, logits.new_empty((logits.shape[0],), dtype=dtype), correct


def _forward(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, token_weights: Tensor | None,
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: int,
    gradient: bool, accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    refuse_forward_mode("cross_entropy")
    loss, log_sums, correct = _empty_outputs(logits, reduction, accuracy)
    logits = _rows_apart(logits)
    shape = logits.shape if gradient else (0,)
    logits_gradient = memory.empty(shape, logits.dtype, logits.device)
    launch.cross_entropy(
        logits, targets, class_weights, token_weights,
        (ignore_index, label_smoothing, z_loss, softcap, reduction),
        gradient=logits_gradient if gradient else None, losses=loss, log_sums=log_sums,
        correct=correct if accuracy else None,
    )  # fmt: skip
    return loss, log_sums, logits_gradient, correct


def _forward_inplace(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None, token_weights: Tensor | None,
    ignore_index: int, label_smoothing: float, z_loss: float, softcap: float, reduction: int,
    accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    refuse_forward_mode("cross_entropy")
    if not _has_rows_apart(logits):
        raise KernelError(
            "inplace=True needs logits whose rows are contiguous and do not overlap, got stride"
            f" {tuple(logits.stride())}; pass a copy"
        )
    loss, log_sums, correct = _empty_outputs(logits, reduction, accuracy)
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
    logits = _rows_apart(logits)
    gradient = memory.empty_like(logits)
    launch.cross_entropy(
        logits, targets, class_weights, token_weights,
        (ignore_index, label_smoothing, z_loss, softcap, reduction),
        upstream=upstream.to(accumulation_dtype(logits.dtype)), gradient=gradient,
    )  # fmt: skip
    return gradient


def _scale_rows(matrix: Tensor, upstream: Tensor) -> Tensor:
    matrix = _rows_apart(matrix)
    result = memory.empty_like(matrix)
    launch.scale_rows(matrix, upstream.to(accumulation_dtype(matrix.dtype)), result)
    return result


def _fake_cross_entropy(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reduction, gradient, accuracy = arguments[-3:]
    loss, log_sums, correct = _empty_outputs(logits, reduction, accuracy)
    return loss, log_sums, logits.new_empty(logits.shape if gradient else (0,)), correct


def _fake_cross_entropy_(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(logits, *arguments[-2:])


def _fake_cross_entropy_backward(upstream: Tensor, logits: Tensor, *arguments: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _fake_scale_rows(matrix: Tensor, upstream: Tensor) -> Tensor:
    return matrix.new_empty(matrix.shape)


implement("cross_entropy", _forward, _fake_cross_entropy)
implement("cross_entropy_", _forward_inplace, _fake_cross_entropy_)
implement("cross_entropy_backward", _backward, _fake_cross_entropy_backward)
implement("scale_rows", _scale_rows, _fake_scale_rows)


# ─────────────────────────────────────────────────────────────────────────────────── derivatives


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Return gradient · upstream, in place unless the graph is kept for another backward pass."""
    if graph_is_kept():
        copy: Tensor = torch.ops.nck.scale_rows.default(gradient, upstream)
        return copy
    if upstream.is_cpu and not upstream.dim() and upstream.item() == 1.0:
        return gradient
    launch.scale_rows(gradient, materialized(upstream), gradient)
    torch.autograd.graph.increment_version(gradient)
    return gradient


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, inputs: LossInputs, options: tuple[Any, ...], accuracy: bool
    ) -> tuple[Tensor, Tensor | None]:
        in_forward = gradient_in_forward(logits.dtype, options[-1])
        loss, gradient, correct = _evaluate(logits, inputs, options, in_forward, accuracy)
        ctx.options = options
        if in_forward:
            ctx.save_for_backward(gradient)
        else:
            ctx.save_for_backward(logits, *inputs)
        if correct is not None:
            ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("cross_entropy")
        saved = ctx.saved_tensors
        if len(saved) == 1:
            return _scaled(saved[0], upstream), None, None, None
        op = torch.ops.nck.cross_entropy_backward.default
        return op(upstream, *saved, *ctx.options), None, None, None


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, inputs: LossInputs, options: tuple[Any, ...], accuracy: bool
    ) -> tuple[Tensor, Tensor]:
        _refuse_leaf(logits)
        arguments = logits, *inputs, *options, accuracy
        if is_plain(logits):
            loss, _, correct = _forward_inplace(*arguments)
        else:
            loss, _, correct = torch.ops.nck.cross_entropy_.default(*arguments)
        ctx.save_for_backward(logits.detach())
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("cross_entropy")
        (gradient,) = ctx.saved_tensors
        return _scaled(gradient, upstream), None, None, None


def _refuse_leaf(logits: Tensor) -> None:
    base = logits._base if logits._is_view() else logits
    if base is not None and base.is_leaf and base.requires_grad:
        raise KernelError(
            "inplace=True would overwrite a leaf that requires grad; pass inplace=False"
        )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, class_weights, token_weights, *options, in_forward, _ = inputs
    ctx.options = options
    ctx.in_forward = in_forward
    saved = (output[2],) if in_forward else (logits, targets, class_weights, token_weights)
    ctx.save_for_backward(*saved)


def _registered_backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("cross_entropy")
    if ctx.in_forward:
        gradient = torch.ops.nck.scale_rows.default(*ctx.saved_tensors, upstream)
    else:
        op = torch.ops.nck.cross_entropy_backward.default
        gradient = op(upstream, *ctx.saved_tensors, *ctx.options)
    return gradient, *(None,) * 10


differentiate("cross_entropy", _registered_backward, _setup)

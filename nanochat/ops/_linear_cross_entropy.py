"""Linear layer and cross-entropy as one op, which never holds all logits at once.

The op takes the rows in chunks. A matrix product makes the chunk's logits, the kernel overwrites
them with their gradient, and two more products add the chunk's part of both input gradients. So
the forward pass computes the gradients, and the backward pass scales them. With one upstream
factor per row, or in float16, the backward pass starts again from the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import launch, memory, reference
from nanochat.ops._cross_entropy import INPUTS, OPTIONS, gradient_in_forward
from nanochat.ops.arguments import require_same_device
from nanochat.ops.chunks import Chunk, Gradients, all_chunks, chunk_size
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
    MEAN,
    NONE,
    SUM,
    LossInputs,
    accumulation_dtype,
    check_features,
    loss_options,
    reshape_results,
    result_shape,
)

__all__ = ["linear_cross_entropy"]

_SUMS_IN_OWN_DTYPE = (torch.float32, torch.float64)

define(
    f"linear_cross_entropy(Tensor hidden, Tensor weight, {INPUTS}, {OPTIONS},"
    " bool hidden_gradient, bool weight_gradient, bool accuracy)"
    " -> (Tensor loss, Tensor log_sums, Tensor hidden_gradient, Tensor weight_gradient,"
    " Tensor correct)"
)
define(
    f"linear_cross_entropy_backward(Tensor upstream, Tensor hidden, Tensor weight, {INPUTS},"
    f" {OPTIONS}, bool hidden_gradient, bool weight_gradient) -> (Tensor, Tensor)"
)


def linear_cross_entropy(
    hidden: Tensor,  # (…, hidden size) float32, float64 (CPU), bfloat16 or float16
    weight: Tensor,  # (vocab, hidden size) same dtype
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
    """Return cross_entropy(hidden · weightᵀ, targets) without holding all logits at once.

    Rows are processed in chunks. Apart from the gradients and one float32 sum of the weight's
    gradient, the op uses memory for an eighth of the logits, or for all of them if they take 32 MB
    or less.

    Args:
        hidden: Last hidden states of shape (…, hidden size), in float32, float64 (CPU only),
            bfloat16 or float16. All leading dimensions are rows.
        weight: Output layer of shape (vocab, hidden size), same dtype as `hidden`.
        targets: Class indices of shape (…), int64, each in [0, vocab) or equal to `ignore_index`.
        ignore_index: Target that marks a row without loss and gradient.
        label_smoothing: Share of the target's probability that is spread evenly over all classes,
            in [0, 1].
        z_loss: Factor of the penalty lse², which keeps the logits' scale near 0. At least 0.
        softcap: Bound of the logits: softcap · tanh(logits / softcap). 0 means no bound.
        class_weights: Weight of each class, shape (vocab,), any float dtype. Not differentiated.
        token_weights: Weight of each row, shape (…), any float dtype. Not differentiated.
        reduction: `"none"`, `"sum"` or `"mean"`, as in `cross_entropy`.
        return_accuracy: Also return which rows have the target as their largest logit, the first
            one among equals: 0 or 1 per row, their number, or their share, by `reduction`.
        use_native: False computes the same loss in plain torch, with all logits in memory.

    Returns:
        The loss, or the pair (loss, correct) if `return_accuracy`. Shape () or, for reduction
            `"none"`, (…). float32, or float64 for float64 inputs.

    Raises:
        KernelError: As in `cross_entropy`, or the shapes or dtypes of `hidden` and `weight` do not
            match.

    Note:
        The weight's gradient is summed in float32 at least, for every dtype. Under autocast
        both inputs are cast to its dtype, as in `torch.nn.functional.linear`.

        torch.func transforms and forward-mode AD compute the loss in plain torch, as
        `use_native=False`. There is no second derivative by create_graph=True otherwise.

    Example:
        >>> import torch
        >>> from nanochat.ops import linear_cross_entropy
        >>> hidden = torch.eye(2, 3, requires_grad=True)
        >>> weight = torch.zeros(4, 3, requires_grad=True)
        >>> loss = linear_cross_entropy(hidden, weight, torch.tensor([1, 2]))
        >>> loss.backward()
        >>> print(f"{loss:.4f}")
        1.3863
        >>> weight.grad[1]
        tensor([-0.3750,  0.1250,  0.0000])
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, softcap, reduction)
    check_features("hidden", hidden, use_native)
    check_features("weight", weight, False)
    require_same_device("weight", weight, hidden.device)
    if not hidden.is_meta and torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    _check_matrices(hidden, weight)
    inputs = LossInputs.of(hidden, len(weight), targets, class_weights, token_weights)
    flat = hidden.reshape(hidden.shape[:-1].numel(), hidden.shape[-1])
    recorded = torch.is_grad_enabled()
    needed = recorded and hidden.requires_grad, recorded and weight.requires_grad
    correct: Tensor | None
    if not use_native or is_transformed():
        loss, correct = reference.linear_cross_entropy(flat, weight, inputs, options)
    elif torch.compiler.is_compiling():
        loss, correct = _compiled(flat, weight, inputs, options.packed, needed, return_accuracy)
    elif any(needed):
        loss, correct = apply(
            _LinearCrossEntropy, flat, weight, inputs, options.packed, return_accuracy
        )
    else:
        loss, _, _, correct = _evaluate(
            flat, weight, inputs, options.packed, needed, return_accuracy
        )
    return reshape_results(loss, correct if return_accuracy else None, targets.shape)


def _check_matrices(hidden: Tensor, weight: Tensor) -> None:
    if weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise KernelError(
            "hidden and weight must have shapes (…, hidden size) and (vocab, hidden size), got"
            f" {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype:
        raise KernelError(
            f"hidden and weight must have the same dtype, got {hidden.dtype} and {weight.dtype}"
        )


def _compiled(
    hidden: Tensor, weight: Tensor, inputs: LossInputs, options: tuple[Any, ...],
    needed: tuple[bool, bool], accuracy: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return loss and correct as the compiler traces them: one call of the op."""
    in_forward = gradient_in_forward(hidden.dtype, options[-1])
    wanted = needed[0] and in_forward, needed[1] and in_forward
    op = torch.ops.nck.linear_cross_entropy.default
    loss, _, _, _, correct = op(hidden, weight, *inputs, *options, *wanted, accuracy)
    return loss, correct


def _evaluate(
    hidden: Tensor, weight: Tensor, inputs: LossInputs, options: tuple[Any, ...],
    wanted: tuple[bool, bool], accuracy: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Return loss, both gradients and correct without autograd."""
    if (
        is_plain(hidden)
        and hidden.dtype in _SUMS_IN_OWN_DTYPE
        and chunk_size(hidden, weight) >= len(hidden)
    ):
        return _one_chunk(hidden, weight, inputs, options, wanted, accuracy)
    op = torch.ops.nck.linear_cross_entropy.default
    loss, _, *gradients, correct = below_autograd(
        op, hidden, weight, *inputs, *options, *wanted, accuracy
    )
    return loss, gradients[0], gradients[1], correct


def _one_chunk(
    hidden: Tensor, weight: Tensor, inputs: LossInputs, options: tuple[Any, ...],
    wanted: tuple[bool, bool], accuracy: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Return what `_evaluate` returns, without the dispatcher and the bookkeeping of chunks."""
    shape = (len(hidden),) if options[-1] == NONE else ()
    loss = torch.empty(shape, dtype=hidden.dtype, device=hidden.device)
    correct = torch.empty_like(loss) if accuracy else None
    logits = torch.mm(hidden, weight.t())
    launch.cross_entropy(
        logits, *inputs, options, gradient=logits if wanted[0] or wanted[1] else None,
        losses=loss, correct=correct,
    )  # fmt: skip
    hidden_gradient = torch.mm(logits, weight) if wanted[0] else None
    weight_gradient = torch.mm(logits.t(), hidden) if wanted[1] else None
    return loss, hidden_gradient, weight_gradient, correct


# ───────────────────────────────────────────────────────────────────────────────────────── chunks


@dataclass(slots=True)
class _Outputs:
    """Where the chunks' losses go; None means not asked for."""

    losses: Tensor | None  # (rows,) or, with a reduction, (chunks,)
    log_sums: Tensor | None  # (rows,)
    correct: Tensor | None  # as losses

    @classmethod
    def of(cls, hidden: Tensor, chunks: list[Chunk], reduction: int, accuracy: bool) -> _Outputs:
        size = len(hidden) if reduction == NONE else len(chunks)
        dtype = accumulation_dtype(hidden.dtype)
        return cls(
            hidden.new_empty(size, dtype=dtype),
            hidden.new_empty(len(hidden), dtype=dtype),
            hidden.new_empty(size, dtype=dtype) if accuracy else None,
        )

    def part(self, chunk: Chunk, reduction: int) -> _Outputs:
        """Return the places of one chunk's results."""
        place = chunk.rows if reduction == NONE else chunk.number
        return _Outputs(
            None if self.losses is None else self.losses[place],
            None if self.log_sums is None else self.log_sums[chunk.rows],
            None if self.correct is None else self.correct[place],
        )


def _process(
    hidden: Tensor,
    weight: Tensor,
    inputs: LossInputs,
    options: tuple[Any, ...],
    chunks: list[Chunk],
    outputs: _Outputs,
    gradients: Gradients,
    upstream: Tensor | None,  # () or (rows,)
) -> None:
    """Fill outputs and gradients, chunk by chunk."""
    size = chunks[0].rows.stop if chunks else 0
    buffer = memory.empty((size, len(weight)), hidden.dtype, hidden.device)
    per_row = upstream is not None and upstream.dim() == 1
    for chunk in chunks:
        logits = buffer[: chunk.rows.stop - chunk.rows.start]
        torch.mm(hidden[chunk.rows], weight.t(), out=logits)
        out = outputs.part(chunk, options[-1])
        launch.cross_entropy(
            logits, *inputs.part(chunk.rows), options,
            upstream=upstream[chunk.rows] if upstream is not None and per_row else upstream,
            gradient=logits if gradients.wanted else None,
            losses=out.losses, log_sums=out.log_sums, correct=out.correct,
        )  # fmt: skip
        gradients.add(logits, hidden, weight, chunk)


def _as_sum(
    hidden: Tensor, weight: Tensor, inputs: LossInputs, options: tuple[Any, ...]
) -> tuple[tuple[Any, ...], Tensor | None, Tensor]:
    """Return the options of a chunk, the factor of its gradients, and Σ w · c[target].

    A chunk does not know the other rows, so a mean becomes a sum and a factor. Also checks the
    targets of all rows, on the CPU.
    """
    dtype = accumulation_dtype(hidden.dtype)
    on_cpu = hidden.device.type == "cpu"
    total = hidden.new_empty((), dtype=torch.float64 if on_cpu else dtype)
    launch.target_weight(
        inputs.targets, len(weight), hidden.dtype, inputs.class_weights, inputs.token_weights,
        options[0], total,
    )  # fmt: skip
    if options[-1] != MEAN:
        return options, None, total
    return (*options[:-1], SUM), total.reciprocal().to(dtype), total


# ───────────────────────────────────────────────────────────────────────────────── registered ops


def _forward(
    hidden: Tensor, weight: Tensor, targets: Tensor, class_weights: Tensor | None,
    token_weights: Tensor | None, ignore_index: int, label_smoothing: float, z_loss: float,
    softcap: float, reduction: int, hidden_gradient: bool, weight_gradient: bool, accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    refuse_forward_mode("linear_cross_entropy")
    inputs = LossInputs(targets, class_weights, token_weights)
    options, scale, total = _as_sum(
        hidden, weight, inputs, (ignore_index, label_smoothing, z_loss, softcap, reduction)
    )
    chunks = all_chunks(hidden, weight)
    outputs = _Outputs.of(hidden, chunks, reduction, accuracy)
    gradients = Gradients.of(hidden, weight, (hidden_gradient, weight_gradient))
    _process(hidden, weight, inputs, options, chunks, outputs, gradients, scale)
    assert outputs.losses is not None and outputs.log_sums is not None  # _Outputs.of
    loss, correct = outputs.losses, outputs.correct
    if reduction != NONE:
        loss, correct = loss.sum(), None if correct is None else correct.sum()
    if reduction == MEAN:
        loss = loss / total.to(loss.dtype)
        correct = None if correct is None else correct / (targets != ignore_index).sum()
    if correct is None:
        correct = loss.new_empty(0)
    return loss, outputs.log_sums, *gradients.results(hidden, weight), correct


def _backward(
    upstream: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor,
    class_weights: Tensor | None, token_weights: Tensor | None, ignore_index: int,
    label_smoothing: float, z_loss: float, softcap: float, reduction: int, hidden_gradient: bool,
    weight_gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    inputs = LossInputs(targets, class_weights, token_weights)
    options, scale, _ = _as_sum(
        hidden, weight, inputs, (ignore_index, label_smoothing, z_loss, softcap, reduction)
    )
    upstream = upstream.to(accumulation_dtype(hidden.dtype))
    gradients = Gradients.of(hidden, weight, (hidden_gradient, weight_gradient))
    _process(
        hidden, weight, inputs, options, all_chunks(hidden, weight), _Outputs(None, None, None),
        gradients, upstream if scale is None else upstream * scale,
    )  # fmt: skip
    return gradients.results(hidden, weight)


def _fake_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    reduction, hidden_gradient, weight_gradient, accuracy = arguments[-4:]
    dtype = accumulation_dtype(hidden.dtype)
    shape = result_shape(hidden.shape[0], reduction)
    return (
        hidden.new_empty(shape, dtype=dtype),
        hidden.new_empty(hidden.shape[0], dtype=dtype),
        hidden.new_empty(hidden.shape if hidden_gradient else (0,)),
        weight.new_empty(weight.shape if weight_gradient else (0,)),
        hidden.new_empty(shape if accuracy else (0,), dtype=dtype),
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


# ──────────────────────────────────────────────────────────────────────────────────── derivatives


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, inputs: LossInputs, options: tuple[Any, ...],
        accuracy: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.in_forward = gradient_in_forward(hidden.dtype, options[-1])
        ctx.needed = needed = ctx.needs_input_grad[:2]
        ctx.options = options
        wanted = needed if ctx.in_forward else (False, False)
        loss, *gradients, correct = _evaluate(hidden, weight, inputs, options, wanted, accuracy)
        if ctx.in_forward:
            ctx.save_for_backward(*gradients)
        else:
            ctx.save_for_backward(hidden, weight, *inputs)
        if correct is not None:
            ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_gradients_of(ctx, upstream, in_place=not graph_is_kept()), None, None, None


def _scaled(gradient: Tensor, upstream: Tensor, in_place: bool) -> Tensor:
    if not in_place:
        return gradient * upstream
    if upstream.is_cpu and upstream.item() == 1.0:
        return gradient
    return gradient.mul_(upstream)


def _gradients_of(ctx: Any, upstream: Tensor, *, in_place: bool) -> tuple[Tensor | None, ...]:
    """Return the gradients of hidden and weight; None for one that is not needed."""
    refuse_second_derivative("linear_cross_entropy")
    if ctx.in_forward:
        return tuple(
            _scaled(gradient, upstream, in_place) if needed else None
            for gradient, needed in zip(ctx.saved_tensors, ctx.needed, strict=True)
        )
    op = torch.ops.nck.linear_cross_entropy_backward.default
    gradients = op(upstream, *ctx.saved_tensors, *ctx.options, *ctx.needed)
    return tuple(
        gradient if needed else None for gradient, needed in zip(gradients, ctx.needed, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, _, _, _, reduction, _, _, _ = inputs
    ctx.options = inputs[5:10]
    ctx.needed = ctx.needs_input_grad[:2]
    ctx.in_forward = gradient_in_forward(tensors[0].dtype, reduction)
    ctx.save_for_backward(*(output[2:4] if ctx.in_forward else tensors))


def _registered_backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients_of(ctx, upstream, in_place=False), *(None,) * 11


differentiate("linear_cross_entropy", _registered_backward, _setup)

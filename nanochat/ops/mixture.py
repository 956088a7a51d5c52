"""Linear layer and the loss of the mixture with counted n-grams, without all logits in memory.

The head has one output more than there are tokens, the last, to which `share_offset` is added. Its
share of the softmax goes to the counts, as to the pointer of Merity et al. 2017 (Pointer Sentinel
Mixture Models):

    p(token) = softmax(logits)[token] + softmax(logits)[last] · p_counts(token)

Training lowers −log p and, by a factor, the loss of the tokens' outputs alone. The rows are taken
in chunks, as in `linear_cross_entropy`. `reference.mixed_cross_entropy` is the same in plain torch,
and scalar/functions.py has it one number at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanochat.errors import KernelError
from nanochat.ops import launch, memory, reference
from nanochat.ops._linear_cross_entropy import _check_matrices, _scaled
from nanochat.ops.arguments import require_same_device
from nanochat.ops.chunks import Gradients, all_chunks, chunk_size
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
from nanochat.ops.loss import LossInputs, accumulation_dtype, check_features

__all__ = ["linear_mixed_cross_entropy", "linear_mixture_parts"]

define(
    "linear_mixed_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, Tensor by_counts,"
    " float network_weight, float softcap, float share_offset, bool hidden_gradient,"
    " bool weight_gradient) -> (Tensor mixed, Tensor objective, Tensor hidden_gradient,"
    " Tensor weight_gradient)"
)


class _Options(NamedTuple):
    network_weight: float
    softcap: float
    share_offset: float


def linear_mixed_cross_entropy(
    hidden: Tensor,  # (rows, hidden size) float32, float64 (CPU), bfloat16 or float16
    weight: Tensor,  # (vocab + 1, hidden size) same dtype
    targets: Tensor,  # (rows,) int64 in [0, vocab); −1 counts in no loss
    by_counts: Tensor,  # (rows,) float32, probability of the targets by the counts
    *,
    network_weight: float,
    softcap: float = 0.0,
    share_offset: float = 0.0,
    use_native: bool = True,
) -> tuple[Tensor, Tensor]:  # () each, float32, or float64 for float64 inputs
    """Return the summed −log p(target) of the mixture, and what training lowers.

    The second is the first plus network_weight times the loss of the tokens' outputs alone. Only it
    is differentiable. `use_native=False` computes both in plain torch, with all logits in memory.
    """
    _check(hidden, weight, targets, by_counts, use_native)
    options = _Options(network_weight, softcap, share_offset)
    if not use_native or is_transformed():
        mixed, network = reference.mixed_cross_entropy(
            reference.head_logits(hidden, weight, softcap=softcap), targets, by_counts, share_offset
        )
        mixed = mixed.sum()
        return mixed.detach(), mixed + network_weight * network.sum()
    recorded = torch.is_grad_enabled()
    wanted = recorded and hidden.requires_grad, recorded and weight.requires_grad
    if torch.compiler.is_compiling():
        op = torch.ops.nck.linear_mixed_cross_entropy.default
        mixed, objective, *_ = op(hidden, weight, targets, by_counts, *options, *wanted)
        return mixed.detach(), objective
    if any(wanted):
        mixed, objective = apply(_LinearMixed, hidden, weight, targets, by_counts, options)
    else:
        mixed, objective, *_ = _evaluate(hidden, weight, targets, by_counts, options, wanted)
    return mixed, objective


@torch.no_grad()
def linear_mixture_parts(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float = 0.0
) -> Tensor:  # fmt: skip
    """Return the loss of the tokens' outputs alone and the last output less their log sum,
    (rows, 2) float64, without derivative. Rows without a target have the loss of token 0."""
    ones = torch.ones_like(targets, dtype=torch.float32)
    _check(hidden, weight, targets, ones, False)
    result = hidden.new_empty((len(hidden), 2), dtype=torch.float64)
    buffer = hidden.new_empty((chunk_size(hidden, weight), len(weight)))
    for chunk in all_chunks(hidden, weight):
        logits = buffer[: chunk.rows.stop - chunk.rows.start]
        torch.mm(hidden[chunk.rows], weight.t(), out=logits)
        z = reference.capped(logits, softcap)
        parts = reference.mixture_parts(z, targets[chunk.rows], ones[chunk.rows])
        result[chunk.rows, 0], result[chunk.rows, 1] = parts.network, parts.gate
    return result


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, by_counts: Tensor, use_native: bool
) -> None:
    check_features("hidden", hidden, use_native)
    check_features("weight", weight, False)
    require_same_device("weight", weight, hidden.device)
    _check_matrices(hidden, weight)
    if len(weight) < 2:
        raise KernelError(
            f"weight must have a row per token and one for the counts, at least 2, got"
            f" {len(weight)}"
        )
    if hidden.dim() != 2:
        raise KernelError(f"hidden must have shape (rows, hidden size), got {tuple(hidden.shape)}")
    LossInputs.of(hidden, len(weight) - 1, targets, None, None)
    if by_counts.dtype != torch.float32 or by_counts.shape != targets.shape:
        raise KernelError(
            f"by_counts must be float32 of shape {tuple(targets.shape)}, got"
            f" {by_counts.dtype} of shape {tuple(by_counts.shape)}"
        )
    require_same_device("by_counts", by_counts, hidden.device)


def _evaluate(
    hidden: Tensor, weight: Tensor, targets: Tensor, by_counts: Tensor, options: _Options,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return mixed loss, objective and both gradients without autograd."""
    if not is_plain(hidden):
        op = torch.ops.nck.linear_mixed_cross_entropy.default
        results = below_autograd(op, hidden, weight, targets, by_counts, *options, *wanted)
        return tuple(results)
    return _forward(hidden, weight, targets, by_counts, *options, *wanted)


def _forward(
    hidden: Tensor, weight: Tensor, targets: Tensor, by_counts: Tensor, network_weight: float,
    softcap: float, share_offset: float, hidden_gradient: bool, weight_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    refuse_forward_mode("linear_mixed_cross_entropy")
    targets, by_counts = targets.contiguous(), by_counts.contiguous()
    options = _Options(network_weight, softcap, share_offset)
    chunks = all_chunks(hidden, weight)
    gradients = Gradients.of(hidden, weight, (hidden_gradient, weight_gradient))
    buffer = memory.empty((chunk_size(hidden, weight), len(weight)), hidden.dtype, hidden.device)
    losses = hidden.new_empty((2, len(chunks)), dtype=accumulation_dtype(hidden.dtype))
    for chunk in chunks:
        logits = buffer[: chunk.rows.stop - chunk.rows.start]
        torch.mm(hidden[chunk.rows], weight.t(), out=logits)
        _fill(
            losses[:, chunk.number : chunk.number + 1], logits, targets[chunk.rows],
            by_counts[chunk.rows], options, gradient=gradients.wanted,
        )  # fmt: skip
        gradients.add(logits, hidden, weight, chunk)
    mixed, network = losses[:, 0] if len(chunks) == 1 else losses.sum(dim=1)
    # A registered op must not return two views of one tensor.
    objective = torch.add(mixed, network, alpha=network_weight)
    return mixed.clone(), objective, *gradients.results(hidden, weight)


def _fill(
    losses: Tensor,  # (2, 1): of the mixture, of the network
    logits: Tensor,  # (rows, vocab + 1), overwritten by their gradient if it is asked for
    targets: Tensor, by_counts: Tensor, options: _Options, *, gradient: bool,
) -> None:  # fmt: skip
    if logits.is_cpu:
        launch.mixed_cross_entropy(
            logits, targets, by_counts, *options, gradient=logits if gradient else None,
            mixed=losses[0], network=losses[1],
        )  # fmt: skip
        return
    losses.copy_(_by_torch(logits, targets, by_counts, options, gradient).sum(1, keepdim=True))


def _by_torch(
    logits: Tensor, targets: Tensor, by_counts: Tensor, options: _Options, gradient: bool
) -> Tensor:  # (2, rows)
    """Return both losses by torch's ops, for devices without a kernel; overwrite the logits."""
    z = reference.capped(logits, options.softcap)
    parts = reference.mixture_parts(z, targets, by_counts, options.share_offset)
    if gradient:
        w = options.network_weight
        counted = (targets >= 0).to(z.dtype)
        gate, of_counts = parts.gate.sigmoid(), parts.more.sigmoid()
        result = torch.empty_like(z)
        factor = ((1 - gate + w) * counted).unsqueeze(1)
        result[:, :-1] = (z[:, :-1] - parts.log_sum.unsqueeze(1)).exp() * factor
        result[:, -1] = (gate - of_counts) * counted
        at_target = ((of_counts - 1 - w) * counted).unsqueeze(1)
        result.scatter_add_(1, targets.clamp_min(0).unsqueeze(1), at_target)
        if options.softcap:
            result *= 1 - (z / options.softcap).square()
        logits.copy_(result)
    return torch.stack(parts.losses(targets))


def _fake(hidden: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    hidden_gradient, weight_gradient = arguments[-2:]
    dtype = accumulation_dtype(hidden.dtype)
    return (
        hidden.new_empty((), dtype=dtype),
        hidden.new_empty((), dtype=dtype),
        hidden.new_empty(hidden.shape if hidden_gradient else (0,)),
        weight.new_empty(weight.shape if weight_gradient else (0,)),
    )


implement("linear_mixed_cross_entropy", _forward, _fake)


class _LinearMixed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, by_counts: Tensor,
        options: _Options,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.needed = needed = ctx.needs_input_grad[:2]
        mixed, objective, *gradients = _evaluate(
            hidden, weight, targets, by_counts, options, needed
        )
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(mixed)
        return mixed, objective

    @staticmethod
    def backward(ctx: Any, _: Tensor, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients_of(ctx, upstream, in_place=not graph_is_kept()), None, None, None


def _gradients_of(ctx: Any, upstream: Tensor, *, in_place: bool) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("linear_mixed_cross_entropy")
    return tuple(
        _scaled(gradient, upstream, in_place) if needed else None
        for gradient, needed in zip(ctx.saved_tensors, ctx.needed, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.needed = ctx.needs_input_grad[:2]
    ctx.save_for_backward(*output[2:])


def _registered_backward(
    ctx: Any, _: Tensor, upstream: Tensor, *unused: Tensor
) -> tuple[Tensor | None, ...]:
    return *_gradients_of(ctx, upstream, in_place=False), *(None,) * 7


differentiate("linear_mixed_cross_entropy", _registered_backward, _setup)

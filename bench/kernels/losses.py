"""The losses that the kernel benchmark compares: ours, and torch's as its users write them.

Ops and torch's functions are called in the same way on CPU and CUDA. The call of the ABI is for the
CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.problem import Contestant, Entry, Missing, Problem, address, backward
from nanochat import native

__all__ = [
    "InPlace", "cross_entropy_abi", "cross_entropy_ops", "cross_entropy_peers", "linear_ops",
    "linear_peers",
]  # fmt: skip

IGNORE = -1
Loss = Callable[..., Tensor]


class _Produced(torch.autograd.Function):
    """Returns the memory of `source` as a layer's output, without work in either direction."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, source: Tensor) -> Tensor:
        return torch.empty(0, dtype=source.dtype, device=source.device).set_(source)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class InPlace:
    """Runs a loss whose gradient overwrites the logits, which are restored before each run."""

    def __init__(self, problem: Problem, loss: Callable[[Tensor], Tensor]) -> None:
        self.problem, self.loss = problem, loss
        self.anchor = torch.zeros((), device=problem.scratch.device, requires_grad=True)
        self.logits = self.anchor

    def prepare(self) -> None:
        assert self.problem.logits is not None
        self.problem.scratch.copy_(self.problem.logits.detach())
        self.logits = _Produced.apply(self.anchor, self.problem.scratch)

    def run(self) -> Tensor:
        return backward(partial(self.loss, self.logits))


def cross_entropy_ops(problem: Problem) -> Iterable[Entry]:
    name = "nanochat op"
    try:
        from nanochat.ops import cross_entropy
    except ImportError as error:
        yield Missing(name, str(error))
        return
    logits, targets = problem.logits, problem.targets
    yield Contestant(name, "ours", lambda: backward(lambda: cross_entropy(logits, targets)))
    in_place = InPlace(problem, lambda logits: cross_entropy(logits, targets, inplace=True))
    yield Contestant(f"{name}, in place", "ours", in_place.run, in_place.prepare)


def _abi_call(problem: Problem, logits: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
    """Return a call of nck_cross_entropy alone, with its arguments prepared."""
    library, null = native.cpu(), native.ffi.NULL
    rows, vocab = logits.shape
    loss = native.ffi.new("nck_loss *", {"ignore_index": IGNORE, "reduction": 1})
    value = torch.zeros(())
    arguments = (
        address(logits), rows, vocab, vocab, native.DTYPES[problem.case.dtype],
        address(problem.targets, "int64_t *"), null, null, loss, null, 0, address(gradient), vocab,
        address(value), null, null, torch.get_num_threads(),
    )  # fmt: skip

    def run() -> Tensor:
        native.check(library.nck_cross_entropy(*arguments), library)
        return value

    run.memory = (problem, logits, gradient)  # type: ignore[attr-defined]  # keeps it alive
    return run


def cross_entropy_abi(problem: Problem) -> Iterable[Entry]:
    assert problem.logits is not None
    logits = problem.logits.detach()
    buffer = native.take_buffer(problem.case.matrix_bytes)
    gradient = torch.frombuffer(buffer, dtype=logits.dtype).view_as(logits)
    yield Contestant("nanochat ABI", "ours", _abi_call(problem, logits, gradient))
    scratch = problem.scratch
    call = _abi_call(problem, scratch, scratch)
    yield Contestant("nanochat ABI, in place", "ours", call, lambda: scratch.copy_(logits))


class _SoftmaxByHand(torch.autograd.Function):
    """A user's loss with few passes: one softmax and two corrections in place.

    The loss is inf if a probability underflows.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, out: Tensor | None) -> Tensor:
        gradient = torch.softmax(logits, 1, out=out)
        column = targets[:, None]
        loss = -gradient.gather(1, column).log().mean()
        gradient.scatter_add_(1, column, torch.full_like(column, -1, dtype=gradient.dtype))
        ctx.gradient = gradient
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(upstream / len(gradient)), None, None


class _Bare:
    """Runs the two halves of an autograd.Function without autograd."""

    gradient: Tensor | None = None

    def run(self, function: Any, one: Tensor, *arguments: Any) -> Tensor:
        loss: Tensor = function.forward(self, *arguments)
        function.backward(self, one)
        return loss


def _plain(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets)


def cross_entropy_peers(problem: Problem, compiles: bool) -> Iterable[Entry]:
    logits, targets = problem.logits, problem.targets
    losses: dict[str, Loss] = {"F.cross_entropy": _plain}
    if compiles:
        losses["torch.compile"] = torch.compile(_plain, dynamic=False)
    for name, loss in losses.items():
        yield Contestant(name, "peer", partial(backward, partial(loss, logits, targets)))
    by_hand = partial(_SoftmaxByHand.apply, logits, targets, None)
    yield Contestant("softmax by hand", "peer", partial(backward, by_hand))
    assert logits is not None
    one = torch.ones((), dtype=logits.dtype, device=logits.device)
    arguments = (_SoftmaxByHand, one, logits.detach(), targets, problem.scratch)
    yield Contestant("softmax by hand, bare", "bare peer", partial(_Bare().run, *arguments))


def linear_ops(problem: Problem) -> Iterable[Entry]:
    name = "nanochat op"
    try:
        from nanochat.ops import linear_cross_entropy
    except ImportError as error:
        yield Missing(name, str(error))
        return
    loss = partial(linear_cross_entropy, problem.hidden, problem.weight, problem.targets)
    yield Contestant(name, "ours", partial(backward, loss))


def _linear(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets)


def _linear_float(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def linear_peers(problem: Problem, compiles: bool) -> Iterable[Entry]:
    losses: dict[str, Loss] = {"F.linear, F.cross_entropy": _linear}
    if problem.case.dtype != "float32":
        losses["F.linear, float, F.cross_entropy"] = _linear_float
    if hasattr(F, "linear_cross_entropy"):
        losses["F.linear_cross_entropy"] = F.linear_cross_entropy
        # The fastest of 128 … 1024 rows and its three policies. Its default takes chunks of a few
        # rows and 18 times as long.
        options = torch.nn.LinearCrossEntropyOptions(
            batch_chunk_size=512, chunking_method=None, acc_policy="compact"
        )
        chunked = partial(F.linear_cross_entropy, options=options)
        losses["F.linear_cross_entropy in chunks"] = chunked
    if compiles:
        losses["torch.compile"] = torch.compile(_linear, dynamic=False)
    for name, loss in losses.items():
        run = partial(backward, partial(loss, problem.hidden, problem.weight, problem.targets))
        yield Contestant(name, "peer", run)

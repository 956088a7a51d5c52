"""The losses that bench/kernels/__main__.py compares: ours, and torch's as its users write them.

The ops and torch's functions are called in the same way on CPU and CUDA; the ABI's call is the
CPU's.
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
    """Gives the memory of `source` as if a layer had just made it; no work in either direction."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, source: Tensor) -> Tensor:
        return torch.empty(0, dtype=source.dtype, device=source.device).set_(source)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class InPlace:
    """Runs a loss whose gradient takes the place of the logits, which are put back before."""

    def __init__(self, given: Problem, loss: Callable[[Tensor], Tensor]) -> None:
        self.given, self.loss = given, loss
        self.anchor = torch.zeros((), device=given.scratch.device, requires_grad=True)
        self.logits = self.anchor

    def prepare(self) -> None:
        assert self.given.logits is not None
        self.given.scratch.copy_(self.given.logits.detach())
        self.logits = _Produced.apply(self.anchor, self.given.scratch)

    def run(self) -> Tensor:
        return backward(partial(self.loss, self.logits))


def cross_entropy_ops(given: Problem) -> Iterable[Entry]:
    name = "nanochat op"
    try:
        from nanochat.ops import cross_entropy
    except ImportError as error:
        yield Missing(name, str(error))
        return
    logits, targets = given.logits, given.targets
    yield Contestant(name, "ours", lambda: backward(lambda: cross_entropy(logits, targets)))
    in_place = InPlace(given, lambda made: cross_entropy(made, targets, inplace=True))
    yield Contestant(f"{name}, in place", "ours", in_place.run, in_place.prepare)


def _abi_call(given: Problem, logits: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
    """nck_cross_entropy alone, its arguments ready."""
    library, null = native.cpu(), native.ffi.NULL
    rows, vocab = logits.shape
    loss = native.ffi.new("nck_loss *", {"ignore_index": IGNORE, "reduction": 1})
    value = torch.zeros(())
    arguments = (
        address(logits), rows, vocab, vocab, native.DTYPES[given.case.dtype],
        address(given.targets, "int64_t *"), null, null, loss, null, 0, address(gradient), vocab,
        address(value), null, null, torch.get_num_threads(),
    )  # fmt: skip

    def run() -> Tensor:
        native.check(library.nck_cross_entropy(*arguments), library)
        return value

    run.memory = (given, logits, gradient)  # type: ignore[attr-defined]  # behind the addresses
    return run


def cross_entropy_abi(given: Problem) -> Iterable[Entry]:
    assert given.logits is not None
    logits = given.logits.detach()
    buffer = native.take_buffer(given.case.matrix_bytes)
    gradient = torch.frombuffer(buffer, dtype=logits.dtype).view_as(logits)
    yield Contestant("nanochat ABI", "ours", _abi_call(given, logits, gradient))
    scratch = given.scratch
    call = _abi_call(given, scratch, scratch)
    yield Contestant("nanochat ABI, in place", "ours", call, lambda: scratch.copy_(logits))


class _SoftmaxByHand(torch.autograd.Function):
    """What a user may write who wants few passes: one softmax and two corrections in place. Its
    loss is inf where a probability underflows."""

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
    """An autograd.Function without autograd: what its two halves alone cost."""

    gradient: Tensor | None = None

    def run(self, function: Any, one: Tensor, *arguments: Any) -> Tensor:
        loss: Tensor = function.forward(self, *arguments)
        function.backward(self, one)
        return loss


def _plain(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets)


def cross_entropy_peers(given: Problem, compiles: bool) -> Iterable[Entry]:
    logits, targets = given.logits, given.targets
    losses: dict[str, Loss] = {"F.cross_entropy": _plain}
    if compiles:
        losses["torch.compile"] = torch.compile(_plain, dynamic=False)
    for name, loss in losses.items():
        yield Contestant(name, "peer", partial(backward, partial(loss, logits, targets)))
    by_hand = partial(_SoftmaxByHand.apply, logits, targets, None)
    yield Contestant("softmax by hand", "peer", partial(backward, by_hand))
    assert logits is not None
    one = torch.ones((), dtype=logits.dtype, device=logits.device)
    arguments = (_SoftmaxByHand, one, logits.detach(), targets, given.scratch)
    yield Contestant("softmax by hand, bare", "bare peer", partial(_Bare().run, *arguments))


def linear_ops(given: Problem) -> Iterable[Entry]:
    name = "nanochat op"
    try:
        from nanochat.ops import linear_cross_entropy
    except ImportError as error:
        yield Missing(name, str(error))
        return
    loss = partial(linear_cross_entropy, given.hidden, given.weight, given.targets)
    yield Contestant(name, "ours", partial(backward, loss))


def _linear(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets)


def _linear_widened(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def linear_peers(given: Problem, compiles: bool) -> Iterable[Entry]:
    losses: dict[str, Loss] = {"F.linear, F.cross_entropy": _linear}
    if given.case.dtype != "float32":
        losses["F.linear, float, F.cross_entropy"] = _linear_widened
    if hasattr(F, "linear_cross_entropy"):
        losses["F.linear_cross_entropy"] = F.linear_cross_entropy
        # Of 128 … 1024 rows and its three policies the fastest; what it chooses by itself takes
        # chunks of a few rows and 18 times as long.
        options = torch.nn.LinearCrossEntropyOptions(
            batch_chunk_size=512, chunking_method=None, acc_policy="compact"
        )
        chunked = partial(F.linear_cross_entropy, options=options)
        losses["F.linear_cross_entropy in chunks"] = chunked
    if compiles:
        losses["torch.compile"] = torch.compile(_linear, dynamic=False)
    for name, loss in losses.items():
        run = partial(backward, partial(loss, given.hidden, given.weight, given.targets))
        yield Contestant(name, "peer", run)

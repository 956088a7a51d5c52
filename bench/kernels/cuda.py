"""The CUDA side of the kernel benchmark: its clock, our library's calls, and peers on GPUs.

Liger and quack take part if they are installed. Liger overwrites the logits with the gradient, so
it gets a copy that is restored before each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.kernels.losses import IGNORE, InPlace
from bench.kernels.problem import Contestant, Entry, Missing, Problem, address, backward
from bench.kernels.sampling import STATE
from nanochat import native
from nanochat.system.environment import version

__all__ = ["ABI", "Timer", "peers", "versions"]

FLUSH_BYTES = 256 << 20  # several times the second-level cache


class Timer:
    """CUDA events around a run, after the second-level cache was filled with other data."""

    def __init__(self) -> None:
        self.other = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def timed(self, run: Callable[[], Any]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        # The host queues the run during this fill, which hides the launch time.
        self.other.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def versions() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "triton": version("triton"),
        "liger_kernel": version("liger-kernel"),
        "quack": version("quack-kernels"),
    }


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────


def _stream() -> Any:
    return native.ffi.cast("void *", torch.cuda.current_stream().cuda_stream)


def _workspace(problem: Problem) -> Tensor:
    case = problem.case
    size = native.cuda().nck_cuda_workspace(case.rows, case.vocab, native.DTYPES[case.dtype])
    return torch.empty(max(size, 16), dtype=torch.int8, device="cuda")


def _cross_entropy_call(problem: Problem, logits: Tensor, gradient: Tensor) -> Callable[[], Tensor]:
    library, null = native.cuda(), native.ffi.NULL
    rows, vocab = logits.shape
    loss = native.ffi.new("nck_loss *", {"ignore_index": IGNORE, "reduction": 1})
    value, workspace = torch.zeros((), device="cuda"), _workspace(problem)
    arguments = (
        address(logits), rows, vocab, vocab, native.DTYPES[problem.case.dtype],
        address(problem.targets, "int64_t *"), null, null, loss, null, 0, address(gradient), vocab,
        address(value), null, null, address(workspace),
    )  # fmt: skip

    def run() -> Tensor:
        native.check(library.nck_cuda_cross_entropy(*arguments, _stream()), library)
        return value

    run.memory = (problem, logits, gradient, workspace)  # type: ignore[attr-defined]  # keeps it alive
    return run


def _missing_library() -> Missing | None:
    try:
        native.cuda()
    except Exception as error:
        return Missing("nanochat ABI", str(error))
    return None


def _cross_entropy(problem: Problem) -> Iterable[Entry]:
    if missing := _missing_library():
        yield missing
        return
    assert problem.logits is not None
    logits, scratch = problem.logits.detach(), problem.scratch
    fresh = _cross_entropy_call(problem, logits, torch.empty_like(logits))
    yield Contestant("nanochat ABI", "ours", fresh)
    in_place = _cross_entropy_call(problem, scratch, scratch)
    yield Contestant("nanochat ABI, in place", "ours", in_place, lambda: scratch.copy_(logits))


def _sample(problem: Problem) -> Iterable[Entry]:
    if missing := _missing_library():
        yield missing
        return
    library, null, case = native.cuda(), native.ffi.NULL, problem.case
    tokens = torch.empty(case.rows, dtype=torch.int64, device="cuda")
    state, workspace = torch.tensor(STATE, device="cuda"), _workspace(problem)
    arguments = (
        address(problem.logits), case.rows, case.vocab, case.vocab, native.DTYPES[case.dtype], null,
        address(state, "int64_t *"), null, case.temperature, case.top_k, case.top_p,
        address(tokens, "int64_t *"), address(workspace),
    )  # fmt: skip

    def run() -> Tensor:
        native.check(library.nck_cuda_sample(*arguments, _stream()), library)
        return tokens

    run.memory = (problem, state, workspace)  # type: ignore[attr-defined]  # keeps it alive
    yield Contestant("nanochat ABI", "ours", run)


ABI = {"cross_entropy": _cross_entropy, "sample": _sample}


# ── peers ────────────────────────────────────────────────────────────────────────────────────────


def _liger(logits: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    result = LigerCrossEntropyFunction.apply(logits, targets, None, -100)
    loss: Tensor = result[0] if isinstance(result, tuple) else result
    return loss


def _liger_linear(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    result = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets)
    loss: Tensor = result[0] if isinstance(result, tuple) else result
    return loss


def _quack(logits: Tensor, targets: Tensor, *, inplace_backward: bool) -> Tensor:
    from quack.cross_entropy import cross_entropy

    loss: Tensor = cross_entropy(
        logits, targets, reduction="mean", inplace_backward=inplace_backward
    )
    return loss


def peers(problem: Problem) -> Iterable[Entry]:
    kind, targets = problem.case.kind, problem.targets
    if kind == "cross_entropy" and find_spec("liger_kernel"):
        in_place = InPlace(problem, partial(_liger, targets=targets))
        yield Contestant("Liger", "peer", in_place.run, in_place.prepare)
    if kind == "linear_cross_entropy" and find_spec("liger_kernel"):
        loss = partial(_liger_linear, problem.hidden, problem.weight, targets)
        yield Contestant("Liger", "peer", partial(backward, loss))
    if kind == "cross_entropy" and find_spec("quack"):
        fresh = partial(_quack, problem.logits, targets, inplace_backward=False)
        yield Contestant("quack", "peer", partial(backward, fresh))
        in_place = InPlace(problem, partial(_quack, targets=targets, inplace_backward=True))
        yield Contestant("quack, in place", "peer", in_place.run, in_place.prepare)

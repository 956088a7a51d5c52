"""The machine's limits: the contestants of role "limit", on CPU and CUDA."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from bench.kernels.cases import PRODUCT_SIZE, Case
from bench.kernels.problem import DTYPES, Contestant, Problem

__all__ = ["limits"]


def _copy_by_memmove(to: Tensor, source: Tensor) -> Callable[[], None]:
    """Return a copy by the C library's memmove, with equal shares of the bytes per thread."""
    threads, size = torch.get_num_threads(), source.numel() * source.element_size()
    pool = ThreadPoolExecutor(threads)
    bounds = [size * i // threads for i in range(threads + 1)]

    def part(i: int) -> None:
        first, last = bounds[i], bounds[i + 1]
        ctypes.memmove(to.data_ptr() + first, source.data_ptr() + first, last - first)

    def run() -> None:
        for _ in pool.map(part, range(threads)):
            pass

    return run


def _copies(problem: Problem) -> Iterable[Contestant]:
    assert problem.logits is not None
    source, to = problem.logits.detach(), problem.scratch
    yield Contestant("copy: torch copy_", "limit", lambda: to.copy_(source))
    if source.device.type == "cpu":
        yield Contestant("copy: memmove", "limit", _copy_by_memmove(to, source))


def _reads(matrix: Tensor) -> Iterable[Contestant]:
    flat = matrix.flatten()
    if flat.dtype == torch.bfloat16 and len(flat) % 2 == 0:
        flat = flat.view(torch.float32)  # avoids a conversion, which is not part of reading
    yield Contestant("read: torch sum", "limit", flat.sum)
    yield Contestant("read: torch amax", "limit", flat.amax)


def _square_product(case: Case, device: str) -> Contestant:
    size = PRODUCT_SIZE[device]
    a = torch.full((size, size), 0.5, dtype=DTYPES[case.dtype], device=device)
    product = torch.empty_like(a)
    return Contestant(f"product: {size}³", "limit", lambda: torch.mm(a, a, out=product))


def _products(problem: Problem) -> Contestant:
    """Return the three products of a linear case alone, into preallocated memory."""
    assert problem.hidden is not None
    assert problem.weight is not None
    hidden, weight = problem.hidden.detach(), problem.weight.detach()
    gradient = torch.mm(hidden, weight.T)
    logits = torch.empty_like(gradient)
    of_hidden, of_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> None:
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(gradient, weight, out=of_hidden)
        torch.mm(gradient.T, hidden, out=of_weight)

    return Contestant("products alone", "limit", run)


def limits(problem: Problem) -> Iterable[Contestant]:
    if problem.logits is None:
        yield _products(problem)
        return
    yield from _copies(problem)
    yield from _reads(problem.logits.detach())
    if problem.case.kind == "machine":
        yield _square_product(problem.case, problem.logits.device.type)

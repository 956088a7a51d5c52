"""Sample one token per row of logits, on the CPU and on CUDA.

The tokens are bit-identical to those of nanochat/sampling/draw.py. Registered with torch as
nck::sample, whose random bits come from a Philox state, and nck::sample_with_random, whose random
bits are an argument. This file owns what torch needs around the kernels; csrc/kernels/abi.h has
their rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat import native, philox
from nanochat.errors import ConfigError, KernelError
from nanochat.ops.derivatives import is_plain
from nanochat.ops.launch import DTYPES
from nanochat.ops.library import LIBRARY, define
from nanochat.philox import Stream
from nanochat.sampling import draw as specification

__all__ = ["ONE_THREAD_LOGITS", "refuse_rows_without_token", "sample", "sample_with_random"]

# Up to this many logits one thread is enough: a second one would wait longer than it works.
ONE_THREAD_LOGITS = 32768

_INT64 = (torch.int64, torch.uint64)


def sample(
    logits: Tensor,  # (rows, vocab) float; copied unless the last dimension is contiguous
    state: Tensor,  # (3,) int64: seed, item of the first row, index
    *,
    temperature: float = 1.0,
    top_k: int = 0,  # 0 means all
    top_p: float = 1.0,
    items: Tensor | None = None,  # (rows,) int64; None means item of the first row + row
    use_native: bool = True,
) -> Tensor:  # (rows,) int64
    """Return one token per row, drawn from softmax(logits / temperature).

    The random numbers are a pure function of the state, so the same logits and state give the same
    tokens on every machine, device and number of threads. Nothing advances the state: add 1 to its
    index for the next token.

    Args:
        logits: Unnormalized scores of shape (rows, vocab), in float32, float64 (CPU only), bfloat16
            or float16. vocab is at most 1,048,576.
        state: The tensor [seed, item, index] of shape (3,), int64, contiguous, on the device of
            the logits. seed is in [0, 2³²). item is the number of the first row's sequence; the
            rows after it have the following numbers. index is the position of the token in the
            sequence, at least 0.
        temperature: Divisor of the logits, finite and at least 0. 0 takes the largest logit, of
            equal ones the first.
        top_k: Keep only the top_k largest logits of each row. 0 keeps all.
        top_p: Then keep only the most probable tokens whose probabilities first reach top_p, in
            (0, 1]. 1 keeps all.
        items: The number of each row's sequence, shape (rows,), int64, in place of item + row.
        use_native: False computes the same tokens in NumPy.

    Returns:
        Token ids of shape (rows,), int64, without a gradient.

    Raises:
        KernelError: An argument has the wrong shape, dtype, device or range. On the CPU also: a row
            holds NaN or only −inf; the message names the first such row. On CUDA such rows have
            token −1 (NaN) or −2 (only −inf).

    Note:
        Inverse-CDF sampling with one 64-bit word per row from Philox4x32-10 (Salmon et al.,
        "Parallel Random Numbers: As Easy as 1, 2, 3", 2011), a function of (seed, item, index).
        Nucleus sampling (top_p): Holtzman et al., "The Curious Case of Neural Text Degeneration",
        2020.

    Example:
        >>> import torch
        >>> from nanochat.ops import sample
        >>> logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(6, 1)
        >>> state = torch.tensor([42, 0, 0])  # seed, item, index
        >>> sample(logits, state)
        tensor([3, 2, 3, 3, 3, 3])
        >>> state[2] += 1  # the next token of each row
        >>> sample(logits, state, temperature=2.0)
        tensor([3, 0, 3, 1, 1, 1])
    """
    if use_native:
        if _skips_dispatcher(logits):
            return _sample_cpu(logits, state, items, temperature, top_k, top_p)
        tokens: Tensor = _sample(logits, state, items, temperature, top_k, top_p)
        return tokens
    seed, first, index = state.tolist()
    row_items = range(first, first + len(logits)) if items is None else items.tolist()
    words = [philox.random_u64(seed, Stream.SAMPLING, item, 1, index)[0] for item in row_items]
    return _reference(logits, np.array(words, dtype=np.uint64), temperature, top_k, top_p)


def sample_with_random(
    logits: Tensor,  # (rows, vocab) float; copied unless the last dimension is contiguous
    random: Tensor,  # (rows,) 64 random bits, uint64 or int64
    *,
    temperature: float = 1.0,
    top_k: int = 0,  # 0 means all
    top_p: float = 1.0,
    use_native: bool = True,
) -> Tensor:  # (rows,) int64
    """Return what `sample` returns, with the caller's random bits."""
    if use_native:
        if _skips_dispatcher(logits):
            return _sample_with_random_cpu(logits, random, temperature, top_k, top_p)
        tokens: Tensor = _sample_with_random(logits, random, temperature, top_k, top_p)
        return tokens
    return _reference(logits, random.cpu().numpy().view(np.uint64), temperature, top_k, top_p)


def _skips_dispatcher(logits: Tensor) -> bool:
    """Return whether the call may skip the dispatcher, which takes longer than a small kernel."""
    return not torch.compiler.is_compiling() and logits.is_cpu and is_plain(logits)


def refuse_rows_without_token(tokens: Tensor) -> None:
    """Raise KernelError for the first row that a CUDA kernel could only mark with −1 or −2."""
    bad = (tokens < 0).nonzero()
    if len(bad):
        row = int(bad[0])
        raise KernelError(
            f"logits of row {row} " + ("hold nan" if int(tokens[row]) == -1 else "are all -inf")
        )


def _reference(
    logits: Tensor, random: np.ndarray[Any, Any], temperature: float, top_k: int, top_p: float
) -> Tensor:
    if top_k < 0:
        raise KernelError(f"top_k must be at least 0, got {top_k}")
    if not 0 < top_p <= 1:
        raise KernelError(f"top_p must be above 0 and at most 1, got {top_p:g}")
    # NumPy has no bfloat16; float32 holds it exactly.
    wide = logits.detach().cpu()
    rows = wide.numpy() if wide.dtype == torch.float64 else wide.float().numpy()
    try:
        tokens = specification.draw(rows, random, temperature=temperature, top_k=top_k, top_p=top_p)
    except (ConfigError, ValueError) as error:
        raise KernelError(str(error)) from None
    return torch.from_numpy(tokens).to(logits.device)


# ─────────────────────────────────────────────────────────────────────────────────── registration

_OPTIONS = "float temperature, int top_k, float top_p"
define(f"sample(Tensor logits, Tensor state, Tensor? items, {_OPTIONS}) -> Tensor")
define(f"sample_with_random(Tensor logits, Tensor random, {_OPTIONS}) -> Tensor")
_sample = torch.ops.nck.sample.default
_sample_with_random = torch.ops.nck.sample_with_random.default


def _matrix(logits: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int]]:
    """Return logits with a contiguous last dimension, and the first arguments of every kernel.

    These are address, rows, vocab, row stride and dtype code. Makes as few calls of torch as
    possible: they are most of the time of a small call.
    """
    dtype = DTYPES.get(logits.dtype)
    if dtype is None:
        raise KernelError(f"logits must be one of {', '.join(native.DTYPES)}, got {logits.dtype}")
    shape = logits.shape
    if len(shape) != 2:
        raise KernelError(f"logits must be (rows, vocab), got {tuple(shape)}")
    rows, vocab = shape
    row_stride, stride = logits.stride()
    if stride != 1 or row_stride < vocab:
        logits = logits.contiguous()
        row_stride = vocab
    return logits, (logits.data_ptr(), rows, vocab, row_stride, dtype)


def _checked_address(integers: Tensor, name: str, size: int) -> int:
    """Return the address of `size` contiguous 64-bit integers. Raises KernelError."""
    if integers.dtype not in _INT64 or integers.numel() != size:
        raise KernelError(
            f"{name} must be ({size},) int64, got {tuple(integers.shape)} {integers.dtype}"
        )
    if not integers.is_contiguous():
        raise KernelError(f"{name} must be contiguous, got stride {integers.stride(0)}")
    return integers.data_ptr()


def _sample_with_random_cpu(
    logits: Tensor, random: Tensor, temperature: float, top_k: int, top_p: float
) -> Tensor:
    logits, matrix = _matrix(logits)
    _, rows, vocab, _, _ = matrix
    tokens = torch.empty(rows, dtype=torch.int64)
    status = native.kernel("sample")(
        *matrix,
        _checked_address(random, "random", rows), 0, 0,
        temperature, top_k, top_p, tokens.data_ptr(),
        1 if rows * vocab <= ONE_THREAD_LOGITS else torch.get_num_threads(),
    )  # fmt: skip
    if status:
        native.check(status, native.cpu())
    return tokens


def _sample_cpu(
    logits: Tensor, state: Tensor, items: Tensor | None, temperature: float, top_k: int,
    top_p: float,
) -> Tensor:  # fmt: skip
    logits, matrix = _matrix(logits)
    _, rows, vocab, _, _ = matrix
    tokens = torch.empty(rows, dtype=torch.int64)
    status = native.kernel("sample")(
        *matrix,
        0, _checked_address(state, "state", 3),
        0 if items is None else _checked_address(items, "items", rows),
        temperature, top_k, top_p, tokens.data_ptr(),
        1 if rows * vocab <= ONE_THREAD_LOGITS else torch.get_num_threads(),
    )  # fmt: skip
    if status:
        native.check(status, native.cpu())
    return tokens


def _run_cuda(
    logits: Tensor,
    random: Tensor | None,
    state: Tensor | None,
    items: Tensor | None,
    options: tuple[float, int, float],
) -> Tensor:
    logits, matrix = _matrix(logits)
    _, rows, vocab, _, _ = matrix
    device, library = logits.device, native.cuda()

    def address(integers: Tensor | None, name: str, size: int) -> int:
        if integers is None:
            return 0
        if integers.device != device:
            raise KernelError(f"{name} must be on {device}, got {integers.device}")
        return _checked_address(integers, name, size)

    random_source = (
        address(random, "random", rows),
        address(state, "state", 3),
        address(items, "items", rows),
    )
    with torch.cuda.device(device):
        tokens = torch.empty(rows, dtype=torch.int64, device=device)
        size = library.nck_cuda_workspace(rows, vocab, matrix[-1])
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        status = native.kernel("cuda_sample")(
            *matrix, *random_source, *options,
            tokens.data_ptr(), workspace.data_ptr(), torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip
    native.check(status, library)
    return tokens


def _sample_with_random_cuda(
    logits: Tensor, random: Tensor, temperature: float, top_k: int, top_p: float
) -> Tensor:
    return _run_cuda(logits, random, None, None, (temperature, top_k, top_p))


def _sample_cuda(
    logits: Tensor, state: Tensor, items: Tensor | None, temperature: float, top_k: int,
    top_p: float,
) -> Tensor:  # fmt: skip
    return _run_cuda(logits, None, state, items, (temperature, top_k, top_p))


for _name, _kernel, _key in (
    ("sample", _sample_cpu, "CPU"),
    ("sample", _sample_cuda, "CUDA"),
    ("sample_with_random", _sample_with_random_cpu, "CPU"),
    ("sample_with_random", _sample_with_random_cuda, "CUDA"),
):
    LIBRARY.impl(_name, _kernel, _key)  # type: ignore[no-untyped-call]  # torch has no types here


def _fake(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


torch.library.register_fake("nck::sample", _fake, lib=LIBRARY)
torch.library.register_fake("nck::sample_with_random", _fake, lib=LIBRARY)

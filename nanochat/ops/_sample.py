"""Sample one token per row of logits, on the CPU and on CUDA.

The tokens are bit-identical to those of nanochat/sampling/draw.py. Registered with torch as
nck::sample, whose random bits come from a Philox state, and nck::sample_with_random, whose random
bits are an argument. This file owns what torch needs around the kernels; csrc/kernels/abi.h has
their rules.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat import native, philox
from nanochat.errors import ConfigError, KernelError, LogitsError
from nanochat.ops.arguments import (
    materialized,
    number,
    require_native_device,
    require_same_device,
    require_tensor,
)
from nanochat.ops.derivatives import is_plain
from nanochat.ops.launch import DTYPES
from nanochat.ops.library import LIBRARY, define
from nanochat.philox import Stream
from nanochat.sampling import draw as specification
from nanochat.sampling.cpu_draw import ONE_THREAD_LOGITS
from nanochat.system.numbers import as_int, short

__all__ = ["refuse_rows_without_token", "sample", "sample_with_random"]

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
        KernelError: An argument has the wrong shape, dtype, device or range.
        LogitsError: On the CPU, a row holds NaN or only −inf; the message names the first such row.
            On CUDA such rows have token −1 (NaN) or −2 (only −inf).

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
    rows = _checked_rows(logits, use_native)
    state = _checked_integers("state", state, 3, logits)
    if items is not None:
        items = _checked_integers("items", items, rows, logits)
    options = _checked_options(temperature, top_k, top_p)
    if use_native:
        if _skips_dispatcher(logits):
            return _run(logits, None, state, items, options)
        tokens: Tensor = _sample(logits, state, items, *options)
        return tokens
    return _reference(logits, _random_words(rows, state, items), *options)


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
    random = _checked_integers("random", random, _checked_rows(logits, use_native), logits)
    options = _checked_options(temperature, top_k, top_p)
    if use_native:
        if _skips_dispatcher(logits):
            return _run(logits, random, None, None, options)
        tokens: Tensor = _sample_with_random(logits, random, *options)
        return tokens
    return _reference(logits, random.cpu().numpy().view(np.uint64), *options)


# ──────────────────────────────────────────────────────────────────────────────────────── checks


def _checked_rows(logits: Tensor, use_native: bool) -> int:
    """Return the number of rows of logits that a draw can take. Raises KernelError."""
    require_tensor("logits", logits)
    if logits.dtype not in DTYPES:
        raise KernelError(f"logits must be one of {', '.join(native.DTYPES)}, got {logits.dtype}")
    shape = logits.shape
    if len(shape) != 2:
        raise KernelError(f"logits must be (rows, vocab), got {tuple(shape)}")
    if use_native:
        require_native_device("logits", logits)
    elif logits.is_meta:
        raise KernelError("logits must hold numbers, got a tensor on meta")
    rows, vocab = shape
    if vocab == 0:
        raise KernelError("vocabulary must be at least 1 token, got 0")
    if vocab > specification.MAX_VOCAB:
        raise KernelError(
            f"vocabulary must be at most {specification.MAX_VOCAB} tokens, got {vocab}"
        )
    return rows


def _checked_integers(name: str, integers: Tensor, size: int, logits: Tensor) -> Tensor:
    """Return `size` contiguous 64-bit integers, on the device of the logits. Raises KernelError."""
    require_tensor(name, integers)
    if integers.dtype not in _INT64 or integers.shape != (size,):
        raise KernelError(
            f"{name} must be ({size},) int64, got {tuple(integers.shape)} {integers.dtype}"
        )
    require_same_device(name, integers, logits.device)
    if not integers.is_contiguous():
        raise KernelError(f"{name} must be contiguous, got stride {integers.stride(0)}")
    return materialized(integers)


def _checked_options(temperature: Any, top_k: Any, top_p: Any) -> tuple[float, int, float]:
    """Return the options as numbers that the kernels take. Raises KernelError."""
    if type(temperature) is not float:
        temperature = number("temperature", temperature, "finite and >= 0")
    if not 0 <= temperature < math.inf:
        raise KernelError(f"temperature must be finite and >= 0, got {temperature:g}")
    if type(top_k) is not int:
        kept = as_int(top_k)
        if kept is None:
            raise KernelError(f"top_k must be an int of at least 0, got {short(top_k)}")
        top_k = kept
    if top_k < 0:
        raise KernelError(f"top_k must be at least 0, got {short(top_k)}")
    if type(top_p) is not float:
        top_p = number("top_p", top_p, "above 0 and at most 1")
    if not 0 < top_p <= 1:
        raise KernelError(f"top_p must be above 0 and at most 1, got {top_p:g}")
    return temperature, min(top_k, specification.MAX_VOCAB), top_p


def _random_words(rows: int, state: Tensor, items: Tensor | None) -> np.ndarray[Any, Any]:
    """Return the 64 random bits of each row, uint64, as the kernels compute them."""
    seed, first, index = state.view(torch.int64).tolist()
    if not 0 <= seed < 2**32:
        raise KernelError(f"seed must be in [0, 2^32), got {seed}")
    if index < 0:
        raise KernelError(f"index must be at least 0, got {index}")
    row_items = range(first, first + rows) if items is None else items.view(torch.int64).tolist()
    words = [philox.random_u64(seed, Stream.SAMPLING, item, 1, index)[0] for item in row_items]
    return np.array(words, dtype=np.uint64)


def _skips_dispatcher(logits: Tensor) -> bool:
    """Return whether the call may skip the dispatcher, which takes longer than a small kernel."""
    return not torch.compiler.is_compiling() and logits.is_cpu and is_plain(logits)


def refuse_rows_without_token(tokens: Tensor) -> None:
    """Raise LogitsError for the first row that a CUDA kernel could only mark with −1 or −2."""
    bad = (tokens < 0).nonzero()
    if len(bad):
        row = int(bad[0])
        raise LogitsError(
            f"logits of row {row} " + ("hold nan" if int(tokens[row]) == -1 else "are all -inf")
        )


def _reference(
    logits: Tensor, random: np.ndarray[Any, Any], temperature: float, top_k: int, top_p: float
) -> Tensor:
    # NumPy has no bfloat16; float32 holds it exactly.
    wide = materialized(logits.detach()).cpu()
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
    """Return logits that the kernels can read, and the first arguments of every kernel.

    These are address, rows, vocab, row stride and dtype code. Makes as few calls of torch as
    possible: they are most of the time of a small call.
    """
    rows, vocab = logits.shape
    row_stride, stride = logits.stride()
    if stride != 1 or row_stride < vocab:
        logits = logits.contiguous()
        row_stride = vocab
    logits = materialized(logits)
    return logits, (logits.data_ptr(), rows, vocab, row_stride, DTYPES[logits.dtype])


def _run(
    logits: Tensor,
    random: Tensor | None,
    state: Tensor | None,
    items: Tensor | None,
    options: tuple[float, int, float],
) -> Tensor:
    """Call nck_sample or nck_cuda_sample with checked tensors."""
    logits, matrix = _matrix(logits)
    _, rows, vocab, _, dtype = matrix
    random_source = (
        0 if random is None else random.data_ptr(),
        0 if state is None else state.data_ptr(),
        0 if items is None else items.data_ptr(),
    )
    if logits.is_cpu:
        tokens = torch.empty(rows, dtype=torch.int64)
        threads = 1 if rows * vocab <= ONE_THREAD_LOGITS else torch.get_num_threads()
        status = native.kernel("sample")(
            *matrix, *random_source, *options, tokens.data_ptr(), threads
        )
        if status:
            native.check(status, native.cpu())
        return tokens
    device, library = logits.device, native.cuda()
    with torch.cuda.device(device):
        tokens = torch.empty(rows, dtype=torch.int64, device=device)
        size = library.nck_cuda_workspace(rows, vocab, dtype)
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        status = native.kernel("cuda_sample")(
            *matrix, *random_source, *options,
            tokens.data_ptr(), workspace.data_ptr(), torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip
    native.check(status, library)
    return tokens


# torch.ops.nck may be called without the checks of the functions above.


def _registered_sample(
    logits: Tensor, state: Tensor, items: Tensor | None, temperature: float, top_k: int,
    top_p: float,
) -> Tensor:  # fmt: skip
    rows = _checked_rows(logits, True)
    state = _checked_integers("state", state, 3, logits)
    if items is not None:
        items = _checked_integers("items", items, rows, logits)
    return _run(logits, None, state, items, (temperature, top_k, top_p))


def _registered_sample_with_random(
    logits: Tensor, random: Tensor, temperature: float, top_k: int, top_p: float
) -> Tensor:
    random = _checked_integers("random", random, _checked_rows(logits, True), logits)
    return _run(logits, random, None, None, (temperature, top_k, top_p))


for _key in ("CPU", "CUDA"):
    for _name, _kernel in (
        ("sample", _registered_sample),
        ("sample_with_random", _registered_sample_with_random),
    ):
        LIBRARY.impl(_name, _kernel, _key)  # type: ignore[no-untyped-call]  # torch has no types here


def _fake(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


torch.library.register_fake("nck::sample", _fake, lib=LIBRARY)
torch.library.register_fake("nck::sample_with_random", _fake, lib=LIBRARY)

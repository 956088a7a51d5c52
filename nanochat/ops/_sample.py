"""One token a row from logits, on the CPU and on CUDA: the tokens of training/draw.py, to the bit.

Registered with torch as nck::sample, whose random integers come from a Philox state, and as
nck::draw, which is given them. Owns what torch needs around the kernels; their rules are in
csrc/kernels/abi.h.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat import native, philox
from nanochat.errors import ConfigError, KernelError
from nanochat.ops.derivatives import is_plain
from nanochat.ops.library import LIBRARY, define
from nanochat.philox import Stream
from nanochat.sampling import draw as specification

__all__ = ["draw", "refuse_rows_without_token", "sample"]

# At most this many logits are one thread's work: a second one would wait longer than it works.
ONE_THREAD = 32768

_DTYPES = {getattr(torch, name): number for name, number in native.DTYPES.items()}
_INTEGERS = (torch.int64, torch.uint64)


def sample(
    logits: Tensor,  # (rows, vocab) float; copied unless the last dimension is contiguous
    state: Tensor,  # (3,) int64: seed, item of the first row, index
    *,
    temperature: float = 1.0,
    top_k: int = 0,  # 0: all
    top_p: float = 1.0,
    items: Tensor | None = None,  # (rows,) int64; None: item of the first row + row
    use_native: bool = True,
) -> Tensor:  # (rows,) int64
    """Tokens drawn with philox.random_u64(seed, Stream.SAMPLING, item, 1, index) of each row.

    Advance the state by `state[2] += 1`. Raises KernelError for a setting out of range and, on the
    CPU, naming the first row that holds NaN or nothing above −inf; on CUDA such rows have the
    tokens −1 and −2.
    """
    if use_native:
        if _needs_no_dispatcher(logits):
            return _sample_cpu(logits, state, items, temperature, top_k, top_p)
        tokens: Tensor = _sample(logits, state, items, temperature, top_k, top_p)
        return tokens
    seed, first, index = state.tolist()
    chosen = range(first, first + len(logits)) if items is None else items.tolist()
    words = [philox.random_u64(seed, Stream.SAMPLING, item, 1, index)[0] for item in chosen]
    return _reference(logits, np.array(words, dtype=np.uint64), temperature, top_k, top_p)


def draw(
    logits: Tensor,  # (rows, vocab) float; copied unless the last dimension is contiguous
    random: Tensor,  # (rows,) 64 random bits, uint64 or int64
    *,
    temperature: float = 1.0,
    top_k: int = 0,  # 0: all
    top_p: float = 1.0,
    use_native: bool = True,
) -> Tensor:  # (rows,) int64
    """As `sample`, with random integers of the caller's."""
    if use_native:
        if _needs_no_dispatcher(logits):
            return _draw_cpu(logits, random, temperature, top_k, top_p)
        tokens: Tensor = _draw(logits, random, temperature, top_k, top_p)
        return tokens
    return _reference(logits, random.cpu().numpy().view(np.uint64), temperature, top_k, top_p)


def _needs_no_dispatcher(logits: Tensor) -> bool:
    """Whether nobody listens there: it takes longer than drawing a token from few logits."""
    return not torch.compiler.is_compiling() and logits.is_cpu and is_plain(logits)


def refuse_rows_without_token(tokens: Tensor) -> None:
    """Raise on the host what a CUDA kernel can only mark: KernelError naming the first such row."""
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
    # NumPy has no bfloat16, which float32 holds exactly.
    wide = logits.detach().cpu()
    rows = wide.numpy() if wide.dtype == torch.float64 else wide.float().numpy()
    try:
        tokens = specification.draw(rows, random, temperature=temperature, top_k=top_k, top_p=top_p)
    except (ConfigError, ValueError) as error:
        raise KernelError(str(error)) from None
    return torch.from_numpy(tokens).to(logits.device)


# ─────────────────────────────────────────────────────────────────────────────────── registration

_SETTINGS = "float temperature, int top_k, float top_p"
define(f"sample(Tensor logits, Tensor state, Tensor? items, {_SETTINGS}) -> Tensor")
define(f"draw(Tensor logits, Tensor random, {_SETTINGS}) -> Tensor")
_sample = torch.ops.nck.sample.default
_draw = torch.ops.nck.draw.default


def _matrix(logits: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int]]:
    """The logits with a contiguous last dimension, and the kernels' first arguments: address, rows,
    vocabulary, row stride, dtype. For as few calls of torch as it can: they are most of a small
    draw."""
    dtype = _DTYPES.get(logits.dtype)
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


def _address(integers: Tensor, name: str, size: int) -> int:
    """Of so many 64-bit integers, one after another."""
    if integers.dtype not in _INTEGERS or integers.numel() != size:
        raise KernelError(
            f"{name} must be ({size},) int64, got {tuple(integers.shape)} {integers.dtype}"
        )
    if not integers.is_contiguous():
        raise KernelError(f"{name} must be contiguous, got stride {integers.stride(0)}")
    return integers.data_ptr()


def _draw_cpu(
    logits: Tensor, random: Tensor, temperature: float, top_k: int, top_p: float
) -> Tensor:
    logits, matrix = _matrix(logits)
    _, rows, vocab, _, _ = matrix
    tokens = torch.empty(rows, dtype=torch.int64)
    status = native.kernel("sample")(
        *matrix,
        _address(random, "random", rows), 0, 0, temperature, top_k, top_p, tokens.data_ptr(),
        1 if rows * vocab <= ONE_THREAD else torch.get_num_threads(),
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
        0, _address(state, "state", 3), 0 if items is None else _address(items, "items", rows),
        temperature, top_k, top_p, tokens.data_ptr(),
        1 if rows * vocab <= ONE_THREAD else torch.get_num_threads(),
    )  # fmt: skip
    if status:
        native.check(status, native.cpu())
    return tokens


def _run_cuda(
    logits: Tensor,
    random: Tensor | None,
    state: Tensor | None,
    items: Tensor | None,
    settings: tuple[float, int, float],
) -> Tensor:
    logits, matrix = _matrix(logits)
    _, rows, vocab, _, _ = matrix
    device, library = logits.device, native.cuda()

    def address(integers: Tensor | None, name: str, size: int) -> int:
        if integers is None:
            return 0
        if integers.device != device:
            raise KernelError(f"{name} must be on {device}, got {integers.device}")
        return _address(integers, name, size)

    source = (
        address(random, "random", rows),
        address(state, "state", 3),
        address(items, "items", rows),
    )
    with torch.cuda.device(device):
        tokens = torch.empty(rows, dtype=torch.int64, device=device)
        size = library.nck_cuda_workspace(rows, vocab, matrix[-1])
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        status = native.kernel("cuda_sample")(
            *matrix, *source, *settings,
            tokens.data_ptr(), workspace.data_ptr(), torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip
    native.check(status, library)
    return tokens


def _draw_cuda(
    logits: Tensor, random: Tensor, temperature: float, top_k: int, top_p: float
) -> Tensor:
    return _run_cuda(logits, random, None, None, (temperature, top_k, top_p))


def _sample_cuda(
    logits: Tensor, state: Tensor, items: Tensor | None, temperature: float, top_k: int,
    top_p: float,
) -> Tensor:  # fmt: skip
    return _run_cuda(logits, None, state, items, (temperature, top_k, top_p))


for _name, _kernel, _key in (
    ("sample", _sample_cpu, "CPU"), ("sample", _sample_cuda, "CUDA"),
    ("draw", _draw_cpu, "CPU"), ("draw", _draw_cuda, "CUDA"),
):  # fmt: skip
    LIBRARY.impl(_name, _kernel, _key)  # type: ignore[no-untyped-call]  # torch has no types here


def _fake(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


torch.library.register_fake("nck::sample", _fake, lib=LIBRARY)
torch.library.register_fake("nck::draw", _fake, lib=LIBRARY)

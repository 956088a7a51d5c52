"""Decoding by nck_decode: one call takes a token through all layers of a model, on the CPU.

This file passes a model and its texts to the kernel and returns the logits. csrc/kernels/abi.h says
what a step computes; native/__init__.py decides for which models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.model.parameters import RMSNORM_EPS, ROPE_BASE
from nanochat.ops.launch import DTYPES
from nanochat.sampling.cpu_draw import DrawsOnCpu
from nanochat.tensor.model import MiniGPT
from nanochat.tensor.native import activation_code
from nanochat.tensor.native.blocks import BlockMatrices

__all__ = ["ONE_THREAD_MULTIPLY_ADDS", "NativeDecoder", "OpenedDecoder"]

# A step of fewer multiply-adds runs on one thread. A second one would gain little and, on a busy
# machine, wait for its time slices.
ONE_THREAD_MULTIPLY_ADDS = 6_000_000


class OpenedDecoder:
    """An nck_decoder of a model, which closes with its last reference. Raises KernelError."""

    def __init__(self, model: MiniGPT, config: TrainConfig, rows: int) -> None:
        blocks = [BlockMatrices.of(block) for block in model.blocks]
        self._embeddings = model.embedding.wte, model.embedding.wpe  # kept: the kernel reads them
        self._decoder = _opened(model, blocks, config, rows)
        self.handle: int = native.address(self._decoder)
        self.multiply_adds = (  # per token
            sum(matrix.numel() for block in blocks for matrix in block) + model.head.numel()
        )


class NativeDecoder(DrawsOnCpu):
    """Next-token logits of rows that grow together; see training.engine.Decoder.

    Opening it copies the matrices of the model. The embeddings are read in place, so training must
    not change them before the decoder is closed.
    """

    def __init__(
        self, model: MiniGPT, config: TrainConfig, prompts: Sequence[Sequence[int]]
    ) -> None:
        rows, size = len(prompts), config.block_size
        dtype = np.float64 if model.dtype == torch.float64 else np.float32
        self._opened = OpenedDecoder(model, config, rows)
        self._multiply_adds = rows * self._opened.multiply_adds
        # See sampling.mixed.KeepsLogits.
        self.kept_logits: NDArray[Any] = np.empty((rows, len(model.head)), dtype)
        self._next = native.ffi.new("int64_t[]", rows)
        # Addresses are made once: they would cost as much as a small step.
        self._handle = self._opened.handle
        self._next_address = native.address(self._next)
        self._logits_address = int(self.kept_logits.ctypes.data)
        self._decode = native.kernel("decode")
        self.draw_threads = torch.get_num_threads()
        self._count = 0  # tokens read
        ids = np.array(prompts, dtype=np.int64)
        # Learned positions are absolute: when the window moves, it is read again as a new text.
        learned = model.embedding.wpe is not None
        self._window = np.empty((rows, size), np.int64) if learned else None
        if self._window is not None:
            ids = ids[:, -size:]
            self._window[:, : ids.shape[1]] = ids
        self._read(ids[:, :size])
        for column in range(size, ids.shape[1]):
            self._read(ids[:, column : column + 1])

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        return self.kept_logits.copy()

    def advance(self, ids: Sequence[int]) -> None:
        window = self._window
        if window is not None and self._count == window.shape[1]:
            window[:, :-1] = window[:, 1:]
            window[:, -1] = ids
            self._count = 0
            self._read(window)
            return
        if window is not None:
            window[:, self._count] = ids
        self._next[0 : len(self.kept_logits)] = ids
        self._call(self._next_address, 1)

    def _read(self, ids: NDArray[np.int64]) -> None:  # (rows, length)
        tokens = np.ascontiguousarray(ids)
        self._call(tokens.ctypes.data, tokens.shape[1])

    def _call(self, tokens: int, length: int) -> None:
        few = length * self._multiply_adds < ONE_THREAD_MULTIPLY_ADDS
        threads = 1 if few else torch.get_num_threads()
        status = self._decode(
            self._handle, tokens, length, self._count, self._logits_address, threads
        )
        if status:
            native.check(status, native.cpu())
        self._count += length

    def draw_own(
        self,
        rows: NDArray[np.intp],
        random: NDArray[np.uint64],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:
        """See sampling.sampling.DrawsOwnTokens."""
        logits = self.kept_logits
        if len(rows) < len(logits):
            logits = logits[rows]
        return self.draw(logits, random, temperature=temperature, top_k=top_k, top_p=top_p)


def _opened(model: MiniGPT, blocks: Sequence[BlockMatrices], config: TrainConfig, rows: int) -> Any:
    """Return an nck_decoder that closes with its last reference. Raises KernelError."""
    library, pointer = native.cpu(), native.ffi.new("nck_decoder **")
    layers = native.ffi.new("nck_gpt_layer[]", max(len(blocks), 1))
    for layer, block in zip(layers, blocks, strict=False):
        for name, matrix in block._asdict().items():
            setattr(layer, name, _pointer(matrix))
    gpt = native.ffi.new("nck_gpt *", {**_fields(model, config), "layers": layers})
    native.check(library.nck_open_decoder(gpt, rows, pointer), library)
    return native.ffi.gc(pointer[0], library.nck_close_decoder)


def _fields(model: MiniGPT, config: TrainConfig) -> dict[str, Any]:
    """Return the fields of nck_gpt except its layers. Raises UnsupportedActivation."""
    wte, wpe = model.embedding.wte, model.embedding.wpe
    return {
        "vocab": len(model.head),
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "block_size": config.block_size,
        "prev_token_tables": config.prev_token_tables,
        "hash_embed_rows": config.hash_embed_rows,
        "hash_embed_longest": config.hash_embed_longest,
        "dtype": DTYPES[model.dtype],
        "activation": activation_code(config.activation),
        "input_norm": config.input_rmsnorm,
        "qk_norm": config.qk_norm,
        "output_norm": config.output_rmsnorm,
        "eps": RMSNORM_EPS,
        "rope_base": ROPE_BASE if config.positions == "rope" else 0.0,
        "softcap": config.logit_softcap,
        "wte": _pointer(wte),
        "wpe": native.ffi.NULL if wpe is None else _pointer(wpe),
        "lm_head": _pointer(model.head),
    }


def _pointer(weight: Tensor) -> Any:
    assert weight.is_contiguous()  # a piece of FlatWeights
    return native.ffi.cast("void *", weight.data_ptr())

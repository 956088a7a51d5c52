"""Decoding by nck_decode: a token goes through all layers of a model in one call, on the CPU.

Owns which models the kernel computes and the way from a model and its texts to the kernel and
back. What a step computes is in csrc/kernels/abi.h.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.model.parameters import RMSNORM_EPS, ROPE_BASE, parameter_specs
from nanochat.ops._sample import ONE_THREAD_LOGITS
from nanochat.tensor.bigram import Bigram
from nanochat.tensor.model import MiniGPT

__all__ = ["NativeDecoder", "runs_natively"]

# A step of fewer multiply-adds is one thread's: a second one would gain little and, on a machine
# that is busy, wait for its time slices.
ONE_THREAD = 6_000_000

_PARAMETERS = re.compile(r"wte(\d*|_ngram)|wpe|lm_head|layer\d+\.(attn_w[qkvo]|mlp_fc[12])")
_ACTIVATIONS = {"relu": 0, "relu2": 1}  # NCK_RELU, NCK_RELU2
_DTYPES = {getattr(torch, name): native.DTYPES[name] for name in ("float32", "float64", "bfloat16")}


def runs_natively(model: Bigram | MiniGPT, config: TrainConfig, device: torch.device) -> bool:
    """Whether the kernel computes all of this model: a parameter or an option that it does not
    know leaves the model to torch."""
    if device.type != "cpu" or config.model_kind != "mini-gpt" or model.dtype not in _DTYPES:
        return False
    names = [spec.name for spec in parameter_specs(config, len(model.head))]
    return config.activation in _ACTIVATIONS and all(map(_PARAMETERS.fullmatch, names))


class NativeDecoder:
    """Next-token logits of rows that grow together; see training.engine.Decoder.

    The model's matrices are copied when it opens; they must not change as long as it reads.
    """

    def __init__(
        self, model: MiniGPT, config: TrainConfig, prompts: Sequence[Sequence[int]]
    ) -> None:
        rows, size = len(prompts), config.block_size
        number = np.float64 if model.dtype == torch.float64 else np.float32
        self._embeddings = model.wte, model.wpe  # the kernel reads them where they are
        self._decoder = _opened(model, config, rows)
        self._products = rows * _multiply_adds(model)
        self._logits: NDArray[Any] = np.empty((rows, len(model.head)), number)
        self._next = native.ffi.new("int64_t[]", rows)
        # Addresses as the calls take them, made once: they would cost as much as a small step.
        self._handle = native.address(self._decoder)
        self._next_address, self._logits_address = (
            native.address(self._next),
            self._logits.ctypes.data,
        )
        self._decode, self._sample = native.kernel("decode"), native.kernel("sample")
        self._count = 0  # tokens in the cache or past it
        ids = np.array(prompts, dtype=np.int64)
        # Learned positions are absolute: a moved window is a new text, read again as a whole.
        self._window = None if model.wpe is None else np.empty((rows, size), np.int64)
        if self._window is not None:
            ids = ids[:, -size:]
            self._window[:, : ids.shape[1]] = ids
        self._read(ids[:, :size])
        for column in range(size, ids.shape[1]):
            self._read(ids[:, column : column + 1])

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        return self._logits.copy()

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
        self._next[0 : len(self._logits)] = ids
        self._call(self._next_address, 1)

    def _read(self, ids: NDArray[np.int64]) -> None:  # (rows, width)
        tokens = np.ascontiguousarray(ids)
        self._call(tokens.ctypes.data, tokens.shape[1])

    def _call(self, tokens: int, width: int) -> None:
        few = width * self._products < ONE_THREAD
        threads = 1 if few else torch.get_num_threads()
        status = self._decode(
            self._handle, tokens, width, self._count, self._logits_address, threads
        )
        if status:
            native.check(status, native.cpu())
        self._count += width

    def draw(
        self,
        logits: NDArray[Any],  # (rows, vocab)
        random: NDArray[np.uint64],  # (rows,)
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:  # (rows,)
        """See training.sampling.DrawsTokens."""
        logits, random = np.ascontiguousarray(logits), np.ascontiguousarray(random)
        return self._drawn(logits.ctypes.data, random, temperature, top_k, top_p)

    def draw_own(
        self,
        rows: NDArray[np.intp],
        random: NDArray[np.uint64],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:
        """See training.sampling.DrawsOwnTokens."""
        if len(rows) == len(self._logits):
            random = np.ascontiguousarray(random)
            return self._drawn(self._logits_address, random, temperature, top_k, top_p)
        chosen = self._logits[rows]
        return self.draw(chosen, random, temperature=temperature, top_k=top_k, top_p=top_p)

    def _drawn(
        self,
        logits: int,  # address of (rows, vocab), as the decoder's own
        random: NDArray[np.uint64],  # (rows,)
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:
        rows, vocab = len(random), self._logits.shape[1]
        tokens = np.empty(rows, np.int64)
        dtype = native.DTYPES["float64" if self._logits.itemsize == 8 else "float32"]
        threads = 1 if rows * vocab <= ONE_THREAD_LOGITS else torch.get_num_threads()
        status = self._sample(
            logits, rows, vocab, vocab, dtype, random.ctypes.data, 0, 0, temperature, top_k, top_p,
            tokens.ctypes.data, threads,
        )  # fmt: skip
        if status:
            native.check(status, native.cpu())
        return tokens


def _multiply_adds(model: MiniGPT) -> int:
    """Of the matrix products for one token."""
    matrices = sum(w.numel() for b in model.blocks for w in (b.wqkv, b.wo, b.fc1, b.fc2))
    return matrices + model.head.numel()


def _opened(model: MiniGPT, config: TrainConfig, rows: int) -> Any:
    """An nck_decoder that is closed when nobody has it any more. Raises KernelError."""
    library, pointer = native.cpu(), native.ffi.new("nck_decoder **")
    layers = native.ffi.new("nck_gpt_layer[]", max(len(model.blocks), 1))
    for number, block in enumerate(model.blocks):
        for name in ("wqkv", "wo", "fc1", "fc2"):
            setattr(layers[number], name, _address(getattr(block, name)))
    described = native.ffi.new("nck_gpt *", {**_options(model, config), "layers": layers})
    native.check(library.nck_open_decoder(described, rows, pointer), library)
    return native.ffi.gc(pointer[0], library.nck_close_decoder)


def _options(model: MiniGPT, config: TrainConfig) -> dict[str, Any]:
    """The fields of nck_gpt, but for its layers."""
    return {
        "vocab": len(model.head),
        "n_embd": config.n_embd,
        "n_layer": len(model.blocks),
        "n_head": config.n_head,
        "block_size": config.block_size,
        "past_embeds": config.past_embeds,
        "ngram_rows": config.ngram_rows,
        "ngram_longest": config.ngram_longest,
        "dtype": _DTYPES[model.dtype],
        "activation": _ACTIVATIONS[config.activation],
        "input_norm": config.input_rmsnorm,
        "qk_norm": config.qk_norm,
        "eps": RMSNORM_EPS,
        "rope_base": ROPE_BASE if config.positions == "rope" else 0.0,
        "softcap": config.logit_softcap,
        "wte": _address(model.wte),
        "wpe": native.ffi.NULL if model.wpe is None else _address(model.wpe),
        "lm_head": _address(model.head),
    }


def _address(weight: Tensor) -> Any:
    assert weight.is_contiguous()  # a piece of FlatWeights
    return native.ffi.cast("void *", weight.data_ptr())

"""Decoding with the tensor models: keys and values of the last block_size tokens are kept.

Owns which decoder reads a model's texts, and the one of torch calls: its cache and its window.
One token of one row is all overhead and no arithmetic, so the blocks are written here for the
fewest calls, not for the longest rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.errors import KernelError
from nanochat.model.parameters import RMSNORM_EPS
from nanochat.ops._sample import refuse_rows_without_token, sample_with_random
from nanochat.ops.reference import head_logits
from nanochat.tensor.attention import rotate
from nanochat.tensor.bigram import Bigram
from nanochat.tensor.embeddings import Bags, Embeddings
from nanochat.tensor.inputs import Rotary, RotaryTable
from nanochat.tensor.model import MiniGPT
from nanochat.tensor.native.blocks import Block
from nanochat.tensor.native.decoder import NativeDecoder, runs_natively

__all__ = ["TensorDecoder", "open_decoder"]

# A CPU step of at most this many residual numbers runs on one thread: a second one gains nothing
# (0.54 ms a token either way at 1 × 128) and, on a machine that is busy, costs its time slices
# (0.37 ms against 15.6 at 1 × 64 beside three other processes).
ONE_THREAD = 1024


def open_decoder(
    model: Bigram | MiniGPT,
    config: TrainConfig,
    table: RotaryTable | None,
    prompts: Sequence[Sequence[int]],
    device: torch.device,
) -> TensorDecoder | NativeDecoder:
    """A decoder that has read the prompts, all of one length ≥ 1."""
    if isinstance(model, MiniGPT) and runs_natively(model, config, device):
        return NativeDecoder(model, config, prompts)
    return TensorDecoder(model, config, table, prompts, device)


class TensorDecoder:
    """Next-token logits of rows that grow together; see training.engine.Decoder.

    The cache is a ring: position p lies in slot p mod block_size, so that with RoPE, whose keys
    are stored rotated, the newest token overwrites the oldest. Softmax asks for no order.
    """

    def __init__(
        self,
        model: Bigram | MiniGPT,
        config: TrainConfig,
        table: RotaryTable | None,
        prompts: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._model, self._config, self._table, self._device = model, config, table, device
        shape = (config.n_layer, 2, len(prompts), config.n_head, config.block_size, config.head_dim)
        self._caches = torch.empty(shape, dtype=model.dtype, device=device).unbind(0)
        self._places = torch.arange(config.block_size, device=device)
        self._eps = {
            dtype: torch.full((1, 1, 1), RMSNORM_EPS, dtype=dtype, device=device)
            for dtype in (torch.float32, torch.float64, torch.bfloat16)
            if dtype != torch.float64 or model.dtype == torch.float64  # mps has none
        }
        self._squared = config.activation == "relu2"
        self._count = 0  # tokens in the cache or past it
        # Learned positions are absolute: a moved window is a new text, read again as a whole.
        self._rereads = config.model_kind == "mini-gpt" and table is None
        self._window = torch.tensor(prompts, dtype=torch.int64, device=device)  # (rows, tokens)
        self._embeddings = Embeddings.of(config, len(model.head))
        self._past: NDArray[np.int64] = np.empty((len(prompts), 0), dtype=np.int64)
        self._read_prompts()

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        return self._logits.cpu().numpy()

    def draw(
        self,
        logits: NDArray[Any],  # (rows, vocab)
        random: NDArray[np.uint64],  # (rows,)
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:  # (rows,)
        """See training.sampling.DrawsTokens: on the CPU, where these logits are."""
        tokens = sample_with_random(
            torch.from_numpy(logits), torch.from_numpy(random),
            temperature=temperature, top_k=top_k, top_p=top_p,
        )  # fmt: skip
        return tokens.numpy()

    def draw_own(
        self,
        rows: NDArray[np.intp],
        random: NDArray[np.uint64],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:
        """See training.sampling.DrawsOwnTokens: on the device of the logits if it has the kernel,
        so that tokens are copied instead of logits."""
        logits, words = self._logits, torch.from_numpy(random)
        if not _draws_on(logits):
            logits = logits.cpu()
        if len(rows) < len(logits):
            logits = logits[torch.from_numpy(rows).to(logits.device)]
        tokens = sample_with_random(
            logits, words.to(logits.device), temperature=temperature, top_k=top_k, top_p=top_p
        ).cpu()
        if logits.device.type == "cuda":
            refuse_rows_without_token(tokens)
        return tokens.numpy()

    @torch.inference_mode()
    def _read_prompts(self) -> None:
        size = self._config.block_size
        prompts = self._window
        if self._rereads:
            self._window = prompts[:, -size:]
            self._extend(self._window)
            return
        self._extend(prompts[:, :size])
        for column in range(size, prompts.shape[1]):
            self._extend(prompts[:, column : column + 1])

    @torch.inference_mode()
    def advance(self, ids: Sequence[int]) -> None:
        tokens = torch.tensor(ids, dtype=torch.int64, device=self._device).unsqueeze(1)
        if self._rereads:
            self._window = torch.cat((self._window, tokens), dim=1)[:, -self._config.block_size :]
            if self._count == self._config.block_size:
                self._count = 0
                self._past = self._past[:, :0]
                tokens = self._window
        threads = torch.get_num_threads()
        if self._device.type != "cpu" or tokens.numel() * self._config.n_embd > ONE_THREAD:
            self._extend(tokens)
            return
        torch.set_num_threads(1)
        try:
            self._extend(tokens)
        finally:
            torch.set_num_threads(threads)

    def _extend(self, tokens: Tensor) -> None:  # (rows, 1), or more into an empty cache
        """Read tokens and set the logits of the next one."""
        rows, width = tokens.shape
        first, slot = self._count, self._count % self._config.block_size
        self._count += width
        rotary = self._table.span(first, self._count) if self._table else None
        matrix = _rotation(rotary) if rotary and width == 1 else None
        bags = self._bags(tokens) if self._embeddings.lookback else None
        x = self._model.embed(tokens, self._places[slot : slot + width], bags).flatten(0, 1)
        for block, cache in zip(self._model.blocks, self._caches, strict=True):
            qkv = torch.mm(self._normed(x), block.wqkv.t())
            packed = qkv.view(rows, width, 3, self._config.n_head, -1).permute(2, 0, 3, 1, 4)
            self._place(packed[:2], rotary, matrix)
            x = self._joined(x, self._attend(packed, cache, slot), block.wo)
            x = self._joined(x, self._activated(x, block), block.fc2)
        last = x.view(rows, width, -1)[:, -1].to(self._model.dtype)
        self._logits = head_logits(last, self._model.head, softcap=self._config.logit_softcap)

    def _bags(self, tokens: Tensor) -> Bags:
        """What the tokens embed, and remember the last of them for those to come."""
        text = np.concatenate((self._past, tokens.cpu().numpy()), axis=1)
        rows, offsets = self._embeddings.bags(text, np.zeros_like(text), first=self._past.shape[1])
        self._past = text[:, -self._embeddings.lookback :]
        return Bags(
            torch.from_numpy(rows).to(self._device), torch.from_numpy(offsets).to(self._device)
        )

    def _place(self, qk: Tensor, rotary: Rotary | None, matrix: Tensor | None) -> None:
        """Rotate and normalise queries and keys, (2, rows, heads, width, head_dim), in place."""
        placed = qk
        if matrix is not None:
            placed = qk @ matrix
        elif rotary is not None:
            placed = rotate(qk, rotary, torch.empty_like(qk))
        if self._config.qk_norm:
            torch.mul(placed, self._inverse_rms(placed), out=qk)
        elif placed is not qk:
            qk.copy_(placed)

    def _attend(
        self,
        packed: Tensor,  # (3, rows, heads, width, head_dim)
        cache: Tensor,  # (2, rows, heads, block_size, head_dim) of this layer
        slot: int,
    ) -> Tensor:  # (rows · width, n_embd)
        width = packed.shape[3]
        cache.narrow(3, slot, width).copy_(packed[1:])
        filled = min(self._count, self._config.block_size)
        keys, values = cache.narrow(3, 0, filled).unbind(0)
        mixed = F.scaled_dot_product_attention(packed[0], keys, values, is_causal=width > 1)
        return mixed.transpose(1, 2).reshape(-1, self._config.n_embd)

    def _activated(self, x: Tensor, block: Block) -> Tensor:  # (n, 4 · n_embd)
        inner = torch.mm(self._normed(x), block.fc1.t()).relu_()
        return inner.square_() if self._squared else inner

    def _normed(self, x: Tensor) -> Tensor:  # (n, n_embd) in the compute dtype
        return (x * self._inverse_rms(x)).to(self._model.dtype)

    def _inverse_rms(self, x: Tensor) -> Tensor:  # (..., 1)
        """(mean(x²) + eps)^−½ in two calls: a vector's dot with itself as a product of matrices."""
        flat = x.reshape(-1, 1, x.shape[-1])
        scale = 1 / x.shape[-1]
        squares = torch.baddbmm(self._eps[x.dtype], flat, flat.transpose(1, 2), alpha=scale)
        return squares.rsqrt_().view(*x.shape[:-1], 1)

    def _joined(self, x: Tensor, branch: Tensor, weight: Tensor) -> Tensor:  # as x
        """The residual stream after a branch."""
        if x.dtype == branch.dtype:
            return torch.addmm(x, branch, weight.t())
        return x + branch @ weight.t()


def _draws_on(logits: Tensor) -> bool:
    """Whether the device of the logits has a draw for them."""
    if logits.device.type != "cuda" or logits.dtype == torch.float64:
        return logits.device.type == "cpu"
    try:
        native.cuda()
    except KernelError:  # built where there was no nvcc
        return False
    return True


def _rotation(rotary: Rotary) -> Tensor:  # (head_dim, head_dim), to multiply from the right
    """One position's rotation as a matrix: one product a layer instead of seven calls."""
    sin, half = rotary.sin[0], rotary.sin.shape[-1]
    matrix = torch.diag(rotary.cos[0])
    matrix.diagonal(-half).copy_(sin)
    matrix.diagonal(half).copy_(-sin)
    return matrix

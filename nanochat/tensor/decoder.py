"""Decoding with the tensor models: which decoder reads a model's texts, and the one in plain torch.

TensorDecoder runs model.py with a cache of keys and values. Every GPU uses it, and so does a CPU
for the models that the C kernel does not compute (native/decoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.errors import KernelError
from nanochat.ops._sample import refuse_rows_without_token, sample_with_random
from nanochat.sampling.cpu_draw import DrawsOnCpu
from nanochat.tensor.embeddings import Bags, EmbeddingTables
from nanochat.tensor.inputs import Inputs, RotaryTable
from nanochat.tensor.model import KeyValueCache, MiniGPT
from nanochat.tensor.native import decodes
from nanochat.tensor.native.decoder import NativeDecoder

__all__ = ["TensorDecoder", "open_decoder"]

# A CPU step of at most this many elements of the residual stream runs on one thread. A second
# thread gains nothing (0.54 ms per token either way at 1 × 128). On a busy machine it costs time
# slices (0.37 ms against 15.6 at 1 × 64 with three other processes).
ONE_THREAD_ELEMENTS = 1024


def open_decoder(
    model: MiniGPT,
    config: TrainConfig,
    table: RotaryTable | None,
    prompts: Sequence[Sequence[int]],
    device: torch.device,
) -> TensorDecoder | NativeDecoder:
    """Return a decoder that has read the prompts, all of one length ≥ 1."""
    if decodes(config, device.type, model.dtype):
        return NativeDecoder(model, config, prompts)
    return TensorDecoder(model, config, table, prompts, device)


class TensorDecoder(DrawsOnCpu):
    """Next-token logits of rows that grow together; see training.engine.Decoder.

    With RoPE, keys are stored rotated, so the newest token overwrites the oldest in the cache.
    Learned positions are absolute: when the window moves, it is read again as a new text.
    """

    def __init__(
        self,
        model: MiniGPT,
        config: TrainConfig,
        table: RotaryTable | None,
        prompts: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._model, self._config, self._table, self._device = model, config, table, device
        self.draw_threads = torch.get_num_threads()
        self._rereads = config.model_kind == "mini-gpt" and table is None
        self._tokens = torch.tensor(prompts, dtype=torch.int64, device=device)  # (rows, length)
        self._slots = torch.arange(config.block_size, device=device)
        self._embeddings = EmbeddingTables.of(config, len(model.head))
        self._caches = [KeyValueCache(len(prompts), config, model.head) for _ in model.blocks]
        self._clear()
        self._read_prompts()

    def _clear(self) -> None:
        """Forget all tokens."""
        self._count = 0  # tokens read
        for cache in self._caches:
            cache.count = 0
        self._past: NDArray[np.int64] = np.empty((len(self._tokens), 0), dtype=np.int64)

    @property
    def logits(self) -> NDArray[np.float64] | NDArray[np.float32]:
        return self._logits.cpu().numpy()

    def draw_own(
        self,
        rows: NDArray[np.intp],
        random: NDArray[np.uint64],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]:
        """Draw on the device of the logits if it has the kernel, to copy tokens instead of
        logits; see sampling.sampling.DrawsOwnTokens."""
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
        prompts = self._tokens
        if self._rereads:
            self._tokens = prompts[:, -size:]
            self._read(self._tokens)
            return
        self._read(prompts[:, :size])
        for column in range(size, prompts.shape[1]):
            self._read(prompts[:, column : column + 1])

    @torch.inference_mode()
    def advance(self, ids: Sequence[int]) -> None:
        tokens = torch.tensor(ids, dtype=torch.int64, device=self._device).unsqueeze(1)
        if self._rereads:
            self._tokens = torch.cat((self._tokens, tokens), dim=1)[:, -self._config.block_size :]
            if self._count == self._config.block_size:
                self._clear()
                tokens = self._tokens
        threads = torch.get_num_threads()
        if self._device.type != "cpu" or tokens.numel() * self._config.n_embd > ONE_THREAD_ELEMENTS:
            self._read(tokens)
            return
        torch.set_num_threads(1)
        try:
            self._read(tokens)
        finally:
            torch.set_num_threads(threads)

    def _read(self, tokens: Tensor) -> None:  # (rows, 1), or more into an empty cache
        """Append tokens and compute the logits of the next one."""
        rows, length = tokens.shape
        first, slot = self._count, self._count % self._config.block_size
        self._count += length
        inputs = Inputs(
            rows=rows, length=length, tokens=tokens.reshape(-1),
            positions=self._slots[slot : slot + length].expand(rows, length).reshape(-1),
            rotary=self._table.span(first, self._count) if self._table else None,
            bags=self._bags(tokens) if self._embeddings.lookback else None,
        )  # fmt: skip
        self._logits = self._model.next_logits(inputs, self._caches)

    def _bags(self, tokens: Tensor) -> Bags:
        """Return the table rows of the tokens; remember the last tokens for those to come."""
        text = np.concatenate((self._past, tokens.cpu().numpy()), axis=1)
        rows, offsets = self._embeddings.bags(text, np.zeros_like(text), first=self._past.shape[1])
        self._past = text[:, -self._embeddings.lookback :]
        return Bags(
            torch.from_numpy(rows).to(self._device), torch.from_numpy(offsets).to(self._device)
        )


def _draws_on(logits: Tensor) -> bool:
    """Return whether the device of the logits has a sampling kernel for them."""
    if logits.device.type != "cuda" or logits.dtype == torch.float64:
        return logits.device.type == "cpu"
    try:
        native.cuda()
    except KernelError:  # built where there was no nvcc
        return False
    return True

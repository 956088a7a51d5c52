"""Decoding by nck_decode_rows: texts that join and leave while others go on.

Each row holds one text at a position of its own. Its logits are bit-identical to those of a
NativeDecoder of this text alone. Leaves out what the texts are and how tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nanochat import native
from nanochat.config.options import TrainConfig
from nanochat.tensor.model import MiniGPT
from nanochat.tensor.native.decoder import ONE_THREAD_MULTIPLY_ADDS, OpenedDecoder

__all__ = ["NativeRows"]


class NativeRows:
    """Next-token logits of up to `rows` texts of any lengths.

    Opening it copies the matrices of the model. The embeddings are read in place, so training must
    not change them before it is closed.
    """

    def __init__(self, model: MiniGPT, config: TrainConfig, rows: int) -> None:
        self._opened = OpenedDecoder(model, config, rows)
        self._size = config.block_size
        # The logits of a row stay where they are until its next token.
        self.kept_logits: NDArray[Any] = np.zeros(
            (rows, len(model.head)), np.float64 if model.dtype == torch.float64 else np.float32
        )
        self._counts = np.zeros(rows, np.int64)  # tokens that each row has read, or 0 to begin
        # Learned positions are absolute: when the window moves, it is read again as a new text.
        learned = model.embedding.wpe is not None
        self._windows = np.empty((rows, self._size), np.int64) if learned else None
        # A window that is read again needs its tokens here, one by one.
        self.can_write = self._windows is None
        self._dtype = native.DTYPES[self.kept_logits.dtype.name]
        self._decode, self._write = native.kernel("decode_rows"), native.kernel("write_rows")
        self._logits_address = int(self.kept_logits.ctypes.data)
        self._newest = self._arguments(np.empty(0, np.int64), np.empty(0, np.int64), 1)

    def begin(self, row: int) -> None:
        """Forget the text of a row."""
        self._counts[row] = 0

    def read(self, row: int, ids: Sequence[int]) -> None:
        """Append tokens to a text that does not grow beyond block_size."""
        tokens = np.array([ids], np.int64)
        self._keep(np.array([row]), tokens)
        self._call(np.array([row]), tokens)

    def advance(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Append one token to each of these rows, whose numbers ascend. Both are contiguous."""
        windows = self._windows
        if windows is None:
            if rows is not self._newest.rows or ids is not self._newest.ids:
                self._newest = self._arguments(rows, ids, 1)
            self._decoded(self._newest, 0)
            return
        full = self._counts[rows] == self._size
        for row, token in zip(rows[full].tolist(), ids[full].tolist(), strict=True):
            windows[row, :-1] = windows[row, 1:]
            windows[row, -1] = token
            self._counts[row] = 0
            self._call(np.array([row]), windows[row : row + 1])
        if not full.all():
            rows, tokens = rows[~full], ids[~full, None]
            self._keep(rows, tokens)
            self._call(rows, tokens)

    def write(
        self,
        rows: NDArray[np.int64],  # ascending
        newest: NDArray[np.int64],  # (rows,) the token that each of them reads first
        random: NDArray[np.uint64],  # (steps, rows) for each draw
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        first_end: int,  # the step that draws 0, or a token from here on, is the last one
        mixture: int,  # address of an nck_mixture of these logits, or 0
        contexts: int,  # address of its contexts, to which the tokens are appended
        draw_threads: int,
    ) -> NDArray[np.int64]:  # (steps, rows) up to the last one
        """Read the newest tokens and draw the next ones, step by step, by nck_write_rows.

        Raises LogitsError for logits that hold NaN or only −inf.
        """
        assert self._windows is None and random.flags.c_contiguous  # see can_write
        tokens, done = np.empty(random.shape, np.int64), np.zeros(1, np.int64)
        arguments = self._arguments(rows, newest, 1)
        status = self._write(
            self._opened.handle, rows.ctypes.data, len(rows), newest.ctypes.data,
            self._logits_address, self.kept_logits.shape[1], self._dtype, mixture, contexts,
            random.ctypes.data, temperature, top_k, top_p, first_end, len(random),
            tokens.ctypes.data, done.ctypes.data, arguments.threads, draw_threads,
        )  # fmt: skip
        if status:
            native.check(status, native.cpu())
        return tokens[: done[0]]

    def _keep(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        if self._windows is not None:
            columns = self._counts[rows, None] + np.arange(tokens.shape[1])
            self._windows[rows[:, None], columns] = tokens

    def _call(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        firsts = self._counts[rows]
        arguments = self._arguments(rows, np.ascontiguousarray(tokens), tokens.shape[1])
        self._decoded(arguments, firsts.ctypes.data)
        self._counts[rows] += tokens.shape[1]

    def _arguments(
        self, rows: NDArray[np.int64], ids: NDArray[np.int64], length: int
    ) -> _Arguments:
        few = len(rows) * length * self._opened.multiply_adds < ONE_THREAD_MULTIPLY_ADDS
        return _Arguments(
            rows, ids, (rows.ctypes.data, len(rows), ids.ctypes.data, length),
            1 if few else torch.get_num_threads(),
        )  # fmt: skip

    def _decoded(self, arguments: _Arguments, firsts: int) -> None:  # an address, or 0: goes on
        status = self._decode(
            self._opened.handle, *arguments.addresses, firsts, self._logits_address,
            arguments.threads,
        )  # fmt: skip
        if status:
            native.check(status, native.cpu())


class _Arguments(NamedTuple):
    """Arguments of nck_decode_rows. Making the addresses costs as much as a small step."""

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    addresses: tuple[int, int, int, int]  # of rows, their number, of ids, tokens per row
    threads: int

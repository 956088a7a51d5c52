"""Decoding with the scalar models. Keeps keys and values, but no graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.config.options import TrainConfig
from nanochat.scalar.draw import draw
from nanochat.scalar.replay import Replay, Segments
from nanochat.scalar.value import Tape

__all__ = ["ReplayDecoder", "ScalarDecoder"]


class ScalarDecoder:
    """Next-token logits of rows that grow together, on the tape; see training.engine.Decoder."""

    draw = staticmethod(draw)

    def __init__(
        self, model: Any, tape: Tape, config: TrainConfig, prompts: Sequence[Sequence[int]]
    ) -> None:
        self._model, self._tape, self._config = model, tape, config
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._caches = [model.new_cache() for _ in prompts]
        self.logits: NDArray[np.float64] = np.empty((len(prompts), 0))
        for ids in zip(*prompts, strict=True):
            self.advance(ids)

    def advance(self, ids: Sequence[int]) -> None:
        with self._tape.no_grad():
            rows = [self._advance_row(row, token) for row, token in enumerate(ids)]
        self.logits = np.array(rows, dtype=self._tape.dtype)

    def _advance_row(self, row: int, token: int) -> list[float]:
        tokens, block_size = self._tokens[row], self._config.block_size
        tokens.append(token)
        full = len(tokens) > block_size and self._config.model_kind == "mini-gpt"
        if full and self._config.positions == "learned":
            # Learned positions are absolute: a window that moves is computed again.
            self._caches[row] = self._model.new_cache()
            window = tokens[-block_size:]
            logits = [self._model.logits(t, i, self._caches[row]) for i, t in enumerate(window)][-1]
        else:
            if full:
                self._caches[row].drop_oldest()
            logits = self._model.logits(token, len(tokens) - 1, self._caches[row])
        return [logit.data for logit in logits]


class ReplayDecoder:
    """The same by replay: the whole window again per token, which takes microseconds.

    With rotary positions, tokens beyond block_size need the keys of earlier tokens, which a replay
    of the window does not keep. From that length on, a ScalarDecoder takes over.
    """

    draw = staticmethod(draw)

    def __init__(
        self,
        replay: Replay,
        model: Any,
        tape: Tape,
        config: TrainConfig,
        prompts: Sequence[Sequence[int]],
    ) -> None:
        self._replay, self._model, self._tape, self._config = replay, model, tape, config
        self._tokens = [list(prompt) for prompt in prompts]
        self._window = Segments(
            np.zeros(len(prompts), dtype=np.int32), np.empty((len(prompts), 0), np.int32), None
        )
        self._on_tape: ScalarDecoder | None = None
        self.logits: NDArray[np.float64] = np.empty((len(prompts), 0))
        if prompts and prompts[0]:
            self._compute()

    def advance(self, ids: Sequence[int]) -> None:
        if self._on_tape is not None:
            self._on_tape.advance(ids)
            self.logits = self._on_tape.logits
            return
        for row, token in zip(self._tokens, ids, strict=True):
            row.append(token)
        self._compute()

    def _compute(self) -> None:
        block_size, length = self._config.block_size, len(self._tokens[0])
        rolls = self._config.positions == "rope" and self._config.model_kind == "mini-gpt"
        if length > block_size and rolls:
            self._on_tape = ScalarDecoder(self._model, self._tape, self._config, self._tokens)
            self.logits = self._on_tape.logits
            return
        window = min(length, block_size)
        self._replay.reserve(min(-(-window // 8) * 8, max(window, block_size)))
        self._move_window(window)
        logits = self._replay.last_logits(self._window)
        self.logits = logits.astype(self._tape.dtype, copy=False)

    def _move_window(self, length: int) -> None:
        """Set the window to the last `length` tokens of each row; a window that grows adds one."""
        lengths, tokens = self._window.lengths, self._window.tokens
        grown = len(lengths) and length == lengths[0] + 1
        if grown and tokens.shape[1] == 2 * self._replay.positions:
            tokens[:, 2 * length - 2] = [row[-1] for row in self._tokens]
        else:
            tokens = np.zeros((len(lengths), 2 * self._replay.positions), dtype=np.int32)
            tokens[:, 0 : 2 * length : 2] = [row[-length:] for row in self._tokens]
            self._window = Segments(lengths, tokens, None)
        lengths[:] = length

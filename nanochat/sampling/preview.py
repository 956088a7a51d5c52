"""A short sample of a model that is still in training, for a share of the run's time.

The same random numbers are used each time, so successive previews differ only by the weights. The
engine's own decoder draws them; nothing of the run changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import NanochatError
from nanochat.sampling.sampling import OpensDecoders, PhraseBias, SamplingSettings, sample_tokens
from nanochat.sampling.stop import StopText

__all__ = ["Preview"]

SHARE = 0.02  # of the time since the run began
FIRST_S = 0.01  # for the first previews, which have no time to take a share of


class Preview:
    """The beginning of sample 1, as often as it is asked for, within SHARE of the time.

    A slow model gets fewer tokens, and no preview while its first token would take too long.
    """

    def __init__(
        self,
        engine: OpensDecoders,
        tokenizer: Tokenizer,
        context: Sequence[int],
        settings: SamplingSettings,
        *,
        bias: PhraseBias | None = None,
        start: str | None = None,  # in place of the text of the context
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._tokenizer, self._context = engine, tokenizer, context
        self._settings, self._bias, self._clock = settings, bias, clock
        self._start = tokenizer.decode(context) if start is None else start
        self._text_tokens = plain_tokenizer(tokenizer).vocab_size
        self._began = clock()
        self._spent_s = 0.0
        self._first_s = 0.0  # what the first token of the last preview took

    def text(self, columns: int) -> str:
        """Return a text that fills about `columns`; empty if there is no time for it or the weights
        give no probabilities."""
        began = self._clock()
        allowed_s = FIRST_S + SHARE * (began - self._began) - self._spent_s
        if allowed_s < self._first_s:
            return ""
        try:
            return self._draw(columns, began, began + allowed_s)
        except (ValueError, NanochatError):  # logits that are not finite; the loop will tell
            return ""
        finally:
            self._spent_s += self._clock() - began

    def _draw(self, columns: int, began: float, end: float) -> str:
        # No character takes more than four tokens.
        most = min(4 * columns, self._settings.max_new_tokens)
        settings = replace(self._settings, max_new_tokens=most)
        stream, stop = self._tokenizer.stream(), StopText(settings.stop)
        text, is_first = self._start, True
        for (token,) in sample_tokens(
            self._engine, self._context, settings, rows=1, bias=self._bias
        ):
            now = self._clock()
            if is_first:
                self._first_s, is_first = now - began, False
            text += stop.push(stream.push(token)) if token is not None else ""
            is_over = token is None or token >= self._text_tokens
            if is_over or stop.found or now > end or len(text.strip()) > columns:
                break
        return text + stop.push(stream.flush()) + stop.flush()

"""Tokens from a decoder, row by row, until BOS or a stop: the loop around the draw.

Owns the random number of each (row, position), the end of a row, and the bias towards phrases of
a style. The draw itself is in draw.py, the text of the tokens in generate.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nanochat import philox
from nanochat.config.options import SampleConfig, options_of
from nanochat.data.tokenizer import BOS
from nanochat.errors import ConfigError
from nanochat.philox import Stream
from nanochat.sampling.draw import draw
from nanochat.training.engine import Decoder
from nanochat.training.guards import check_temperature

__all__ = [
    "DrawsOwnTokens",
    "DrawsTokens",
    "OpensDecoders",
    "PhraseBias",
    "RANDOM_BLOCK",
    "SamplingSettings",
    "random_block",
    "sample_tokens",
]

RANDOM_BLOCK = 128  # positions whose random integers are generated at a time


class OpensDecoders(Protocol):
    """What sampling needs of an engine; the counted bigram has it too."""

    def open_decoder(self, prompts: Sequence[Sequence[int]]) -> Decoder: ...


@runtime_checkable
class DrawsTokens(Protocol):
    """A decoder with a native draw that returns the same tokens as draw.py."""

    def draw(
        self,
        logits: NDArray[Any],  # (rows, vocab), its own or with a bias added
        random: NDArray[np.uint64],  # (rows,)
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]: ...  # (rows,)


@runtime_checkable
class DrawsOwnTokens(Protocol):
    """A decoder that draws the same tokens from its own logits, without copying them to NumPy."""

    def draw_own(
        self,
        rows: NDArray[np.intp],  # of its logits, ascending
        random: NDArray[np.uint64],  # one for each of these rows
        *,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> NDArray[np.int64]: ...  # one for each of these rows


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How tokens are drawn. Raises ConfigError for a value that `nanochat sample` would refuse."""

    temperature: float
    top_k: int  # 0: all
    top_p: float
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()  # texts that end a sample

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        known = options_of(SampleConfig)
        for field in fields(self):
            value = getattr(self, field.name)
            if not known[field.name].accepts(value):
                raise ConfigError(known[field.name].refusal(field.name, value))


class PhraseBias:
    """Adds `weight` to the logit of every token that continues a phrase the text has begun."""

    def __init__(self, phrases: Sequence[Sequence[int]], weight: float) -> None:
        self.weight = weight
        self._continuations: dict[tuple[int, ...], set[int]] = {}
        for phrase in phrases:
            for length in range(1, len(phrase)):
                prefix = tuple(phrase[:length])
                self._continuations.setdefault(prefix, set()).add(phrase[length])
        self._lengths = sorted({len(prefix) for prefix in self._continuations})

    def apply(self, logits: NDArray[Any], history: Sequence[int]) -> NDArray[Any]:
        """Return the (vocab,) logits after `history` with the bias; a token that continues several
        phrases gets it once."""
        favored: set[int] = set()
        for length in self._lengths:
            if length > len(history):
                break
            favored |= self._continuations.get(tuple(history[-length:]), set())
        if not favored or not self.weight:
            return logits
        biased = logits.copy()
        biased[sorted(favored)] += self.weight
        return biased


def sample_tokens(
    engine: OpensDecoders,
    prompt: Sequence[int],  # at least one token
    settings: SamplingSettings,
    *,
    rows: int,
    first_row: int = 0,
    bias: PhraseBias | None = None,
    stopped: NDArray[np.bool_] | None = None,  # (rows,) rows that the caller has ended
) -> Iterator[list[int | None]]:
    """Yield for each new position one token per row, None for a row that has ended.

    A row ends when it draws BOS or when the caller sets its element of `stopped`. The tokens end
    when every row has ended, or after max_new_tokens. Row i uses the random numbers of
    sample first_row + i: a sample does not depend on how many others are drawn.
    """
    assert len(prompt)  # the caller opens it with BOS or start text
    if not rows:
        return
    decoder = engine.open_decoder([list(prompt)] * rows)
    newest, active = [prompt[-1]] * rows, np.arange(rows)
    draw_tokens = _drawer(decoder, settings, bias, prompt, newest)
    for position in range(settings.max_new_tokens):
        if position:
            decoder.advance(newest)
        if position % RANDOM_BLOCK == 0:
            random = random_block(settings, first_row, rows, position)
        words = random[position % RANDOM_BLOCK]
        tokens = draw_tokens(active, words if len(active) == rows else words[active])
        drawn: list[int] = tokens.tolist()
        if len(drawn) == rows:
            newest[:] = drawn
            step: list[int | None] = [*drawn]
        else:
            step = [None] * rows
            for row, token in zip(active.tolist(), drawn, strict=True):
                step[row] = newest[row] = token
        yield step
        if BOS not in drawn and (stopped is None or not stopped.any()):
            continue  # the common case: no row has ended
        goes_on = tokens != BOS
        if stopped is not None:
            goes_on &= ~stopped[active]
        active = active[goes_on]
        if not len(active):
            return


def _drawer(
    decoder: Decoder,
    settings: SamplingSettings,
    bias: PhraseBias | None,
    prompt: Sequence[int],
    newest: Sequence[int],  # the last token of each row, kept up to date by the caller
) -> Callable[[NDArray[np.intp], NDArray[np.uint64]], NDArray[np.int64]]:
    # the rows that go on, and a random integer for each → a token of each
    how: dict[str, Any] = {
        "temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p,
    }  # fmt: skip
    if bias is None and isinstance(decoder, DrawsOwnTokens):
        own = decoder.draw_own
        return lambda rows, random: own(rows, random, **how)
    draw_here = decoder.draw if isinstance(decoder, DrawsTokens) else draw
    if bias is None:
        return lambda rows, random: draw_here(np.asarray(decoder.logits)[rows], random, **how)
    phrases = bias
    texts = [list(prompt[:-1]) for _ in newest]

    def draw_tokens(rows: NDArray[np.intp], random: NDArray[np.uint64]) -> NDArray[np.int64]:
        for text, token in zip(texts, newest, strict=True):
            text.append(token)
        logits = np.asarray(decoder.logits)[rows]
        pairs = zip(logits, (texts[row] for row in rows.tolist()), strict=True)
        return draw_here(np.stack([phrases.apply(*pair) for pair in pairs]), random, **how)

    return draw_tokens


def random_block(
    settings: SamplingSettings, first_row: int, rows: int, position: int, most: int = RANDOM_BLOCK
) -> NDArray[np.uint64]:  # (positions of this block, rows)
    count = min(most, settings.max_new_tokens - position)
    random = philox.random_u64s(
        settings.seed, Stream.SAMPLING, first_row, rows, count, first=position
    )
    return np.ascontiguousarray(random.T)

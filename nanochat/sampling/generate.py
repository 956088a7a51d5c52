"""Text from an engine: the tokens of the prompt, the samples, the phrases of a style."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nanochat.config.options import ChatConfig, SampleConfig, TrainConfig
from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.style import style_phrases
from nanochat.data.tokenizer import BOS, Tokenizer
from nanochat.errors import TokenizerError
from nanochat.sampling.sampling import OpensDecoders, PhraseBias, SamplingSettings, sample_tokens
from nanochat.sampling.stop import StopText
from nanochat.training.guards import check_prompt

__all__ = [
    "GrowingText",
    "generate",
    "phrase_bias",
    "prompt_tokens",
    "sampling_settings",
    "stream",
]


def sampling_settings(config: SampleConfig | ChatConfig | TrainConfig) -> SamplingSettings:
    """Return the sampling options of a command."""
    return SamplingSettings(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        stop=config.stop,
    )


def prompt_tokens(
    tokenizer: Tokenizer, prompt: str, start: Sequence[int], block_size: int
) -> list[int]:
    """Return the tokens that a sample starts from. Raises TokenizerError, PromptTooLong.

    A prompt follows BOS where BOS opens documents; a model of one long document gets it without.
    """
    try:
        tokens = [int(token) for token in tokenizer.encode(prompt)]
    except TokenizerError as error:
        raise TokenizerError(f"prompt: {error}") from None
    if not tokens:
        return list(start)
    opens_with_bos = list(start) == [BOS]
    context = [BOS, *tokens] if opens_with_bos else tokens
    check_prompt(len(context), block_size, bos=opens_with_bos)
    return context


def phrase_bias(tokenizer: Tokenizer, style: str, weight: float) -> PhraseBias | None:
    """Return the bias towards the style's phrases, or None for the classic style."""
    if style != "futuristic":
        return None
    phrases = []
    for phrase in style_phrases():
        try:
            phrases.append([int(token) for token in tokenizer.encode(phrase)])
        except TokenizerError:
            continue  # the vocabulary lacks a character of this phrase
    return PhraseBias(phrases, weight)


def generate(
    engine: OpensDecoders,
    tokenizer: Tokenizer,
    context: Sequence[int],
    settings: SamplingSettings,
    rows: int,
    *,
    bias: PhraseBias | None = None,
    first_row: int = 0,
    on_text: Callable[[str], None] | None = None,  # receives the first row piece by piece
    on_tokens: Callable[[Sequence[int | None]], None] | None = None,  # one token per row, drawn now
    stop: Callable[[], bool] = lambda: False,  # true: end the texts after this token
) -> list[str]:
    """Return one text per row, the prompt included.

    The pieces that `on_text` receives are whole characters and together are the first text.
    """
    start = tokenizer.decode(context)
    texts = [
        GrowingText(start, tokenizer, settings, on_text if row == 0 else None)
        for row in range(rows)
    ]
    stopped = np.zeros(rows, dtype=np.bool_)
    steps = sample_tokens(
        engine, context, settings, rows=rows, first_row=first_row, bias=bias, stopped=stopped
    )
    for step in steps:
        if on_tokens is not None:
            on_tokens(step)
        for row, token in enumerate(step):
            if token is not None:
                stopped[row] = texts[row].push(token)
        if stop():
            break
    return [text.end() for text in texts]


def stream(
    engine: OpensDecoders,
    tokenizer: Tokenizer,
    context: Sequence[int],
    settings: SamplingSettings,
    *,
    bias: PhraseBias | None = None,
    start: str | None = None,  # in place of the text of the context
    first_row: int = 0,
) -> Iterator[str]:
    """Yield the text that `generate` returns for one row, in pieces of whole characters."""
    pieces: list[str] = []
    first = tokenizer.decode(context) if start is None else start
    text = GrowingText(first, tokenizer, settings, pieces.append)
    stopped = np.zeros(1, dtype=np.bool_)
    yield from _taken(pieces)
    steps = sample_tokens(
        engine, context, settings, rows=1, first_row=first_row, bias=bias, stopped=stopped
    )
    for (token,) in steps:
        assert token is not None  # the only row goes on
        stopped[0] = text.push(token)
        yield from _taken(pieces)
    text.end()
    yield from pieces


def _taken(pieces: list[str]) -> list[str]:
    taken, pieces[:] = pieces[:], []
    return taken


class GrowingText:
    """The text of one row as it grows, up to a stop text or a special token."""

    def __init__(
        self,
        start: str,
        tokenizer: Tokenizer,
        settings: SamplingSettings,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self._text = ""
        self._text_tokens = plain_tokenizer(tokenizer).vocab_size
        self._stream = tokenizer.stream()
        self._stop = StopText(settings.stop)
        self._on_text = on_text
        self._add(start)

    def _add(self, piece: str) -> None:
        self._text += piece
        if self._on_text is not None and piece:
            self._on_text(piece)

    def push(self, *tokens: int) -> bool:
        """Append tokens; return whether the text has ended, with a stop text or the last token."""
        self._add(self._stop.push(self._stream.push(*tokens)))
        return self._stop.found or tokens[-1] >= self._text_tokens

    def end(self) -> str:
        """Return the whole text."""
        self._add(self._stop.push(self._stream.flush()))
        self._add(self._stop.flush())
        return self._text

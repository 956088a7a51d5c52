"""Text from an engine: the tokens of the prompt, the samples, the phrases of a style."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nanochat.config.options import SampleConfig, TrainConfig
from nanochat.data.style import style_phrases
from nanochat.data.tokenizer import BOS, Tokenizer
from nanochat.errors import TokenizerError
from nanochat.sampling.sampling import OpensDecoders, PhraseBias, SamplingSettings, sample_tokens
from nanochat.training.guards import check_prompt

__all__ = ["generate", "phrase_bias", "prompt_tokens", "sampling_settings"]


def sampling_settings(config: SampleConfig | TrainConfig) -> SamplingSettings:
    return SamplingSettings(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )


def prompt_tokens(
    tokenizer: Tokenizer, prompt: str, start: Sequence[int], block_size: int
) -> list[int]:
    """Return the tokens that a sample starts from. Raises TokenizerError, PromptTooLong.

    A prompt follows BOS where BOS opens documents; a model of one long document gets it without.
    """
    tokens = [int(token) for token in tokenizer.encode(prompt)]
    if not tokens:
        return list(start)
    context = [BOS, *tokens] if list(start) == [BOS] else tokens
    check_prompt(len(context), block_size)
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
    on_text: Callable[[str], None] | None = None,  # pieces of the text, for one row
    stop: Callable[[], bool] = lambda: False,  # true: end the texts after this token
) -> list[str]:
    """Return one text per row, the prompt included; `on_text` receives the first row piece by
    piece."""
    texts = [tokenizer.decode(context) for _ in range(rows)]
    streams = [tokenizer.stream() for _ in range(rows)]
    if on_text is not None and rows:
        on_text(texts[0])
    steps = sample_tokens(engine, context, settings, rows=rows, first_row=first_row, bias=bias)
    for step in steps:
        for row, token in enumerate(step):
            piece = "" if token is None else streams[row].push(token)
            texts[row] += piece
            if on_text is not None and row == 0:
                on_text(piece)
        if stop():
            break
    return [text + stream.flush() for text, stream in zip(texts, streams, strict=True)]

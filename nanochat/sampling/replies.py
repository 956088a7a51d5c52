"""Replies of a model to a conversation.

Owns how much of the context window the conversation may take. The order of the tokens is in
data/conversations.py, sampling in generate.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanochat.data.conversations import Turn, prompt_of
from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import PromptTooLong, UnsupportedOption
from nanochat.sampling.generate import stream
from nanochat.sampling.sampling import OpensDecoders, SamplingSettings

__all__ = ["Prompt", "check_chats", "reply", "reply_prompt"]

_REPLY_SHARE = 4  # the conversation leaves a reply one part in so many of the context window


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens before a reply."""

    tokens: list[int]
    dropped: int  # oldest turns that do not fit in the context window


def check_chats(tokenizer: Tokenizer, name: str) -> ChatTokenizer:
    """Return the tokenizer of a model of conversations. Raises UnsupportedOption for another."""
    if isinstance(tokenizer, ChatTokenizer):
        return tokenizer
    raise UnsupportedOption(
        f"{name} was not trained on conversations; train on some with --documents chat, or use"
        " completions"
    )


def reply_prompt(
    tokenizer: ChatTokenizer, turns: Sequence[Turn], block_size: int, max_new_tokens: int
) -> Prompt:
    """Return what a reply continues. The oldest turns are dropped to leave room for the reply, but
    never the last one. Raises PromptTooLong, TokenizerError."""
    most = block_size - min(max_new_tokens, block_size // _REPLY_SHARE)
    try:
        return Prompt(*prompt_of(tokenizer, turns, most))
    except PromptTooLong:
        return Prompt(*prompt_of(tokenizer, turns, block_size))


def reply(
    engine: OpensDecoders,
    tokenizer: ChatTokenizer,
    prompt: Prompt,
    settings: SamplingSettings,
    *,
    number: int = 0,  # of the reply, which selects its random numbers
) -> Iterator[str]:
    """Yield the reply in pieces of whole characters."""
    return stream(engine, tokenizer, prompt.tokens, settings, start="", first_row=number)

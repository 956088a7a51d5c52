"""A conversation with what is learned of it marked: in color, or in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import Tokenizer
from nanochat.output.text import escaped

__all__ = ["masked_text"]

_GREEN, _PLAIN = "\x1b[1;32m", "\x1b[0m"


def masked_text(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    is_target: Sequence[bool],  # of each token
    color: bool,
) -> str:
    """Return the text of the tokens, special ones by name, with each run of targets marked.

    A message begins on a new line.
    """
    shown = ""
    pairs = zip(tokens, is_target, strict=True)
    for learned, run in groupby(pairs, key=lambda pair: pair[1]):
        text = _text(tokenizer, [token for token, _ in run])
        if color:
            shown += f"{_GREEN}{escaped(text)}{_PLAIN}" if learned else escaped(text)
        else:
            shown += f"[{text}]" if learned else text
    return shown.removeprefix("\n")


def _text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Return the text of tokens, with a line break before the token of a role."""
    if not isinstance(tokenizer, ChatTokenizer):
        return tokenizer.decode(tokens)
    text, plain = "", list[int]()
    for token in tokens:
        if token < tokenizer.first_special:
            plain.append(token)
            continue
        text += tokenizer.decode(plain)
        plain = []
        begins = token != tokenizer.special("end")
        text += ("\n" if begins else "") + tokenizer.token_text(token) + (" " if begins else "")
    return text + tokenizer.decode(plain)

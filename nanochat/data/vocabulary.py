"""Whether a tokenizer that was made for one text knows another.

Owns the check for characters without an id, and the extended vocabulary that has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nanochat.data.special_tokens import ChatTokenizer
from nanochat.data.tokenizer import CharTokenizer, Tokenizer, characters_of
from nanochat.errors import TokenizerError

__all__ = ["covering", "new_characters"]

_MOST_LISTED = 20


def covering(
    tokenizer: Tokenizer,
    parts: Iterable[Sequence[str]],  # documents
    *,
    extend: bool,
) -> Tokenizer:
    """Return the tokenizer, or with `extend` one that also has the new characters of a text.

    Known characters keep their ids, and new ones follow; after them come the special tokens. Raises
    TokenizerError for new characters without `extend`.
    """
    if isinstance(tokenizer, ChatTokenizer):
        return ChatTokenizer(covering(tokenizer.plain, parts, extend=extend))
    if not isinstance(tokenizer, CharTokenizer):
        return tokenizer  # it has an id for every byte
    new = new_characters(tokenizer, parts)
    if not new:
        return tokenizer
    if extend:
        return tokenizer.extended(new)
    count = f"{len(new)} characters" if len(new) > 1 else "a character"
    raise TokenizerError(
        f"the text has {count} that the model does not know: {_listed(new)}; add"
        " --extend-vocabulary, or take them out of the text"
    )


def new_characters(tokenizer: CharTokenizer, parts: Iterable[Sequence[str]]) -> list[str]:
    """Return the characters of the documents without an id, by code point."""
    return sorted(set(characters_of(parts)).difference(tokenizer.characters))


def _listed(characters: Sequence[str]) -> str:
    listed = " ".join(map(_quoted, characters[:_MOST_LISTED]))
    return f"{listed} …" if len(characters) > _MOST_LISTED else listed


def _quoted(character: str) -> str:
    """Return a character in quotes, escaped if a terminal does not print it."""
    return repr(character) if character.isprintable() else ascii(character)

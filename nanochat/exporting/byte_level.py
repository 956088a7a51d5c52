"""A vocabulary as tokens of printable characters, one per byte, and merges (GPT-2, Radford et al.
2019): the form of byte-pair encoders in other programs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from nanochat.data.bpe import BpeTokenizer
from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.tokenizer import CharTokenizer, Tokenizer

__all__ = ["BOS_TEXT", "ByteLevel", "byte_level", "special_names"]

BOS_TEXT = "<|bos|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteLevel:
    """The tokens by id, BOS first and the special tokens of conversations last, and the pairs that
    are merged, the first pair first."""

    tokens: list[str]
    merges: list[tuple[str, str]]


def byte_level(tokenizer: Tokenizer) -> ByteLevel:
    """Return the vocabulary of a tokenizer of any kind, with its ids."""
    merges: list[tuple[bytes, bytes]] = []
    plain = plain_tokenizer(tokenizer)
    if isinstance(plain, CharTokenizer):
        tokens = [character.encode() for character in plain.characters]
        merges = _joining(tokens)
    elif isinstance(plain, BpeTokenizer):
        tokens = [plain.token(i) for i in range(1, plain.vocab_size)]
        merges = _merges(tokens)
    else:
        tokens = [bytes([byte]) for byte in range(256)]
    return ByteLevel(
        tokens=[BOS_TEXT, *map(_text, tokens), *special_names(tokenizer)],
        merges=[(_text(left), _text(right)) for left, right in merges],
    )


def special_names(tokenizer: Tokenizer) -> list[str]:
    """Return the names of the special tokens of conversations, if there are any."""
    first = plain_tokenizer(tokenizer).vocab_size
    return [tokenizer.token_text(token) for token in range(first, tokenizer.vocab_size)]


def _joining(characters: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return merges that make each character of its bytes, from the first one on."""
    pairs = [(each[:i], each[i : i + 1]) for each in characters for i in range(1, len(each))]
    return list(dict.fromkeys(pairs))


def _merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the two parts of each merged token: what the tokens before it make of its bytes.

    Every other pair with the bytes of the token would have been merged differently before.
    """
    ranks: dict[bytes, int] = {}
    merges = []
    for rank, token in enumerate(tokens):
        parts = _parts(token, ranks)
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
        ranks[token] = rank
    return merges


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Return the bytes merged by rank, the lowest first, until no pair is a token."""
    parts = [bytes([byte]) for byte in token]
    while True:
        joined = [ranks.get(left + right) for left, right in pairwise(parts)]
        best = min((rank for rank in joined if rank is not None), default=None)
        if best is None:
            return parts
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte: itself, or one above U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)]


_CHARACTERS = _byte_characters()


def _text(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)

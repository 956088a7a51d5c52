"""Tokenizers of characters and bytes, and the functions that build or load one of any kind.

Owns the ids, their byte lengths, their JSON form and decoding one token at a time. Leaves out
which text a tokenizer is built from (the caller's choice), where BOS is placed (documents.py) and
byte-pair encoding (bpe.py).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.data.texts import Texts, last_chunk, take_buffer
from nanochat.data.token_checks import (
    checked_ids,
    checked_texts,
    smallest_type,
    surrogate_error,
)
from nanochat.errors import TokenizerError

__all__ = [
    "BOS",
    "ByteTokenizer",
    "CharTokenizer",
    "TextStream",
    "Tokenizer",
    "build_tokenizer",
    "characters_of",
    "tokenizer_from_dict",
]

BOS = 0  # precedes every document and follows the last one; decodes to no text


class TextStream(Protocol):
    """Decodes tokens as they come. The concatenated results equal `decode` of all tokens."""

    def push(self, *tokens: int) -> str:
        """Return the text that these tokens complete; empty inside a multi-byte character."""

    def flush(self) -> str:
        """Return the rest: U+FFFD for a character that was never completed."""


class Tokenizer(Protocol):
    """A vocabulary. Ids are 0 (BOS) to vocab_size − 1.

    special_tokens.py adds those of conversations to one of the tokenizers here.
    """

    @property
    def kind(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """(vocab_size,) raw UTF-8 bytes of each token; 0 for BOS."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text, without BOS. Raises TokenizerError for text without an id."""

    def encode_all(
        self, documents: Sequence[str], *, room: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        """Return the ids of all documents end to end, and the number of ids of each.

        The ids have the smallest unsigned type that holds those of any text. After them come
        `room` unused places, which save the caller a copy.
        """

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of the ids. BOS is dropped; invalid UTF-8 becomes U+FFFD."""

    def token_text(self, token: int) -> str:
        """Return one token for display; a byte that is only part of a character as \\xNN."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form that tokenizer_from_dict reads."""

    def stream(self) -> TextStream:
        """Return a decoder of one token at a time."""


class CharTokenizer:
    """One id per character, from 1: sorted code points, then those that `extended` added."""

    kind = "char"

    def __init__(self, characters: Iterable[str], *, in_order: bool = False) -> None:
        distinct = dict.fromkeys(characters) if in_order else sorted(set(characters))
        self.characters = "".join(distinct)
        self._points = _code_points(self.characters, "characters")
        self.vocab_size = len(self._points) + 1
        # The extra entry at the end holds id 0 for all code points above the largest known one.
        self._ids = np.zeros(int(self._points.max(initial=0)) + 2, dtype=np.int64)
        self._ids[self._points] = np.arange(1, self.vocab_size)
        self.token_bytes = np.zeros(self.vocab_size, dtype=np.int64)
        self.token_bytes[1:] = 1 + sum(
            (self._points >= first).astype(np.int64) for first in (0x80, 0x800, 0x10000)
        )

    def encode(self, text: str) -> NDArray[np.int64]:
        return self.encode_all([text])[0].astype(np.int64)

    def encode_all(
        self, documents: Sequence[str], *, room: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        texts = checked_texts(documents)
        lengths = texts.character_lengths()
        tokens = np.empty(int(lengths.sum()) + room, smallest_type(self.vocab_size))
        done = 0
        for chunk in texts.chunks():
            points, ids = self._encoded(chunk)
            if not ids.all():
                position = int(np.argmin(ids != 0))
                shown, place = chr(int(points[position])), done + position
                raise TokenizerError(
                    f"unknown token {shown!r} at position {_position_text(place, lengths)};"
                    " use characters of the training corpus, or train with tokenizer byte"
                )
            tokens[done : done + len(ids)] = ids
            done += len(ids)
        return tokens, lengths

    def encode_and_free(
        self, waiting: list[Texts], *, room: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        """Return what `encode_all` returns for the only item of a list, which is removed.

        The memory of the text is freed as its tokens are written, from the last one to the first,
        if no one else refers to its buffer. Every character must have an id.
        """
        lengths = waiting[0].character_lengths()
        raw, start = take_buffer(waiting)
        done = int(lengths.sum())
        tokens = np.empty(done + room, smallest_type(self.vocab_size))
        while len(raw) > start:
            chunk = last_chunk(raw, start)
            _, ids = self._encoded(chunk)
            assert ids.all()
            tokens[done - len(ids) : done] = ids
            done -= len(ids)
            # A bytearray gives memory back whenever it has shrunk to half of it.
            del raw[len(raw) - len(chunk) :]
        return tokens, lengths

    def _encoded(
        self, chunk: bytes | memoryview
    ) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.int64]]:
        """Return the code points and the ids of a text; 0 for an unknown character."""
        points = _points_of(chunk)
        return points, self._ids[np.minimum(points, np.uint32(len(self._ids) - 1))]

    def decode(self, ids: ArrayLike) -> str:
        tokens = checked_ids(ids, self.vocab_size)
        points: bytes = self._points[tokens[tokens != BOS] - 1].tobytes()
        return points.decode("utf-32-le")

    def token_text(self, token: int) -> str:
        return self.decode([token])

    def extended(self, characters: Iterable[str]) -> CharTokenizer:
        """Return a tokenizer that has more characters and keeps the ids of these.

        Weights and hashed n-grams of a trained model belong to ids, so new ids must follow.
        """
        added = sorted(set(characters) - set(self.characters))
        return CharTokenizer((*self.characters, *added), in_order=True)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}

    def stream(self) -> TextStream:
        return _CharStream(self)


class _CharStream:
    def __init__(self, tokenizer: CharTokenizer) -> None:
        self._tokenizer = tokenizer

    def push(self, *tokens: int) -> str:
        if len(tokens) == 1 and 0 < tokens[0] < self._tokenizer.vocab_size:  # without NumPy
            return self._tokenizer.characters[tokens[0] - 1]
        return self._tokenizer.decode(tokens)

    def flush(self) -> str:
        return ""


class ByteTokenizer:
    """One id per byte of UTF-8: byte + 1."""

    kind = "byte"
    vocab_size = 257

    def __init__(self) -> None:
        self.token_bytes = np.ones(self.vocab_size, dtype=np.int64)
        self.token_bytes[BOS] = 0

    def encode(self, text: str) -> NDArray[np.int64]:
        return self.encode_all([text])[0].astype(np.int64)

    def encode_all(
        self, documents: Sequence[str], *, room: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        texts = checked_texts(documents)
        lengths = texts.lengths
        # The largest byte of UTF-8 is 0xF4, so ids of text stay below 256.
        tokens = np.empty(int(lengths.sum()) + room, np.uint8)
        done = 0
        for chunk in texts.chunks():
            np.add(np.frombuffer(chunk, np.uint8), 1, out=tokens[done : done + len(chunk)])
            done += len(chunk)
        return tokens, lengths

    def decode(self, ids: ArrayLike) -> str:
        return self._bytes(ids).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        return self._bytes([token]).decode("utf-8", "backslashreplace")

    def _bytes(self, ids: ArrayLike) -> bytes:
        tokens = checked_ids(ids, self.vocab_size)
        raw: bytes = (tokens[tokens != BOS] - 1).astype(np.uint8).tobytes()
        return raw

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def stream(self) -> TextStream:
        return _ByteStream()


class _ByteStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, *tokens: int) -> str:
        checked_ids(tokens, ByteTokenizer.vocab_size)
        return self._decoder.decode(bytes(token - 1 for token in tokens if token != BOS))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def build_tokenizer(
    kind: str,
    train: Sequence[str],
    val: Sequence[str] = (),
    vocab_size: int = 0,
    bpe_pattern: str = "nanochat",
) -> Tokenizer:
    """Build the tokenizer of a kind.

    char has every character of both parts; bpe learns `vocab_size` ids from the training part
    alone, within the matches of a pattern. Raises TokenizerError, MissingDependency.
    """
    if kind == "char":
        return CharTokenizer(characters_of([train, val]))
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        from nanochat.data.bpe import learn

        return learn(train, vocab_size, bpe_pattern)
    raise TokenizerError(f"tokenizer must be one of char, byte, bpe, got {kind}")


def tokenizer_from_dict(saved: Mapping[str, Any]) -> Tokenizer:
    """Load a tokenizer from the output of to_dict. Raises TokenizerError for anything else."""
    kind = saved.get("kind") if isinstance(saved, Mapping) else None
    if kind is not None and "special" in saved:
        from nanochat.data.special_tokens import ChatTokenizer, check_special

        check_special(saved["special"])
        plain = {key: value for key, value in saved.items() if key != "special"}
        return ChatTokenizer(tokenizer_from_dict(plain))
    if kind == "byte" and set(saved) == {"kind"}:
        return ByteTokenizer()
    if kind == "bpe" and set(saved) == {"kind", "pattern", "merged"}:
        from nanochat.data.bpe import BpeTokenizer

        return BpeTokenizer.from_dict(saved)
    if kind == "char" and set(saved) == {"kind", "characters"}:
        characters = saved["characters"]
        if isinstance(characters, str):
            tokenizer = CharTokenizer(characters, in_order=True)
            if tokenizer.characters == characters:
                return tokenizer
        raise TokenizerError("saved tokenizer: characters must be without repeats")
    raise TokenizerError(
        "saved tokenizer must be {kind: byte}, {kind: char, characters: …} or {kind: bpe, …},"
        f" got {str(saved)[:60]!r}"
    )


_CODE_POINTS = 0x110000


def characters_of(parts: Iterable[Sequence[str]]) -> str:
    """Return the sorted characters of all documents."""
    seen = np.zeros(_CODE_POINTS, np.bool_)
    for part in parts:
        for chunk in checked_texts(part).chunks():
            seen[_points_of(chunk)] = True
    return "".join(map(chr, np.flatnonzero(seen).tolist()))


def _points_of(
    chunk: bytes | memoryview,  # valid UTF-8
) -> NDArray[np.unsignedinteger[Any]]:  # (characters,)
    raw = np.frombuffer(chunk, np.uint8)
    if len(raw) == 0 or raw.max() < 0x80:
        return raw
    return np.frombuffer(str(chunk, "utf-8").encode("utf-32-le"), dtype="<u4")


def _code_points(text: str, name: str) -> NDArray[np.uint32]:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError as error:
        raise surrogate_error(error, name) from error


def _position_text(position: int, lengths: NDArray[np.int64]) -> str:
    """Return the position within its document, and the document if there are several."""
    if len(lengths) == 1:
        return str(position)
    ends = np.cumsum(lengths)
    document = int(np.searchsorted(ends, position, side="right"))
    return f"{position - int(ends[document] - lengths[document])} of document {document}"

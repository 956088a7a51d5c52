"""Byte-pair encoding over bytes, trained by rustbpe and applied by tiktoken.

Owns the ids (BOS, then tokens by rank), the JSON form and the split into words. Nothing is
pickled. Every text can be encoded, because every byte is a token.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanochat.data.texts import Texts
from nanochat.data.token_checks import checked_ids, checked_texts, smallest_type
from nanochat.errors import MissingDependency, TokenizerError

if TYPE_CHECKING:
    import tiktoken

__all__ = ["PATTERNS", "BpeTokenizer", "learn"]

BYTES = 256

# A merge never crosses the boundary between two matches of the pattern. That of nanochat: words
# with the space before them, numbers of up to three digits, punctuation, line breaks, other white
# space. The others are those of GPT-2 (Radford et al. 2019) and Llama 3, as llama.cpp names them.
PATTERNS = {
    "nanochat": r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def learn(documents: Sequence[str], vocab_size: int, pattern: str = "nanochat") -> BpeTokenizer:
    """Merge the most frequent pairs until there are `vocab_size` ids, including BOS and bytes.

    The vocabulary is smaller when no pair is left to merge. Raises TokenizerError for a vocab_size
    that is too small, and MissingDependency without rustbpe.
    """
    if vocab_size < BYTES + 2:
        raise TokenizerError(
            f"vocab_size of tokenizer bpe must be at least {BYTES + 2}, got {vocab_size}"
        )
    try:
        import rustbpe
    except ModuleNotFoundError as error:
        raise _missing() from error
    trainer = rustbpe.Tokenizer()
    pieces = (piece for _, batch in _batches(Texts.of(documents), _PIECE) for piece in batch)
    trainer.train_from_iterator(
        pieces, vocab_size - 1, buffer_size=_WAITING, pattern=PATTERNS[pattern]
    )
    ranks = sorted((int(rank), bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    return BpeTokenizer([token for _, token in ranks[BYTES:]], pattern)


class BpeTokenizer:
    """Ids 1 … 256 are the bytes; higher ids are the merged tokens in the order of training."""

    kind = "bpe"

    def __init__(self, merged: Sequence[bytes], pattern: str = "nanochat") -> None:
        self.pattern = pattern  # a key of PATTERNS
        self._tokens = [b"", *(bytes([byte]) for byte in range(BYTES)), *merged]
        self.vocab_size = len(self._tokens)
        self.token_bytes = np.array([len(token) for token in self._tokens], dtype=np.int64)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        try:
            import tiktoken
        except ModuleNotFoundError as error:
            raise _missing() from error
        ranks = {token: rank for rank, token in enumerate(self._tokens[1:])}
        return tiktoken.Encoding(
            name="nanochat",
            pat_str=PATTERNS[self.pattern],
            mergeable_ranks=ranks,
            special_tokens={},
        )

    def encode(self, text: str) -> NDArray[np.int64]:
        return self.encode_all([text])[0].astype(np.int64)

    def encode_all(
        self, documents: Sequence[str], *, room: int = 0
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        texts, kind = checked_texts(documents), smallest_type(self.vocab_size)
        raw = bytearray()  # grows in place, where joining arrays would need them twice
        lengths = np.zeros(len(texts), np.int64)
        for first, batch in _batches(texts):
            encoded = self._encoding.encode_ordinary_batch(batch)
            counts = np.fromiter(map(len, encoded), np.int64, count=len(encoded))
            lengths[first : first + len(encoded)] += counts
            part = np.fromiter(chain.from_iterable(encoded), kind, count=int(counts.sum()))
            part += 1
            raw += part.data
        raw += bytes(room * kind.itemsize)
        return np.frombuffer(raw, kind), lengths

    def decode(self, ids: ArrayLike) -> str:
        return self._bytes(ids).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        return self._bytes([token]).decode("utf-8", "backslashreplace")

    def token(self, token: int) -> bytes:
        """Return the bytes of a token."""
        return self._tokens[token]

    def _bytes(self, ids: ArrayLike) -> bytes:
        return b"".join(self._tokens[i] for i in checked_ids(ids, self.vocab_size).tolist())

    def to_dict(self) -> dict[str, Any]:
        merged = [token.hex() for token in self._tokens[BYTES + 1 :]]
        return {"kind": self.kind, "pattern": PATTERNS[self.pattern], "merged": merged}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> BpeTokenizer:
        """Read the output of to_dict. Raises TokenizerError for anything else."""
        names = [name for name, pattern in PATTERNS.items() if pattern == saved["pattern"]]
        if not names:
            raise TokenizerError(
                "saved tokenizer: pattern must be one of this version of nanochat; load it with the"
                " version that saved it"
            )
        try:
            merged = [bytes.fromhex(token) for token in saved["merged"]]
        except (TypeError, ValueError) as error:
            raise TokenizerError(
                "saved tokenizer: merged must be a list of tokens in hexadecimal"
            ) from error
        if len(set(merged)) != len(merged) or any(len(token) < 2 for token in merged):
            raise TokenizerError(
                "saved tokenizer: merged must be tokens of two or more bytes, without repeats"
            )
        return cls(merged, names[0])

    def stream(self) -> _BpeStream:
        return _BpeStream(self)


class _BpeStream:
    def __init__(self, tokenizer: BpeTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, *tokens: int) -> str:
        return self._decoder.decode(self._tokenizer._bytes(tokens))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def _batches(texts: Texts, size: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first text, texts): many short ones, or a part of a long one.

    A list of ids takes many times the memory of its text. A long text is cut where every pattern
    ends a token, whatever follows.
    """
    limit = size or _BATCH
    first, batch, waiting = 0, list[str](), 0
    for number, view in enumerate(texts.views()):
        if len(view) > limit:
            if batch:
                yield first, batch
            for part in _parts(view, limit):
                yield number, [part]
            first, batch, waiting = number + 1, [], 0
            continue
        batch.append(str(view, "utf-8"))
        waiting += len(view)
        if waiting >= limit:
            yield first, batch
            first, batch, waiting = number + 1, [], 0
    if batch:
        yield first, batch


_BATCH = 1 << 22  # bytes of text that are encoded at a time
_PIECE, _WAITING = 1 << 16, 512  # bytes of a text to learn from, and texts that rustbpe collects
# After white space a cut could part two tokens differently, and punctuation may take a line break
# along. So cuts are between a visible character and a space, an ASCII letter or digit and a line
# break, an ASCII letter and anything in ASCII that is none, and a Chinese character and a comma or
# full stop.
_CUT = re.compile(
    rb"[!-~](?= )|[0-9A-Za-z](?=\n)|[A-Za-z](?=[\t-@\[-`{-~])"
    rb"|[\xe5-\xe9][\x80-\xbf]{2}(?=\xe3\x80[\x81\x82]|\xef\xbc\x8c)"
)


def _parts(view: memoryview, size: int) -> Iterator[str]:
    start = 0
    while len(view) - start > size:
        cut = _CUT.search(view, start + size)
        if cut is None:
            break
        yield str(view[start : cut.end()], "utf-8")
        start = cut.end()
    yield str(view[start:], "utf-8")


def _missing() -> MissingDependency:
    return MissingDependency(
        "tokenizer bpe needs rustbpe and tiktoken, which are not installed; install them or use"
        " tokenizer char"
    )

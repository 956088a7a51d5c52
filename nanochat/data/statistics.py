"""`--documents auto`: what one document of a text is, from statistics of the text alone.

Five kinds of text are told apart. Conversations: lines that begin with User: and Assistant:.
Lists: many short lines of a few words, hardly any of them blank.
Collections: many short pieces between blank lines that have no more to do with their neighbors than
with any other piece. Fortunes: pieces between lines of a single separator. Everything else, such as
a novel, a manual or source code, is one document per file. The decision is a pure function of the
first SAMPLE bytes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nanochat.data.conversations import looks_like_conversations
from nanochat.data.separation import Lines, find_lines, paragraphs

__all__ = ["SAMPLE", "Decision", "decide"]

SAMPLE = 1 << 22  # bytes at the start of a text

SEPARATORS = ("%", "<|endoftext|>")
_LEAST_SEPARATORS = 3
_LEAST_LINES = 10
_LEAST_PIECES = 20


@dataclass(frozen=True, slots=True)
class Decision:
    """The unit of a document, and the evidence in words."""

    kind: str  # file, line, paragraph, separator or chat
    reason: str
    separator: str | None = None


def decide(raw: memoryview) -> Decision:
    """Decide from a text in UTF-8. Lines at the end of the sample may be cut."""
    sample = _sample(raw)
    found = find_lines(sample)
    separator = _separator(sample, found)
    if separator is not None:
        return Decision("separator", f"pieces between lines of {separator}", separator)
    if looks_like_conversations(str(sample, "utf-8")):
        return Decision("chat", "lines that begin with User: and Assistant:")
    if _is_list(sample, found):
        return Decision("line", "a list of short lines")
    if _is_collection(sample, found):
        return Decision("paragraph", "short pieces between blank lines")
    return Decision("file", "running text")


def _sample(raw: memoryview) -> memoryview:
    """Return the start of a text, up to the end of a line or at least of a character."""
    if len(raw) <= SAMPLE:
        return raw
    end = bytes(raw[:SAMPLE]).rfind(b"\n")
    if end < 0:
        end = SAMPLE
        while raw[end] & 0xC0 == 0x80:
            end -= 1
    return raw[:end]


# ------------------------------------------------------------------------------------ separators


def _separator(sample: memoryview, found: Lines) -> str | None:
    """Return the text that lines between pieces consist of."""
    text = bytes(sample)
    for separator in SEPARATORS:
        literal = re.escape(separator.encode())
        alone = len(re.findall(rb"(?m)^" + literal + rb"[ \t]*\r?$", text))
        starting = len(re.findall(rb"(?m)^" + literal, text))
        shown = int(np.count_nonzero(~found.blank)) - alone
        # Comments of TeX and PostScript begin with % too, and some of them are empty.
        if alone >= _LEAST_SEPARATORS and starting <= 1.1 * alone and shown >= alone:
            return separator
    return None


# ----------------------------------------------------------------------------------------- lists


def _is_list(sample: memoryview, found: Lines) -> bool:
    """Return whether the text is a list of words or names: many short, different lines."""
    count = int(np.count_nonzero(~found.blank))
    blank = len(found.blank) - count - 1  # text after the last line break is no blank line
    if count < _LEAST_LINES or blank > 0.02 * count:
        return False
    lines = [line for line in str(sample, "utf-8").split("\n") if line.strip()][:50_000]
    lines = [line.removesuffix("\r") for line in lines]
    lengths = sorted(map(len, lines))
    if lengths[len(lengths) // 2] > 40 or lengths[int(len(lengths) * 0.95)] > 60:
        return False
    n = len(lines)
    words = sum(len(line.split()) for line in lines) / n
    indented = sum(line[0].isspace() for line in lines) / n
    sentences = sum(line.rstrip()[-1] in _SENTENCE_ENDS for line in lines) / n
    letters = sum(map(str.isalpha, "".join(lines))) / max(sum(lengths), 1)
    distinct = len(set(lines)) / n
    return (
        words <= 3.5
        and indented <= 0.02
        and sentences <= 0.05
        and letters >= (0.6 if words > 1 else 0.3)  # passwords have digits, measurements no letters
        and distinct >= 0.8
    )


_SENTENCE_ENDS = ".,;:!?{}()[]。，、；：？！…\"'”»"


# ----------------------------------------------------------------------------------- collections


def _is_collection(sample: memoryview, found: Lines) -> bool:
    """Return whether the text is many short pieces that do not continue each other."""
    starts, ends = paragraphs(sample)
    count = len(starts)
    if count < _LEAST_PIECES:
        return False
    lengths = ends - starts
    if np.median(lengths) > 1000 or np.quantile(lengths, 0.95) > 3000:
        return False
    bounds = zip(starts.tolist(), ends.tolist(), strict=True)
    pieces = [str(sample[start:end], "utf-8") for start, end in bounds]
    if _is_indented(pieces) or _is_script(pieces):  # code, manual pages, Markdown, plays
        return False
    if _sorted(pieces) >= LEAST_SORTED:
        return True
    return count >= _LEAST_UNSORTED and _cohesion(pieces[:_COMPARED]) < MOST_COHESION


def _is_indented(pieces: list[str]) -> bool:
    inner = [line for piece in pieces for line in _SOURCE.sub("", piece).split("\n") if line]
    return sum(line[0].isspace() for line in inner) > 0.2 * len(inner)


def _is_script(pieces: list[str]) -> bool:
    """Return whether headings or names of speakers show that the order of the pieces matters."""
    headings = sum(piece.startswith("#") for piece in pieces)
    speakers = sum(piece.partition("\n")[0].rstrip().endswith(":") for piece in pieces)
    return headings > 0.02 * len(pieces) or speakers > 0.5 * len(pieces)


# No running text has its paragraphs in alphabetical order.
LEAST_SORTED = 0.85
_LEAST_UNSORTED = 100  # pieces; fewer say too little about their words
_COMPARED = 4000
# Rare words shared by neighbors, relative to pieces far apart: about 1 in collections, 2 and more
# where a text goes on from piece to piece.
MOST_COHESION = 1.6


def _cohesion(pieces: list[str]) -> float:
    """Return how many more rare words neighboring pieces share than pieces far apart."""
    words = [_words(_inner(piece)) for piece in pieces]
    seen = Counter(word for piece in words for word in piece)
    rare = {word for word, times in seen.items() if 2 <= times <= max(2, 0.05 * len(pieces))}
    kept = [piece & rare for piece in words]
    n = len(kept)
    near = sum(_shared(kept[i], kept[i + 1]) for i in range(n - 1)) / (n - 1)
    distances = [n // 5, n // 3, n // 2, (2 * n) // 3]
    far = [_shared(kept[i], kept[(i + d) % n]) for d in distances for i in range(n)]
    expected = sum(far) / len(far)
    # One shared word in the whole text is not evidence.
    return (near + 1 / n) / (expected + 1 / n)


_FIRST_WORDS = re.compile(r"\W*(?:\w+\W+){0,3}")
_SOURCE = re.compile(r"(?m)^\s*(?:--|[—–―]).*\Z", re.DOTALL)


def _inner(piece: str) -> str:
    """Return a piece without its first words and its source: collections are sorted by them."""
    inner = _SOURCE.sub("", piece)
    return inner[_FIRST_WORDS.match(inner).end() :]  # type: ignore[union-attr]  # matches nothing


def _sorted(pieces: list[str]) -> float:
    """Return the share of neighbors that are in alphabetical order."""
    keys = [re.sub(r"\W+", " ", piece[:80]).strip().lower() for piece in pieces]
    return sum(a <= b for a, b in pairwise(keys)) / max(len(keys) - 1, 1)


def _shared(a: set[str], b: set[str]) -> float:
    """Return the number of common words, relative to what pieces of these sizes could share."""
    return len(a & b) / math.sqrt(max(len(a) * len(b), 1))


def _words(piece: str) -> set[str]:
    """Return the words of a piece; of scripts without spaces, the pairs of characters."""
    found = set(re.findall(r"\w+", piece.lower()))
    if sum(map(len, found)) > 12 * len(found):  # hardly any spaces
        found |= {piece[i : i + 2] for i in range(len(piece) - 1)}
    return found

"""How byte-pair encoding split a text: its words, and the merges of each in order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from nanochat.data.bpe import PATTERNS, BpeTokenizer

__all__ = ["merge_steps"]


def merge_steps(tokenizer: BpeTokenizer, text: str) -> list[dict[str, Any]]:
    """Return the words of a text, each with its tokens after every merge.

    A word starts as its bytes. Each step merges the leftmost of the adjacent pairs whose merged
    token was learned first. The last step's tokens are those of `encode`.
    """
    import regex  # type: ignore[import-untyped]  # tiktoken splits by it

    ids = {tokenizer.token(token): token for token in range(1, tokenizer.vocab_size)}
    words = []
    for word in regex.findall(PATTERNS[tokenizer.pattern], text):
        parts = [bytes([byte]) for byte in word.encode("utf-8")]
        steps = [[ids[part] for part in parts]]
        while len(parts) > 1:
            merged = [ids.get(a + b) for a, b in pairwise(parts)]
            known = [token for token in merged if token is not None]
            if not known:
                break
            place = merged.index(min(known))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            steps.append([ids[part] for part in parts])
        words.append({"word": word, "steps": steps})
    return words

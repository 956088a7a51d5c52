"""A tokenizer as the `tokenizer.json` that the library tokenizers reads (Hugging Face).

Every kind keeps its ids. A text with the name of the BOS token in it is split as any other text: by
this file alone, because the name is no added token, and in transformers by `split_special_tokens`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from nanochat.data.bpe import PATTERN, BpeTokenizer
from nanochat.data.tokenizer import BOS, ByteTokenizer, CharTokenizer, Tokenizer

__all__ = ["BOS_TEXT", "tokenizer_config", "tokenizer_json"]

BOS_TEXT = "<|bos|>"
_BOS_FIRST = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": BOS_TEXT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [
        {"SpecialToken": {"id": BOS_TEXT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": BOS_TEXT, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {BOS_TEXT: {"id": BOS_TEXT, "ids": [BOS], "tokens": [BOS_TEXT]}},
}  # fmt: skip


def tokenizer_json(tokenizer: Tokenizer, *, opens_with_bos: bool) -> dict[str, Any]:
    """Return the content of tokenizer.json. An encoded text begins with BOS if asked for."""
    if isinstance(tokenizer, CharTokenizer):
        parts = _of_characters(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        parts = _of_bytes([bytes([byte]) for byte in range(256)], [], None)
    else:
        assert isinstance(tokenizer, BpeTokenizer)
        tokens = [tokenizer.token(i) for i in range(1, tokenizer.vocab_size)]
        parts = _of_bytes(tokens, _merges(tokens), PATTERN)
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, **parts, "post_processor": _BOS_FIRST if opens_with_bos else None,
    }  # fmt: skip


def tokenizer_config(longest: int) -> dict[str, Any]:
    """Return the content of tokenizer_config.json for a model that reads `longest` tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TEXT,
        "eos_token": BOS_TEXT,
        "model_max_length": longest,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def _of_characters(tokenizer: CharTokenizer) -> dict[str, Any]:
    vocabulary = {BOS_TEXT: BOS}
    vocabulary |= {character: i for i, character in enumerate(tokenizer.characters, 1)}
    return {
        "pre_tokenizer": _split(r"[\s\S]"),
        # The vocabulary lacks the token for what is unknown, so an unknown character is an error.
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<|unknown|>"},
        "decoder": {"type": "Fuse"},
    }


def _of_bytes(
    tokens: list[bytes], merges: list[tuple[bytes, bytes]], pattern: str | None
) -> dict[str, Any]:
    """Return the parts for tokens of bytes with the ids 1, 2, …, merged within words."""
    to_bytes = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False,
    }  # fmt: skip
    steps = [to_bytes] if pattern is None else [_split(pattern), to_bytes]
    vocabulary = {BOS_TEXT: BOS} | {_text(token): i for i, token in enumerate(tokens, 1)}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": True, "vocab": vocabulary,
            "merges": [[_text(left), _text(right)] for left, right in merges],
        },
        "decoder": to_bytes,
    }  # fmt: skip


def _byte_characters() -> list[str]:
    """Return the printable character that stands for each byte (GPT-2, Radford et al. 2019)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        if byte not in found:
            found[byte] = chr(0x100 + len(found) - len(shown))
    return [found[byte] for byte in range(256)]


_CHARACTERS = _byte_characters()


def _text(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)


def _merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the two parts of each merged token: what the tokens before it make of its bytes."""
    ranks: dict[bytes, int] = {}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) > 1:
            left, right = _parts(token, ranks)
            merges.append((left, right))
        ranks[token] = rank
    return merges


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Return the bytes merged by rank, the lowest first, until no pair is a token."""
    parts = [bytes([byte]) for byte in token]
    while True:
        joined = [ranks.get(a + b) for a, b in pairwise(parts)]
        best = min((rank for rank in joined if rank is not None), default=None)
        if best is None:
            return parts
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]

"""A tokenizer as the `tokenizer.json` that the library tokenizers reads (Hugging Face).

Every kind keeps its ids. A text with the name of a special token in it is split as any other text:
by this file alone, because the name is not an added token, and in transformers by
`split_special_tokens`. With a chat template the names are added tokens, because programs look for
them in what the template returns. The template then splits the names that are in messages, and the
normalizer joins them again.
"""

from __future__ import annotations

from typing import Any

from nanochat.data.bpe import PATTERNS, BpeTokenizer
from nanochat.data.special_tokens import plain_tokenizer
from nanochat.data.tokenizer import BOS, CharTokenizer, Tokenizer
from nanochat.exporting.byte_level import BOS_TEXT, ByteLevel, byte_level, special_names
from nanochat.exporting.chat_template import SPLIT_NAME

__all__ = ["tokenizer_config", "tokenizer_json"]

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


def tokenizer_json(
    tokenizer: Tokenizer,
    *,
    opens_with_bos: bool,  # an encoded text begins with BOS
    with_chat_template: bool = False,  # whose special tokens are read
) -> dict[str, Any]:
    """Return the content of tokenizer.json."""
    plain = plain_tokenizer(tokenizer)
    if isinstance(plain, CharTokenizer):
        parts = _of_characters(plain, special_names(tokenizer))
    else:
        parts = _of_bytes(byte_level(tokenizer), plain)
    added: list[dict[str, Any]] = []
    normalizer = None
    if with_chat_template:
        first = plain.vocab_size
        names = {BOS: BOS_TEXT, **dict(enumerate(special_names(tokenizer), first))}
        added = [_added_token(token, name) for token, name in names.items()]
        name, split = SPLIT_NAME
        normalizer = {"type": "Replace", "pattern": {"String": split}, "content": name}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": normalizer, **parts,
        "post_processor": _BOS_FIRST if opens_with_bos else None,
    }  # fmt: skip


def _added_token(token: int, name: str) -> dict[str, Any]:
    return {
        "id": token, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip


def tokenizer_config(
    longest: int,  # tokens that the model reads
    end: str,  # name of the token that ends a text or a reply
    *,
    with_chat_template: bool,
) -> dict[str, Any]:
    """Return the content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TEXT,
        "eos_token": end,
        "model_max_length": longest,
        "split_special_tokens": not with_chat_template,
        "clean_up_tokenization_spaces": False,
    }


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def _of_characters(tokenizer: CharTokenizer, special: list[str]) -> dict[str, Any]:
    tokens = [BOS_TEXT, *tokenizer.characters, *special]
    vocabulary = {token: i for i, token in enumerate(tokens, BOS)}
    return {
        "pre_tokenizer": _split(r"[\s\S]"),
        # The vocabulary lacks the token for what is unknown, so an unknown character is an error.
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<|unknown|>"},
        "decoder": {"type": "Fuse"},
    }


def _of_bytes(of: ByteLevel, tokenizer: Tokenizer) -> dict[str, Any]:
    to_bytes = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False,
    }  # fmt: skip
    # A word that is the name of a special token would become that token: bytes have no such words.
    words = PATTERNS[tokenizer.pattern] if isinstance(tokenizer, BpeTokenizer) else r"[\s\S]"
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_split(words), to_bytes]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": True, "vocab": {token: i for i, token in enumerate(of.tokens)},
            "merges": of.merges,
        },
        "decoder": to_bytes,
    }  # fmt: skip

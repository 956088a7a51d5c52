"""Changes of a file's bytes that a reader must survive: of its text, its JSON values, its bits."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

__all__ = ["mutated"]

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -0.5, 1e300, float("nan"), float("inf"), 2**31, 2**53,
    2**63, 10**30, -(2**63), "", "a", "auto", "x" * 5000, "\ud800", "\0", "\x1b[2J", "../x", "/etc/passwd",
    "00ff" * 16, [], [1], [[]], {}, {"a": 1}, [0] * 3000, "scalar", "tensor", "bigram", "ngram",
    "mini-gpt", "char", "byte", "bpe", "float32", "bfloat16", "F64", "I64", "U32",
)  # fmt: skip
_KEYS = ("x", "step", "kind", "n_embd", "data", "sha256", "__metadata__", "wte", "format")
_PIECES = (
    b"\xef\xbb\xbf", b"\\u0000", b"\\ud800", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 500, b"NaN",
    b"-Infinity", b'"text":', b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0", b"\r\n", b"\n\n", b'""', b"'''",
    b"\xff\xfe", b"--", b"=", b"<p>", b"<!--", b"&#0;", b"&#x110000;", b"# x", b"\x1a", b"\xe2\x80\xa8",
)  # fmt: skip


def mutated(draw: random.Random, content: bytes) -> bytes:
    """Return changed content: of the JSON value or the safetensors header that it holds, if any,
    otherwise of bytes."""
    if draw.random() < 0.6:
        length = int.from_bytes(content[:8], "little")
        if 2 <= length <= len(content) - 8 and content[8:9] == b"{":
            header = _changed_json(draw, content[8 : 8 + length]) or _changed_bytes(
                draw, content[8 : 8 + length]
            )
            header += b" " * (-len(header) % 8)
            return len(header).to_bytes(8, "little") + header + content[8 + length :]
        lines = content.splitlines(keepends=True)
        whole = _changed_json(draw, content)
        if whole is None and lines:
            at = draw.randrange(len(lines))
            line = _changed_json(draw, lines[at])
            if line is not None:
                whole = b"".join([*lines[:at], line + b"\n", *lines[at + 1 :]])
        if whole is not None:
            return whole
    return _changed_bytes(draw, content)


def _changed_json(draw: random.Random, text: bytes) -> bytes | None:
    """Return the text with a few of its values changed; None if it is not a JSON container."""
    if text[:1] not in (b"{", b"["):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change(draw, record)
    return json.dumps(
        record, indent=draw.choice((None, 1)), ensure_ascii=draw.random() < 0.9
    ).encode(errors="surrogatepass")


def _change(draw: random.Random, container: Any) -> None:
    while isinstance(container, (dict, list)) and container:
        is_object = isinstance(container, dict)
        key = draw.choice(list(container)) if is_object else draw.randrange(len(container))
        if isinstance(container[key], (dict, list)) and container[key] and draw.random() < 0.7:
            container = container[key]
            continue
        action = draw.random()
        if action < 0.7:
            container[key] = copy.deepcopy(draw.choice(_VALUES))
        elif action < 0.8 and type(container[key]) in (int, float):
            container[key] += draw.choice((1, -1, 0.5, 10**6))
        elif action < 0.9:
            del container[key]
        elif is_object:
            container[draw.choice(_KEYS)] = copy.deepcopy(draw.choice(_VALUES))
        else:
            container.append(copy.deepcopy(draw.choice(_VALUES)))
        return


def _changed_bytes(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at, action = draw.randrange(len(changed) + 1), draw.random()
        if action < 0.3 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif action < 0.45 and at < len(changed):
            changed[at] = draw.randrange(256)
        elif action < 0.6:
            del changed[at : at + draw.randrange(1, 30)]
        elif action < 0.75:
            start = draw.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + draw.randrange(1, 60)]
        else:
            changed[at:at] = draw.choice(_PIECES)
    return bytes(changed)

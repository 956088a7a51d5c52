"""JSON without NaN and infinity, for all files and lines that programs read or write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["json_bytes", "parse_json", "strict_json"]

_MOST_DIGITS = 20  # of a whole number
_NOT_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


def strict_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """Return JSON with nan and inf as strings, as in metrics.jsonl: JSON has no such numbers."""
    plain = json.loads(json.dumps(record, default=str), parse_constant=_NOT_FINITE.__getitem__)
    return json.dumps(plain, allow_nan=False, indent=indent)


def json_bytes(value: Any) -> bytes:
    """Return the value as the files of a checkpoint hold it."""
    return json.dumps(value, indent=1).encode()


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raises ValueError, in words that can follow a name.

    Refuses what the format leaves open: a key that occurs twice, NaN and infinity, numbers of very
    many digits, and more levels than Python parses.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("must be text in UTF-8") from None
    try:
        return json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_no_constant, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"must be JSON, got another character at {place}") from None
    except RecursionError:
        raise ValueError("must not be nested so deeply") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"must have each key once, got {name!r:.60} twice")
            seen.add(name)
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"must hold finite numbers, got {name}")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"must hold whole numbers of at most {_MOST_DIGITS} digits")
    return int(digits)

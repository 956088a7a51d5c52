"""JSON without NaN and infinity, for every file and line that a program may read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["strict_json"]

_NOT_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


def strict_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON has no numbers for nan and inf: they become texts, as in metrics.jsonl."""
    plain = json.loads(json.dumps(record, default=str), parse_constant=_NOT_FINITE.__getitem__)
    return json.dumps(plain, allow_nan=False, indent=indent)

"""JSON without NaN and infinity, for all files and lines that programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["strict_json"]

_NOT_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


def strict_json(record: Mapping[str, Any], indent: int | None = None) -> str:
    """Return JSON with nan and inf as strings, as in metrics.jsonl: JSON has no such numbers."""
    plain = json.loads(json.dumps(record, default=str), parse_constant=_NOT_FINITE.__getitem__)
    return json.dumps(plain, allow_nan=False, indent=indent)

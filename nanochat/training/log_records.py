"""Reading `metrics.jsonl`, which a person may have edited: the records that a run can have written.

Owns what a record must have; metrics.py writes them. Imports no NumPy, because `nanochat runs` must
start at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.system.plain_files import plain_lines

__all__ = ["LogRecord", "figure", "log_records"]

LogRecord = Mapping[str, Any]

# By kind: the figures that a record must have, and those that it may have.
_FIGURES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "step": (("loss",), ("grad_norm", "lr")),
    "eval": (("val_loss",), ("val_bpb", "tokens", "elapsed_s")),
}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "null": None, None: None}
_MOST_STEP = 1 << 53


def log_records(path: Path, kind: str | None = None) -> Iterator[LogRecord]:
    """Yield the records of a log in order, of one kind or of all.

    A figure is a float, not always finite, or None. Lines that no run writes are left out. Raises
    OSError.
    """
    sign = None if kind is None else f'"kind":"{kind}"'.encode()
    for line in plain_lines(path):
        if sign is not None and sign not in line:  # most lines are of other kinds
            continue
        record = _record(line)
        if record is not None and kind in (None, record["kind"]):
            yield record


def _record(line: bytes) -> LogRecord | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in _FIGURES:
        return None
    step = record.get("step")
    if type(step) is not int or not 0 <= step < _MOST_STEP:
        return None
    required, others = _FIGURES[kind]
    try:
        figures = {name: _figure(record[name]) for name in required}
        figures |= {name: _figure(record[name]) for name in others if name in record}
    except (KeyError, TypeError, OverflowError):
        return None
    return {**record, **figures}


def _figure(value: Any) -> float | None:
    """Return a figure as the log writes it. Raises TypeError or OverflowError for another value."""
    if value is None or isinstance(value, str):
        if value not in _NOT_FINITE:
            raise TypeError(value)
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(value)
    return float(value)


def figure(value: Any) -> float | None:
    """Return a finite number of a record as a float, or None for anything else."""
    try:
        number = _figure(value)
    except (TypeError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None

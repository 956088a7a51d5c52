"""Records of results: where they are written, and the machine and versions that each one names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.system.environment import describe_environment

RESULTS = Path(__file__).resolve().parent / "results"


def write_result(name: str, record: Mapping[str, Any]) -> Path:
    """Write bench/results/<name>.json: the record, and the machine on which it was measured.

    `name` is FAMILY/NAME, as in `scalar/threads`.
    """
    return write_json(name, {**record, "environment": describe_environment(0)})


def read_result(name: str) -> dict[str, Any]:
    """Return the record of bench/results/<name>.json, or an empty one if there is none."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_json(name: str, record: Mapping[str, Any]) -> Path:
    """Write bench/results/<name>.json and return its path."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path

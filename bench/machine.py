"""The machine and versions that stand beside every figure, and where results are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.commands.environment import describe_environment

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, record: Mapping[str, Any]) -> Path:
    """bench/results/<name>.json: the record with the machine it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    environment = describe_environment(0)
    path.write_text(json.dumps({**record, "environment": environment}, indent=2) + "\n")
    return path

"""The machine and versions that each record names, and where records are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.system.environment import describe_environment

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, record: Mapping[str, Any]) -> Path:
    """Write bench/results/<name>.json: the record and the machine it was measured on.

    `name` is FAMILY/NAME, as in `scalar/threads`.
    """
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = describe_environment(0)
    path.write_text(json.dumps({**record, "environment": environment}, indent=2) + "\n")
    return path

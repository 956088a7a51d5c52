"""What the long forms of the experiments have tried: bench/results/faults/reliability.json."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.machine import read_result, write_result

RECORD = "faults/reliability"


def write_trials(experiment: str, counts: Mapping[str, int]) -> None:
    """Replace the counts of one experiment; several processes may test at once."""
    with open(Path(tempfile.gettempdir()) / "nanochat-reliability.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read_result(RECORD)
        record.pop("environment", None)
        write_result(RECORD, {**record, experiment: dict(counts)})

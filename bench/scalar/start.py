"""Whole processes, Python's start included: what a person waits for a small model.

    python -m bench.scalar.start

runs each command in turn in an empty folder, RUNS times, and prints the seconds on the clock and of
the processor, user and system: the best, and the median. Writes results/scalar/start.json.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from bench.machine import write_result

RUNS = 15
NANOCHAT = [sys.executable, "-c", "from nanochat.cli import main; raise SystemExit(main())"]
MICROGPT = [*NANOCHAT, "train", "--mode", "scalar", "--preset", "microgpt"]
COMMANDS = {
    "python, nothing": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "microgpt, 0 steps": [*MICROGPT, "--steps", "0"],
    "microgpt, 1,000 steps": [*MICROGPT, "--steps", "1000"],
    "nanochat train": [*NANOCHAT, "train"],
    "nanochat train --mode tensor": [*NANOCHAT, "train", "--mode", "tensor"],
}


def run_once(command: list[str]) -> tuple[float, float]:
    """(seconds on the clock, seconds of the processor)."""
    # What an installed package has beside it; without, each run would compile the sources anew.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
        clock_s = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return clock_s, processor_s


def main() -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        run_once(command)
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            times[name].append(run_once(command))
    record = {}
    for name, runs in times.items():
        clock, processor = zip(*runs, strict=True)
        record[name] = {
            "clock_best_s": min(clock), "clock_median_s": statistics.median(clock),
            "processor_best_s": min(processor), "processor_median_s": statistics.median(processor),
        }  # fmt: skip
        print(f"{name:28}", *(f"{key} {value:.3f}" for key, value in record[name].items()))
    print(write_result("scalar/start", {"runs": RUNS, "commands": record}))


if __name__ == "__main__":
    main()

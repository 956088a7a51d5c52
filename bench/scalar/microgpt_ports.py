"""Other programs that train microgpt, and our side of each race, run as processes in turn.

A peer is a command given as `--peer NAME=COMMAND`. It is built separately, by its own instructions,
and finds the corpus in its working folder as input.txt and as names.txt. Its printed times are its
figures. A peer that prints no time is timed as a whole process; bench/README.md says how to make a
training loop print `train seconds S`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.command import module_environment

STEPS = 1000  # of every peer and of our side


@dataclass(frozen=True)
class StepTime:
    """How to read the mean seconds per step from a program's output."""

    pattern: str  # the number is its first group
    scale: float  # seconds per step for a printed 1


_LOOP = StepTime(r"train seconds ([\d.]+)", 1.0 / STEPS)
_STEP = StepTime(r"Average step: ([\d.]+) us", 1e-6)
STEP_TIMES: dict[str, StepTime] = {
    "ours": _LOOP,
    "microgpt.cpp": _LOOP,
    "microgpt.cpp-double": _LOOP,
    "rust-microgpt": _LOOP,
    "eemicrogpt-16": _STEP,
    "eemicrogpt-32": _STEP,
    "eemicrogpt-64": _STEP,
}


@dataclass(frozen=True)
class Timing:
    """The times of one side's runs. A step is the mean over the steps of one run."""

    steps_timed_by: str  # "its output", or "whole process"
    step_us: list[float]  # one per run
    process_s: list[float]

    def record(self) -> dict[str, object]:
        summary = {
            "step_us_best": min(self.step_us),
            "step_us_median": statistics.median(self.step_us),
            "process_s_best": min(self.process_s),
            "process_s_median": statistics.median(self.process_s),
        }
        return {**summary, **asdict(self)}


def parse_named(flag: str, texts: list[str]) -> dict[str, str]:
    """Parse the `NAME=TEXT` arguments of a flag. Raises SystemExit for an unknown name."""
    named = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name == "ours" or name not in STEP_TIMES:
            names = ", ".join(peer for peer in STEP_TIMES if peer != "ours")
            raise SystemExit(f"{flag} must be NAME=TEXT with one of {names}, got {text!r}")
        named[name] = value
    return named


def race(commands: Mapping[str, str], names: Path, rounds: int) -> dict[str, Timing]:
    """Run every side once per round, in turn. Raises SystemExit when one fails."""
    runs: dict[str, list[tuple[float, float, str]]] = {side: [] for side in commands}
    with tempfile.TemporaryDirectory() as folder:
        for corpus in ("input.txt", "names.txt"):
            shutil.copy(names, Path(folder) / corpus)
        for _ in range(rounds):
            for side, command in commands.items():
                runs[side].append(_run(side, command, folder))
    return {
        side: Timing(
            steps_timed_by=done[0][2],
            step_us=[1e6 * step for step, _, _ in done],
            process_s=[process for _, process, _ in done],
        )
        for side, done in runs.items()
    }


def _run(side: str, command: str, folder: str) -> tuple[float, float, str]:
    """Return the seconds per step and per process, and the source of the former."""
    started = time.perf_counter()
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=module_environment(), capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{side}: {command} failed:\n{done.stderr[-2000:]}")
    found = re.search(STEP_TIMES[side].pattern, done.stdout)
    if found is None:
        return seconds / STEPS, seconds, "whole process"
    return float(found[1]) * STEP_TIMES[side].scale, seconds, "its output"

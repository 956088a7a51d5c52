"""Seconds of whole processes, including the start of Python: what a user waits for a small model.

    python -m bench.scalar.start [--runs 15] [--write]
    python -m bench.scalar.start --against COMMAND [--runs 15] [--write]
    python -m bench.scalar.start --microgpt-cpp COMMAND [--runs 15] [--write]

Runs each command in turn in an empty folder, RUNS times, and prints the wall-clock seconds and the
processor seconds (user and system): the best and the median. The commands are the installed
`nanochat`, an empty Python and the import of NumPy.

--against compares the installed `nanochat` with another one, for example of an earlier commit in
another environment. Both sides run each command in turn, in an order that alternates. Prints the
medians and their ratio (above 1: the installed one is faster) and the rates that training prints.

--microgpt-cpp compares `nanochat train --preset microgpt --steps 1000` with the whole process of
microgpt.cpp (bench/README.md has its source and build), which finds the same names in its folder as
input.txt. Prints the medians and our time divided by that of microgpt.cpp.

--write records the figures in results/scalar/start.json; those of a comparison go to its key
"against" or "microgpt.cpp" and leave the others as they are.
"""

from __future__ import annotations

import json
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.command import command_parser, environment_without_root, nanochat_command
from bench.machine import read_result, write_json, write_result
from nanochat import data
from nanochat.system.environment import describe_environment

RUNS = 15
RESULT = "scalar/start"
MICROGPT = ("train", "--mode", "scalar", "--preset", "microgpt")
COMMANDS = {
    "python, nothing": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
}
NANOCHAT_COMMANDS = {
    "microgpt, 0 steps": [*MICROGPT, "--steps", "0"],
    "microgpt, 1,000 steps": [*MICROGPT, "--steps", "1000"],
    "nanochat train": ["train"],
    "tensor engine, 20 steps": ["train", "--mode", "tensor", "--steps", "20"],
}
NAMES = Path(data.__path__[0]) / "corpora" / "names.txt"  # the text of preset microgpt
CPP = "microgpt.cpp"
COMPARISONS = ("against", CPP)  # keys of the record
COMPARED = (
    ("info",),
    ("train", "--help"),
    (*MICROGPT, "--steps", "1000", "--quiet"),
    ("train",),
    ("train", "--mode", "tensor", "--steps", "20"),
)


@dataclass(frozen=True)
class Run:
    """One process, from its start to its end."""

    clock_s: float
    processor_s: float  # user and system
    steps_per_s: float | None  # as printed by `nanochat train`


def run_once(command: Sequence[str], text: Path | None = None) -> Run:
    """Run a command in an empty folder, or in one that contains the text as input.txt.

    Raises SystemExit when it fails.
    """
    # Installed packages have compiled .pyc files; without them, each run would compile the sources.
    environment = environment_without_root()
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        if text is not None:
            shutil.copy(text, Path(folder) / "input.txt")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        clock_s = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}")
    rate = re.search(r"\bsteps_per_sec=([\d.]+)", done.stdout)
    processor_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(clock_s, processor_s, float(rate[1]) if rate else None)


def summary(runs: Sequence[Run]) -> dict[str, float]:
    clock = [run.clock_s for run in runs]
    processor = [run.processor_s for run in runs]
    return {
        "clock_best_s": min(clock), "clock_median_s": statistics.median(clock),
        "processor_best_s": min(processor), "processor_median_s": statistics.median(processor),
    }  # fmt: skip


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Run every command in turn and return the seconds of each."""
    ours = nanochat_command()
    commands = {**COMMANDS, **{name: [ours, *words] for name, words in NANOCHAT_COMMANDS.items()}}
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for command in commands.values():
        run_once(command)  # fills the caches
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(run_once(command))
    record = {name: summary(each) for name, each in runs.items()}
    for name, figures in record.items():
        print(f"{name:28}", *(f"{key} {value:.3f}" for key, value in figures.items()))
    return record


def compare(other: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run the installed command and another one in turn and return the seconds of both."""
    sides = {"installed": [nanochat_command()], "against": list(other)}
    record: dict[str, Any] = {
        "runs": rounds,
        "versions": {side: version_of(command) for side, command in sides.items()},
        "commands": {},
    }
    for words in COMPARED:
        runs: dict[str, list[Run]] = {side: [] for side in sides}
        for command in sides.values():
            run_once([*command, *words])  # fills the caches
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                runs[side].append(run_once([*sides[side], *words]))
        record["commands"][shlex.join(words)] = compared = comparison(runs)
        print(report_line(shlex.join(words), compared), flush=True)
    return record


def compare_with_cpp(peer: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run 1,000 steps of microgpt by both programs in turn and return the seconds of both."""
    ours = [nanochat_command(), *MICROGPT, "--steps", "1000"]
    sides: dict[str, tuple[list[str], Path | None]] = {
        "nanochat": (ours, None), CPP: ([str(Path(peer[0]).absolute()), *peer[1:]], NAMES)
    }  # fmt: skip
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for side in sides.values():
        run_once(*side)  # fills the caches
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(sides):
            runs[name].append(run_once(*sides[name]))
    record: dict[str, Any] = {
        "runs": rounds, "versions": version_of([nanochat_command()]),
        "commands": {name: summary(each) for name, each in runs.items()},
    }  # fmt: skip
    for name in ("clock", "processor"):
        ours_s, theirs_s = (found[f"{name}_median_s"] for found in record["commands"].values())
        record[f"{name}_ratio_of_medians"] = ours_s / theirs_s
        print(f"{name} seconds {ours_s:.3f} / {theirs_s:.3f} = {ours_s / theirs_s:.3f}")
    return record


def comparison(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return the figures of both sides. Ratios above 1: the installed side is faster."""
    installed, against = runs["installed"], runs["against"]
    record: dict[str, Any] = {side: summary(each) for side, each in runs.items()}
    for name in ("clock", "processor"):
        theirs, ours = (record[side][f"{name}_median_s"] for side in ("against", "installed"))
        record[f"{name}_ratio_of_medians"] = theirs / ours
    record["rounds_installed_is_faster"] = sum(
        ours.clock_s < theirs.clock_s for ours, theirs in zip(installed, against, strict=True)
    )
    rates = {
        side: [run.steps_per_s for run in each if run.steps_per_s is not None]
        for side, each in runs.items()
    }
    if all(rates.values()):
        medians = {side: statistics.median(each) for side, each in rates.items()}
        record["steps_per_s_medians"] = medians
        record["steps_per_s_ratio_of_medians"] = medians["installed"] / medians["against"]
    return record


def report_line(name: str, compared: Mapping[str, Any]) -> str:
    theirs, ours = (compared[side]["clock_median_s"] for side in ("against", "installed"))
    text = f"{name:52} {theirs:.3f} / {ours:.3f} s = {compared['clock_ratio_of_medians']:.3f}"
    text += f", processor {compared['processor_ratio_of_medians']:.3f}"
    if "steps_per_s_ratio_of_medians" in compared:
        text += f", steps per second {compared['steps_per_s_ratio_of_medians']:.3f}"
    return text


def version_of(command: Sequence[str]) -> dict[str, Any]:
    """Return the versions that `nanochat info` reports, without local paths."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "info", "--json"], cwd=folder, env=environment_without_root(),
            capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} info failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    return {name: found.get(name) for name in ("nanochat", "git_revision", "python", "packages")}


def main() -> None:
    parser = command_parser(__doc__)
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--against", metavar="COMMAND", help="another nanochat executable")
    peers.add_argument("--microgpt-cpp", metavar="COMMAND", help="microgpt.cpp, compiled")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each command")
    parser.add_argument("--write", action="store_true", help="record the figures")
    options = parser.parse_args()
    if options.against is None and options.microgpt_cpp is None:
        record: dict[str, Any] = {"runs": options.runs, "commands": measure(options.runs)}
        if options.write:
            kept = {k: v for k, v in read_result(RESULT).items() if k in COMPARISONS}
            print(write_result(RESULT, {**record, **kept}))
        return
    if options.microgpt_cpp is not None:
        key, found = CPP, compare_with_cpp(shlex.split(options.microgpt_cpp), options.runs)
    else:
        key, found = "against", compare(shlex.split(options.against), options.runs)
    if options.write:
        found["environment"] = describe_environment(0)
        print(write_json(RESULT, {**read_result(RESULT), key: found}))


if __name__ == "__main__":
    main()

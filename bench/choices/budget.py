"""Whether whole processes end within `--time-budget`, from their start to their exit.

    python -m bench.choices.budget [--budgets 5 30 120 600] [--data TEXT …] [--rounds 3] [--quick]

Cases: a quiet machine; the first run after installation, with empty folders in place of HOME
and of the caches of numba and torch; a second process that computes on half of the
cores from half of the budget on. Each process is timed from outside. Prints and writes to
results/choices/budget.json the seconds and the ratio to the budget, the steps, the seconds of
training alone, and whether the schedule reached its end. A run holds its budget between
0.9 and 1.1 of it, or ends earlier because its text needs no more, and says so. The record keeps the
earlier runs of other budgets, texts and cases. --quick runs the first budget once per case and
writes nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.command import command_parser, environment_without_root, nanochat_command
from bench.machine import read_result, write_result

RECORD = "choices/budget"
CASES = ("quiet", "cold", "shared")
EARLIEST, LATEST = 0.9, 1.1  # of the budget
CACHES = ("HOME", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")


def _compute() -> None:
    while True:
        pass


@contextmanager
def half_the_cores_taken(after_s: float) -> Iterator[None]:
    """Take half of the cores from `after_s` on, until the block ends."""
    cores = max((os.cpu_count() or 2) // 2, 1)
    done, workers = threading.Event(), []

    def take() -> None:
        if not done.wait(after_s):
            for _ in range(cores):
                worker = multiprocessing.get_context("spawn").Process(target=_compute, daemon=True)
                worker.start()
                workers.append(worker)

    taker = threading.Thread(target=take)
    taker.start()
    try:
        yield
    finally:
        done.set()
        taker.join()
        for worker in workers:
            worker.kill()
            worker.join()


@contextmanager
def environment_of(case: str) -> Iterator[dict[str, str]]:
    """Yield the environment of a case; a cold one has caches that are empty folders."""
    environment = environment_without_root()
    with tempfile.TemporaryDirectory() as caches:
        if case == "cold":
            environment.pop("NCLAB_CACHE", None)  # without it, the cache is below HOME
            for name in CACHES:
                folder = Path(caches, name)
                folder.mkdir()
                environment[name] = str(folder)
        yield environment


def run(case: str, text: str, budget_s: int, folder: Path) -> dict[str, Any]:
    """Train within a budget in one process; return its figures."""
    words = ["train", "--data", text, "--time-budget", f"{budget_s}s", "--out", str(folder)]
    with environment_of(case) as environment:
        began = time.perf_counter()
        process = subprocess.Popen(
            [nanochat_command(), *words], cwd=folder.parent, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if case == "shared":
            with half_the_cores_taken(budget_s / 2):
                _, errors = process.communicate()
        else:
            _, errors = process.communicate()
        clock_s = time.perf_counter() - began
    record: dict[str, Any] = {
        "case": case, "data": text, "budget_s": budget_s, "clock_s": clock_s,
        "ratio": clock_s / budget_s, "holds": EARLIEST <= clock_s / budget_s <= LATEST,
    }  # fmt: skip
    if process.returncode:
        return {**record, "holds": False, "error": errors.strip().splitlines()[-1]}
    result = json.loads((folder / "result.json").read_text())
    points = re.search(r'schedule_points = "(.*)"', (folder / "config.toml").read_text())
    training_s = result["steps"] / result["steps_per_sec"] if result["steps_per_sec"] else 0.0
    ended = "readings of the text" in errors
    if ended and clock_s <= LATEST * budget_s:
        record["holds"] = True
    return {
        **record, "steps": result["steps"], "val_bpb": result["val_bpb"],
        "training_s": training_s,
        "schedule_ended": points is not None and points[1].endswith(":1"),
        "ended_by_the_text": ended,
    }  # fmt: skip


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--budgets", type=int, nargs="+", default=[5, 30, 120, 600])
    parser.add_argument("--data", nargs="+", default=["names", "shakespeare"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the first budget; writes nothing")
    options = parser.parse_args()
    budgets = options.budgets[:1] if options.quick else options.budgets
    texts = options.data[:1] if options.quick else options.data
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(1 if options.quick else options.rounds):
            for budget_s in budgets:
                for text in texts:
                    for case in options.cases:
                        done = run(case, text, budget_s, Path(name, f"{len(runs)}"))
                        runs.append({**done, "round": number})
                        print(_line(runs[-1]), flush=True)
    print(f"{sum(done['holds'] for done in runs)} of {len(runs)} runs hold their budget")
    if not options.quick:
        measured = {_what(done) for done in runs}
        earlier = read_result(RECORD).get("runs", [])
        kept = [done for done in earlier if _what(done) not in measured]
        print(write_result(RECORD, {"runs": [*kept, *runs]}))


def _what(done: dict[str, Any]) -> tuple[str, str, int]:
    return done["case"], done["data"], done["budget_s"]


def _line(done: dict[str, Any]) -> str:
    line = (
        f"{done['case']:6} {done['data']:12} {done['budget_s']:4} s: {done['clock_s']:.2f} s,"
        f" {done['ratio'] - 1:+.1%}"
    )
    if "error" in done:
        return f"{line}  {done['error']}"
    return f"{line}, {done['steps']:,} steps in {done['training_s']:.1f} s"


if __name__ == "__main__":
    main()

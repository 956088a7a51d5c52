"""Our cross-entropy, linear cross-entropy and sampling kernels compared with torch and the limits.

    python -m bench.kernels [--rounds N] [--threads N] [--cases NAME…] [--device cpu|cuda]
    python -m bench.kernels --quick    under a minute: fewer rows, no torch.compile, writes nothing
    python -m bench.kernels --docs     no measurement: the plots and the table of docs/kernels.md

All contestants of a case run in turn, round by round, in one run. There is one worker process per
environment, which keeps its contestants set up: the default environment, and glibc's allocator on
huge pages, which only torch needs. Forward and backward are timed together; clearing .grad and
restoring logits after an in-place run are not timed. Before the timing, our loss is compared with
torch's, and our draw with its specification. Short cases run several times per round. A whole run
takes about ten minutes.

Writes results/kernels/kernels.csv, kernels.json and kernels.png (kernels_cuda.… with --device
cuda). --cases takes parts of names; the other cases keep their figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import nanochat.tensor  # noqa: F401  # sets OpenMP's spinning, for all workers alike
from bench.command import ROOT, command_parser, module_command, module_environment
from bench.kernels.cases import CPU_CASES, CUDA_CASES, MACHINE, Case, quick
from bench.kernels.report import Report, csv_rows, print_table, write_csv
from bench.machine import RESULTS, write_result

CASES = {"cpu": CPU_CASES, "cuda": CUDA_CASES}
NAMES = {"cpu": "kernels", "cuda": "kernels_cuda"}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
BATCH_S = 0.05  # of runs per contestant and round
MOST_RUNS = 200  # per contestant and round


class Worker:
    """A process that holds contestants (worker.py), started with its environment variables."""

    def __init__(self, device: str, threads: int, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            module_command("bench.kernels.worker", device, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=module_environment(OMP_NUM_THREADS=str(threads), **environment),
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with {self._process.wait()} during {do!r}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise SystemExit(f"a worker failed during {do!r} {arguments}:\n{reply['error']}")
        return reply

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def start_workers(device: str, threads: int) -> dict[str, Worker]:
    """Return the workers by the suffix of their contestants' names. The first has all roles."""
    workers = {"": Worker(device, threads, {})}
    if device == "cpu" and sys.platform == "linux":
        workers[", huge pages"] = Worker(device, threads, HUGE_PAGES)
    return workers


def measure(
    case: Case, workers: dict[str, Worker], rounds: int, compiles: bool, batch_s: float
) -> dict[str, Any]:
    """Return the seconds of every run of every contestant of a case, by name."""
    turns: list[tuple[str, Worker, str, int]] = []
    contestants: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for suffix, worker in workers.items():
        if suffix and case.kind == "machine":
            continue
        roles = ["peer"] if suffix else ["limit", "ours", "peer"]
        opened = worker.ask("open", case=case.as_json(), roles=roles, compiles=compiles)
        missing.update(opened["missing"])
        for each in opened["contestants"]:
            name = each["name"] + suffix
            runs = max(1, min(MOST_RUNS, int(batch_s / max(each["seconds"], 1e-9))))
            turns.append((name, worker, each["name"], runs))
            contestants[name] = {"role": each["role"], "seconds": []}
    for round_number in range(rounds):
        for name, worker, known_as, runs in turns if round_number % 2 == 0 else turns[::-1]:
            # The first of several runs starts with the caches of another contestant.
            extra = 1 if runs > 1 else 0
            seconds = worker.ask("run", name=known_as, count=runs + extra)["seconds"]
            contestants[name]["seconds"].append(seconds[extra:])
    for suffix, worker in workers.items():
        if not (suffix and case.kind == "machine"):
            worker.ask("close")
    return {"case": case.as_json(), "contestants": contestants, "missing": missing}


def chosen(device: str, names: Sequence[str]) -> list[Case]:
    cases = [case for case in CASES[device] if not names or any(n in case.name for n in names)]
    if not cases:
        known = "\n  ".join(case.name for case in CASES[device])
        raise SystemExit(f"--cases must be parts of names, got {' '.join(names)}:\n  {known}")
    return cases


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (3 if options.quick else 7)
    compiles, batch_s = not options.quick, BATCH_S / (5 if options.quick else 1)
    cases = [*MACHINE[options.device], *chosen(options.device, options.cases)]
    if options.quick:
        cases = [quick(case) for case in cases]
        print("quick: fewer rows in large cases, no torch.compile, nothing is written")
    workers = start_workers(options.device, options.threads)
    versions = {suffix or "default": each.ask("versions") for suffix, each in workers.items()}
    report = Report({"rounds": rounds, "versions": versions, "cases": {}})
    for case in cases:
        started = time.perf_counter()
        report.add(case, measure(case, workers, rounds, compiles, batch_s))
        print(f"{case.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    for worker in workers.values():
        worker.end()
    return report


def draw(report: Report, device: str) -> None:
    from bench.kernels.plots import plot_cases, plot_roofline  # matplotlib

    plot_cases(report, RESULTS / "kernels" / f"{NAMES[device]}.png")
    if device == "cpu":
        docs = ROOT / "docs"
        plot_roofline(report, docs / "kernels-roofline.png")
        report.fill_table(docs / "kernels.md")


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="default: 7, or 3 with --quick")
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    name = NAMES[options.device]
    record = RESULTS / "kernels" / f"{name}.json"
    if options.docs:
        draw(Report(json.loads(record.read_text())), options.device)
        return
    report = run(options)
    print_table(report)
    if options.quick:
        return
    if options.cases and record.exists():
        report.keep_others_of(Report(json.loads(record.read_text())))
    print(write_result(f"kernels/{name}", report.record))
    print(write_csv(RESULTS / "kernels" / f"{name}.csv", csv_rows(report)))
    draw(report, options.device)


if __name__ == "__main__":
    main()

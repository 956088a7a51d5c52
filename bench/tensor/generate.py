"""Tokens a second with a cache, beside nanoGPT (which has none) and nanochat, in turn, in one run.

    python -m bench.tensor.generate [--nanogpt CHECKOUT] [--nanochat CHECKOUT] [--rounds N]

Models of nanoGPT's CPU recipe (4 layers, 4 heads, 128, context 64, vocabulary 65) with random
weights, float32: ours by nck_decode and by calls of torch, nanoGPT's own `generate`, which has no
cache, and the `Engine` of karpathy/nanochat, whose model has a little more (value embeddings,
smear, vocabulary padded to 128). Each is a process of its own that draws 63 tokens from a prompt
of one at temperature 1, through its own sampling loop: the text fits the context. Writes
results/tensor/generate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.machine import write_result

WORKER = Path(__file__).parent / "generate_worker.py"
BATCHES = (1, 64)
TOKENS = 63


class Side:
    """A worker and what it has measured."""

    def __init__(self, name: str, python: str, threads: int, checkout: Path | None) -> None:
        command = [python, str(WORKER), name, str(threads)]
        if checkout is not None:
            command.append(str(checkout))
        # Without PYTHONPATH, which could put this package before a checkout of the same name.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment if checkout is not None else None,
        )  # fmt: skip
        self.name = name
        self.versions: dict[str, str] = self._answer()
        if checkout is not None:
            self.versions["commit"] = commit_of(checkout)
        self.seconds: dict[int, list[float]] = {rows: [] for rows in BATCHES}

    def _answer(self) -> Any:
        assert self._process.stdout is not None  # opened above
        for line in self._process.stdout:
            try:
                return json.loads(line)
            except ValueError:
                continue  # what the peer itself prints
        raise SystemExit(f"{self.name} ended without an answer")

    def time(self, rows: int, seconds: float) -> float:
        assert self._process.stdin is not None  # opened above
        print(json.dumps({"rows": rows, "tokens": TOKENS, "seconds": seconds}),
              file=self._process.stdin, flush=True)  # fmt: skip
        return float(self._answer())

    def end(self) -> None:
        assert self._process.stdin is not None  # opened above
        self._process.stdin.close()
        self._process.wait()


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def measure(sides: list[Side], rounds: int, seconds: float) -> None:
    for rows in BATCHES:
        for side in sides:
            side.time(rows, 0.1)  # warm
        for _ in range(rounds):
            for side in sides:
                side.seconds[rows].append(side.time(rows, seconds))


def summary(sides: list[Side]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for rows in BATCHES:
        ours = statistics.median(sides[0].seconds[rows])
        result[str(rows)] = {}
        for side in sides:
            median, best = statistics.median(side.seconds[rows]), min(side.seconds[rows])
            result[str(rows)][side.name] = {
                "tokens_per_s": rows * TOKENS / median,
                "best_tokens_per_s": rows * TOKENS / best,
                "us_per_step": 1e6 * median / TOKENS,
                "native_is_faster": median / ours,
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="checkout of karpathy/nanochat")
    parser.add_argument("--nanochat-python", default=sys.executable, help="its interpreter")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in each round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    wanted = [(name, sys.executable, None) for name in ("native", "calls", "native-bfloat16")]
    if options.nanogpt:
        wanted.append(("nanoGPT", sys.executable, options.nanogpt))
    if options.nanochat:
        wanted.append(("nanochat", options.nanochat_python, options.nanochat))
    sides = [Side(name, python, options.threads, path) for name, python, path in wanted]
    measure(sides, options.rounds, options.seconds)
    for side in sides:
        side.end()
    figures = summary(sides)
    print(f"{'batch':>5} {'side':16} {'tokens/s':>10} {'best':>10} {'µs a step':>10} {'ratio':>6}")
    for rows, by_side in figures.items():
        for name, figure in by_side.items():
            print(f"{rows:>5} {name:16} {figure['tokens_per_s']:10.0f}"
                  f" {figure['best_tokens_per_s']:10.0f} {figure['us_per_step']:10.1f}"
                  f" {figure['native_is_faster']:6.2f}")  # fmt: skip
    record = {
        "tokens": TOKENS, "rounds": options.rounds, "threads": options.threads,
        "versions": {side.name: side.versions for side in sides}, "batches": figures,
        "seconds": {side.name: side.seconds for side in sides},
    }  # fmt: skip
    print(write_result("tensor/generate", record))


if __name__ == "__main__":
    main()

"""Tokens per second of generation, compared with nanoGPT and karpathy/nanochat, in one run.

    python -m bench.tensor.generate [--text FILE] [--nanogpt CHECKOUT] [--nanochat CHECKOUT]

The models have the shape of nanoGPT's CPU recipe (4 layers, 4 heads, hidden size 128, context 64,
vocabulary 65) and random weights. The sides are ours by nck_decode in float32 and bfloat16, ours by
calls of torch, nanoGPT's `generate`, which has no cache, and the `Engine` of karpathy/nanochat,
whose model has a little more (value embeddings, smear, vocabulary padded to 128). With --text, two
more sides of ours mix the network with the n-grams of order 9 of that text's characters. Each side
is a separate process that draws 63 tokens from a prompt of one token at temperature 1, through its
own sampling loop; the text fits the context. The sides run in turn. Writes
results/tensor/generate.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.command import command_parser, module_command, module_environment
from bench.machine import write_result

BATCHES = (1, 64)
TOKENS = 63


class Side:
    """A worker process and its measured times."""

    def __init__(
        self, name: str, threads: int, python: str = sys.executable, *,
        text: Path | None = None, checkout: Path | None = None,
    ) -> None:  # fmt: skip
        words = [name, threads, *(path.resolve() for path in (text, checkout) if path)]
        self._process = subprocess.Popen(
            module_command("bench.tensor.generate_worker", *words, python=python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=module_environment(),
        )
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
                continue  # a line that the peer itself prints
        raise SystemExit(f"the worker of {self.name} ended without an answer")

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
            side.time(rows, 0.1)  # fills caches
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
    parser = command_parser(__doc__)
    parser.add_argument("--text", type=Path, help="text whose n-grams are mixed in")
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="checkout of karpathy/nanochat")
    parser.add_argument(
        "--nanochat-python", default=sys.executable, help="interpreter for --nanochat"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="per side and round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    threads = options.threads
    sides = [Side(name, threads) for name in ("native", "native-bfloat16", "calls")]
    if options.text:
        names = ("counts", "counts-bfloat16")
        sides += [Side(name, threads, text=options.text) for name in names]
    if options.nanogpt:
        sides.append(Side("nanoGPT", threads, checkout=options.nanogpt))
    if options.nanochat:
        python = options.nanochat_python
        sides.append(Side("nanochat", threads, python, checkout=options.nanochat))
    measure(sides, options.rounds, options.seconds)
    for side in sides:
        side.end()
    figures = summary(sides)
    print(f"{'batch':>5} {'side':16} {'tokens/s':>10} {'best':>10} {'µs/step':>10} {'ratio':>6}")
    for rows, by_side in figures.items():
        for name, figure in by_side.items():
            print(f"{rows:>5} {name:16} {figure['tokens_per_s']:10.0f}"
                  f" {figure['best_tokens_per_s']:10.0f} {figure['us_per_step']:10.1f}"
                  f" {figure['native_is_faster']:6.2f}")  # fmt: skip
    record = {
        "tokens": TOKENS, "rounds": options.rounds, "threads": threads,
        "text": options.text.name if options.text else None,
        "versions": {side.name: side.versions for side in sides}, "batches": figures,
        "seconds": {side.name: side.seconds for side in sides},
    }  # fmt: skip
    print(write_result("tensor/generate", record))


if __name__ == "__main__":
    main()
